//! Writes a mapped-ram file: pages at fixed places, a bitmap of those that are there.

use super::Parts;
use crate::error::Error;
use crate::stat::is_zero;
use crate::walk::MAPPED_BLOCK_LIMIT as BLOCK_LIMIT;
use migration_stream::ram::RAM_SAVE_FLAG_MEM_SIZE;
use migration_stream::ram::mapped::{MappedBlock, place, put_entry};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What is copied at once.
const PIECE_BYTES: u64 = 1 << 20;
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
    let total: u64 = parts.blocks.iter().map(|block| block.used_length).sum();
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
            let bitmap = pages(parts, number, place.pages_offset, file, name)?;
            write(&bitmap, place.bitmap_offset)?;
        }
        at = placed.end(at + entry.len() as u64);
    }
    let mut rest = Vec::new();
    parts.end_of_section(&mut rest);
    rest.extend_from_slice(&parts.others_start);
    rest.extend_from_slice(&parts.behind_ram());
    write(&rest, at)
}

/// Copies the pages of a block to their places; returns the bitmap of those that are not zero.
fn pages(parts: &Parts, number: usize, pages_offset: u64, file: &File, name: &str) -> Result<Vec<u8>, Error> {
    let page_size = u64::from(parts.page_size);
    let length = parts.blocks[number].used_length;
    let bytes = (length / page_size).div_ceil(64) * 8;
    let mut bitmap = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let Some(ram) = &parts.ram else { return Ok(bitmap) };
    let mut piece = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(0)];
    let mut from = 0;
    while let Some(at) = ram.next_data(number, from).map_err(Error::io("reading RAM"))? {
        let bytes = PIECE_BYTES.min(length - at);
        let piece = &mut piece[..usize::try_from(bytes).unwrap_or(0)];
        ram.read(number, at, piece).map_err(Error::io("reading RAM"))?;
        for (index, page) in piece.chunks_exact(parts.page_size as usize).enumerate() {
            if !is_zero(page) {
                let page_number = at / page_size + index as u64;
                let byte = usize::try_from(page_number / 8).unwrap_or(0);
                bitmap[byte] |= 1 << (page_number % 8);
                let place = pages_offset + page_number * page_size;
                file.write_all_at(page, place).map_err(Error::io(name))?;
            }
        }
        from = at + bytes;
    }
    Ok(bitmap)
}
