//! Writes a mapped-ram file: pages at fixed places, a bitmap of those that are there.

use super::Parts;
use crate::error::Error;
use crate::pages::is_zero;
use crate::progress::Meter;
use crate::size::to_usize;
use crate::walk::MAPPED_BLOCK_LIMIT as BLOCK_LIMIT;
use migration_stream::ram::RAM_SAVE_FLAG_MEM_SIZE;
use migration_stream::ram::mapped::{MappedBlock, MappedPlace, place, put_entry};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What is copied at once.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes of a bitmap that are written at once.
const PART_BYTES: usize = 4096;
/// A bitmap of more than that is refused: 16 TiB in pages of 4 KiB.
const BITMAP_LIMIT_BYTES: u64 = 512 << 20;

/// Writes the file, which is empty and has this name.
pub(crate) fn write_mapped(parts: &Parts, file: &File, name: &str) -> Result<(), Error> {
    if parts.configuration.is_none() {
        let why = "mapped-ram needs a configuration section, and this stream has none";
        return Err(Error::Usage(why.to_owned()));
    }
    let write = |bytes: &[u8], at: u64| file.write_all_at(bytes, at).map_err(Error::io(name));
    if parts.blocks.len() > BLOCK_LIMIT {
        let why = format!(
            "{} RAM blocks: a mapped-ram file with more than {BLOCK_LIMIT} is not read",
            parts.blocks.len()
        );
        return Err(Error::Usage(why));
    }
    let mut head = parts.leader(true);
    let total = parts.ram_bytes();
    head.extend_from_slice(&(total | RAM_SAVE_FLAG_MEM_SIZE).to_be_bytes());
    write(&head, 0)?;
    let mut at = head.len() as u64;
    for (number, block) in parts.blocks.iter().enumerate() {
        let placed = if parts.is_here(number) {
            place(block, at, parts.page_size)
        } else {
            MappedBlock { block: block.clone(), place: None }
        };
        if placed.place.is_some_and(|place| place.bitmap_bytes > BITMAP_LIMIT_BYTES) {
            return Err(Error::Usage("a block of more than 16 TiB".to_owned()));
        }
        let mut entry = Vec::new();
        put_entry(&mut entry, &placed, parts.page_size);
        write(&entry, at)?;
        if let Some(place) = placed.place {
            pages(parts, number, place, file, name)?;
        }
        at = placed.end(at + entry.len() as u64);
    }
    let mut rest = Vec::new();
    parts.end_of_section(&mut rest);
    rest.extend_from_slice(&parts.others_start);
    rest.extend_from_slice(&parts.behind_ram());
    write(&rest, at)
}

/// Writes the pages of a block that are not zero to their places, and the parts of the bitmap in
/// which they are marked: the rest of the file is a hole, which reads as zeros.
fn pages(parts: &Parts, number: usize, place: MappedPlace, file: &File, name: &str) -> Result<(), Error> {
    let page_size = u64::from(parts.page_size);
    let length = parts.blocks[number].used_length;
    let Some(ram) = &parts.ram else { return Ok(()) };
    let mut bitmap = BitmapPart { file, name, at: place.bitmap_offset, number: 0, bits: [0; PART_BYTES] };
    let mut piece = vec![0; PIECE_BYTES];
    let (mut meter, total) = (Meter::new("writing"), parts.ram_bytes());
    let before: u64 = parts.blocks[..number].iter().map(|block| block.used_length).sum();
    let mut from = 0;
    while let Some(at) = ram.next_data(number, from).map_err(Error::io("reading RAM"))? {
        let bytes = piece.len().min(to_usize(length - at));
        let piece = &mut piece[..bytes];
        ram.read(number, at, piece).map_err(Error::io("reading RAM"))?;
        for (index, page) in (0..).zip(piece.chunks_exact(parts.page_size as usize)) {
            if !is_zero(page) {
                let page_number = at / page_size + index;
                bitmap.mark(page_number)?;
                let at = place.pages_offset + page_number * page_size;
                file.write_all_at(page, at).map_err(Error::io(name))?;
            }
        }
        from = at + bytes as u64;
        meter.at(before + from, Some(total));
    }
    bitmap.write()
}

/// The part of a bitmap in which pages are being marked.
struct BitmapPart<'a> {
    file: &'a File,
    name: &'a str,
    /// Where the bitmap begins in the file.
    at: u64,
    /// The number of the part.
    number: u64,
    bits: [u8; PART_BYTES],
}

impl BitmapPart<'_> {
    /// Marks a page; pages are marked in ascending order.
    fn mark(&mut self, page: u64) -> Result<(), Error> {
        const PART_PAGES: u64 = 8 * PART_BYTES as u64;
        if page / PART_PAGES != self.number {
            self.write()?;
            self.bits.fill(0);
            self.number = page / PART_PAGES;
        }
        let at = page % PART_PAGES;
        self.bits[to_usize(at / 8)] |= 1 << (at % 8);
        Ok(())
    }

    /// Writes what is marked of the part: up to its last page, since the last part of a bitmap may
    /// be shorter.
    fn write(&self) -> Result<(), Error> {
        let used = self.bits.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let at = self.at + self.number * PART_BYTES as u64;
        self.file.write_all_at(&self.bits[..used], at).map_err(Error::io(self.name))
    }
}
