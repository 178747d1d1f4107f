//! Takes something out of a stream.

mod core_file;
mod layout;
mod registers;

pub(crate) use core_file::write_core;

use crate::contents::{Contents, RamFile};
use crate::error::Error;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;

/// What is copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// Where RAM goes to: a file, which keeps its holes, or something that is written through.
pub(crate) trait Sink: Write {
    /// Writes that many zeros.
    fn zeros(&mut self, bytes: u64) -> io::Result<()>;

    /// Nothing more comes.
    fn finish(&mut self) -> io::Result<()>;
}

/// A file, new or emptied.
pub(crate) struct SparseFile {
    file: std::fs::File,
    length: u64,
}

impl SparseFile {
    pub(crate) fn new(file: std::fs::File) -> Self {
        Self { file, length: 0 }
    }
}

impl Write for SparseFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for SparseFile {
    fn zeros(&mut self, bytes: u64) -> io::Result<()> {
        self.length += bytes;
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()
    }
}

/// Anything that can be written.
pub(crate) struct Through<W>(pub(crate) W);

impl<W: Write> Write for Through<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Sink for Through<W> {
    fn zeros(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut self.0).map(|_| ())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Copies a range of a block.
pub(crate) fn copy_range(
    ram: &RamFile,
    page_size: u32,
    block: usize,
    range: Range<u64>,
    out: &mut dyn Sink,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let page_size = u64::from(page_size.max(1));
    let mut at = range.start;
    while at < range.end {
        let bytes = (range.end - at).min(PIECE_BYTES as u64);
        let mut pages = at / page_size..(at + bytes).div_ceil(page_size);
        if pages.any(|page| ram.holds(block, page)) {
            let piece = &mut piece[..usize::try_from(bytes).unwrap_or(0)];
            ram.read(block, at, piece).map_err(Error::io("reading RAM"))?;
            out.write_all(piece).map_err(Error::output)?;
        } else {
            out.zeros(bytes).map_err(Error::output)?;
        }
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
        Error::Usage(format!("{}: no block \"{name}\"; there are {}", contents.name, names.join(", ")))
    })
}
