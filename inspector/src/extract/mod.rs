//! Takes something out of a stream.

mod affinity;
mod board;
mod core_file;
mod devices;
mod elf;
mod guest_note;
mod layout;
mod machine;
mod mappings;
mod names;
mod notes;
mod numa;
mod paging;
mod physical;
mod placement;
mod processor;
mod segment;
mod shadow;

pub(crate) use affinity::TABLES_BLOCK as ACPI_TABLES;
pub(crate) use board::Board;
pub(crate) use core_file::{Addresses, Core};
pub(crate) use machine::{Memory, memory};
pub(crate) use names::listed;
pub(crate) use placement::Placement;

use crate::contents::{Contents, RamFile};
use crate::error::Error;
use crate::progress::Meter;
use crate::sink::Sink;
use crate::size::to_usize;
use std::ops::Range;

/// What is copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// Copies a range of a block.
pub(crate) fn copy_range(
    ram: &RamFile,
    block: usize,
    range: Range<u64>,
    out: &mut dyn Sink,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut meter = Meter::new("writing");
    let mut at = range.start;
    while at < range.end {
        meter.at(at - range.start, Some(range.end - range.start));
        let data = ram.next_data(block, at).map_err(Error::io("reading RAM"))?;
        let data = data.unwrap_or(range.end).min(range.end);
        out.put_zeros(data - at)?;
        at = data;
        let bytes = (range.end - at).min(PIECE_BYTES as u64);
        let piece = &mut piece[..to_usize(bytes)];
        ram.read(block, at, piece).map_err(Error::io("reading RAM"))?;
        out.put(piece)?;
        at += bytes;
    }
    Ok(())
}

/// Index of a block by its name, as it is or escaped.
pub(crate) fn find_block(contents: &Contents, name: &str) -> Result<usize, Error> {
    let found = contents
        .blocks
        .iter()
        .position(|block| block.idstr == name.as_bytes() || crate::escape::terminal(&block.idstr) == name);
    found.ok_or_else(|| {
        let names: Vec<_> =
            contents.blocks.iter().map(|block| crate::escape::terminal(&block.idstr)).collect();
        let name = crate::escape::terminal(name.as_bytes());
        Error::Usage(format!("{}: no block \"{name}\"; there are {}", contents.name, names::listed(&names)))
    })
}
