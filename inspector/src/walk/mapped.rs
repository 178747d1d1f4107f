//! RAM in a mapped-ram file: the block list with its holes.

use super::event::{Event, Item};
use super::stream::{StreamWalk, context, io};
use super::{Stop, go};
use migration_stream::ram::mapped::{ENTRY_LIMIT_BYTES, MappedBlock, entry, list_total};
use migration_stream::{Error, ErrorKind, RamBlock, Record};

/// Bitmaps up to this size are read: 16 TiB in pages of 4 KiB.
const BITMAP_LIMIT_BYTES: u64 = 512 << 20;
/// Blocks that a list can have; QEMU has some tens, and everything behind a block is found through those before.
pub(crate) const BLOCK_LIMIT: usize = 4096;
/// Room for more pages than this is passed over instead of read: with small holes reading is faster.
const SKIP_BYTES: u64 = 64 << 10;

fn truncated(walk: &StreamWalk<'_>) -> Error {
    Error {
        offset: walk.feed.offset() + walk.feed.bytes().len() as u64,
        path: "mapped-ram block list".to_owned(),
        kind: ErrorKind::Truncated { inside: "inside the RAM of a mapped-ram file".to_owned() },
    }
}

fn fill(walk: &mut StreamWalk<'_>, needed: usize) -> Result<(), Stop> {
    let filled = walk.feed.fill(needed);
    if filled.map_err(io(&walk.feed))? { Ok(()) } else { Err(truncated(walk).into()) }
}

/// Walks the list and the pages; the feed stands behind the header of the RAM section.
pub(super) fn walk(walk: &mut StreamWalk<'_>) -> Result<(), Stop> {
    let page_size = walk.decoder.page_size();
    fill(walk, 8)?;
    let (offset, mut word) = (walk.feed.offset(), [0; 8]);
    word.copy_from_slice(&walk.feed.bytes()[..8]);
    let mut remaining = list_total(word, offset, page_size)?;
    let item = Item { offset, length: 8, packaged: false, event: Event::MappedList(remaining) };
    go(walk.visitor.item(&item, context(&walk.decoder)))?;
    walk.feed.consume(8);
    let mut blocks: Vec<RamBlock> = Vec::new();
    while remaining > 0 {
        let filled = walk.feed.fill(ENTRY_LIMIT_BYTES);
        filled.map_err(io(&walk.feed))?;
        let offset = walk.feed.offset();
        let (length, mapped) = entry(walk.feed.bytes(), offset, remaining, page_size)?;
        if blocks.iter().any(|block| block.idstr == mapped.block.idstr) {
            let kind = ErrorKind::BlockTwice { name: mapped.block.idstr };
            return Err(Error { offset, path: "mapped-ram block list".to_owned(), kind }.into());
        }
        if blocks.len() == BLOCK_LIMIT {
            let (found, limit) = (BLOCK_LIMIT as u64 + 1, BLOCK_LIMIT as u64);
            let kind = ErrorKind::Limit { what: "mapped-ram blocks", found, limit };
            return Err(Error { offset, path: "mapped-ram block list".to_owned(), kind }.into());
        }
        remaining -= mapped.block.used_length;
        blocks.push(mapped.block.clone());
        // The list grows block by block, as everything behind refers to it.
        walk.decoder.mapped_blocks(blocks.clone(), offset);
        let event = Event::MappedBlock(&mapped);
        let item = Item { offset, length: length as u64, packaged: false, event };
        go(walk.visitor.item(&item, context(&walk.decoder)))?;
        walk.feed.consume(length);
        block(walk, blocks.len() - 1, &mapped)?;
    }
    walk.decoder.mapped_blocks(blocks, walk.feed.offset());
    Ok(())
}

/// Passes over bytes that say nothing.
fn room(walk: &mut StreamWalk<'_>, block: Option<usize>, in_block: u64, to: u64) -> Result<(), Stop> {
    let offset = walk.feed.offset();
    let length = to - offset;
    if length == 0 {
        return Ok(());
    }
    let skipped = if length < SKIP_BYTES && walk.feed.bytes().len() as u64 >= length {
        walk.feed.consume(usize::try_from(length).unwrap_or(0));
        length
    } else {
        let skipped = walk.feed.skip(length);
        skipped.map_err(io(&walk.feed))?
    };
    let event = Event::MappedRoom { block, offset: in_block };
    let item = Item { offset, length: skipped, packaged: false, event };
    go(walk.visitor.item(&item, context(&walk.decoder)))?;
    if skipped < length { Err(truncated(walk).into()) } else { Ok(()) }
}

/// The bitmap and the pages of one block.
fn block(walk: &mut StreamWalk<'_>, number: usize, mapped: &MappedBlock) -> Result<(), Stop> {
    room(walk, None, 0, mapped.bitmap_offset)?;
    if mapped.bitmap_bytes > BITMAP_LIMIT_BYTES {
        let (found, limit) = (mapped.bitmap_bytes, BITMAP_LIMIT_BYTES);
        let kind = ErrorKind::Limit { what: "mapped-ram bitmap", found, limit };
        let offset = mapped.bitmap_offset;
        return Err(Error { offset, path: "mapped-ram block list".to_owned(), kind }.into());
    }
    let bitmap_bytes = usize::try_from(mapped.bitmap_bytes).unwrap_or(usize::MAX);
    fill(walk, bitmap_bytes)?;
    let bits = walk.feed.bytes()[..bitmap_bytes].to_vec();
    let (offset, length) = (walk.feed.offset(), mapped.bitmap_bytes);
    let event = Event::MappedBitmap { block: number, bits: &bits };
    go(walk.visitor.item(&Item { offset, length, packaged: false, event }, context(&walk.decoder)))?;
    walk.feed.consume(bitmap_bytes);
    room(walk, None, 0, mapped.pages_offset)?;

    let page_size = walk.decoder.page_size();
    let page = u64::from(page_size);
    let pages = mapped.block.used_length / page;
    let is_set = |page: u64| {
        let byte = usize::try_from(page / 8).unwrap_or(usize::MAX);
        bits.get(byte).is_some_and(|bits| bits >> (page % 8) & 1 == 1)
    };
    let mut at = 0;
    while at < pages {
        if !is_set(at) {
            let end = (at..pages).find(|&page| is_set(page)).unwrap_or(pages);
            room(walk, Some(number), at * page, mapped.pages_offset + end * page)?;
            at = end;
            continue;
        }
        fill(walk, page_size as usize)?;
        let data = &walk.feed.bytes()[..page_size as usize];
        let record = Record::RamPage { block: number, offset: at * page, named: false, data };
        let (offset, event) = (walk.feed.offset(), Event::Record(record));
        go(walk
            .visitor
            .item(&Item { offset, length: page, packaged: false, event }, context(&walk.decoder)))?;
        walk.feed.consume(page_size as usize);
        at += 1;
    }
    Ok(())
}
