//! RAM in a mapped-ram file: the block list with its holes.
//!
//! A bitmap says which pages of a block are there. QEMU writes the bitmaps with the END of the RAM
//! section, and a background snapshot has none (`ram_save_complete`, `bg_migration_thread` in
//! migration/; seen with 10.0 and 11.1): such a file has every page at its place, and empty
//! bitmaps, so that a destination takes all RAM for zeros. That is an error here, unless the pages
//! are to be taken from their places ([`OpenOptions::salvage`](crate::input::OpenOptions)).

use super::bitmap::MarkedPages;
use super::event::{Event, Item};
use super::state::{StreamWalk, context};
use super::{Stop, go, io};
use crate::pages::is_zero;
use crate::size::to_usize;
use migration_stream::ram::mapped::{
    ENTRY_LIMIT_BYTES, MappedBlock, MappedList, MappedPlace, entry, list_total,
};
use migration_stream::{Error, ErrorKind, Inside, Page, PageContent, RamBlock, Record};

/// Bitmaps up to this size are read: 16 TiB in pages of 4 KiB.
const BITMAP_LIMIT_BYTES: u64 = 512 << 20;
/// What is read of a bitmap at once: 32 GiB of RAM in pages of 4 KiB.
const BITMAP_PART_BYTES: u64 = 1 << 20;
/// Blocks that a list can have; QEMU has some tens, and everything behind a block is found through
/// those before.
pub(crate) const BLOCK_LIMIT: usize = 4096;
/// Room for more pages than this is passed over instead of read: with small holes reading is faster.
const SKIP_BYTES: u64 = 64 << 10;
/// What is looked at at once for something that is not zero.
const LOOK_BYTES: u64 = 64 << 10;

/// RAM is over: says so if its bitmaps were never written.
pub(super) fn finish(walk: &mut StreamWalk<'_>) -> Result<(), Stop> {
    match walk.mapped.verdict(walk.salvage) {
        Some(finding) => go(walk.visitor.finding(finding)),
        None => Ok(()),
    }
}

fn truncated(walk: &StreamWalk<'_>) -> Error {
    Error {
        offset: walk.feed.offset() + walk.feed.bytes().len() as u64,
        path: "mapped-ram block list".to_owned(),
        kind: ErrorKind::Truncated { inside: Inside::MappedRam },
    }
}

fn fill(walk: &mut StreamWalk<'_>, needed: usize) -> Result<(), Stop> {
    let filled = walk.feed.fill(needed);
    if filled.map_err(io(&walk.feed))? { Ok(()) } else { Err(truncated(walk).into()) }
}

/// Walks the list and the pages; the feed is behind the header of the RAM section.
pub(super) fn walk(walk: &mut StreamWalk<'_>) -> Result<(), Stop> {
    let page_size = walk.decoder.page_size().bytes();
    fill(walk, 8)?;
    let (offset, mut word) = (walk.feed.offset(), [0; 8]);
    word.copy_from_slice(&walk.feed.bytes()[..8]);
    let mut remaining = list_total(word, offset, page_size)?;
    let ignore_shared = walk.decoder.configuration().is_some_and(|c| c.has_capability("x-ignore-shared"));
    let list = MappedList { page_size, ignore_shared };
    let item = Item { offset, length: 8, packaged: false, event: Event::MappedList(remaining) };
    go(walk.visitor.item(&item, context(&walk.decoder)))?;
    walk.feed.consume(8);
    let mut blocks: Vec<RamBlock> = Vec::new();
    while remaining > 0 {
        let filled = walk.feed.fill(ENTRY_LIMIT_BYTES);
        filled.map_err(io(&walk.feed))?;
        let offset = walk.feed.offset();
        let (length, mapped) = entry(walk.feed.bytes(), offset, remaining, list)?;
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
        if let Some(place) = mapped.place {
            block(walk, blocks.len() - 1, &mapped, place)?;
        }
    }
    walk.decoder.mapped_blocks(blocks, walk.feed.offset());
    Ok(())
}

/// Passes over bytes that say nothing.
fn room(walk: &mut StreamWalk<'_>, block: Option<usize>, in_block: u64, to: u64) -> Result<(), Stop> {
    let length = to - walk.feed.offset();
    if length == 0 {
        return Ok(());
    }
    let offset = walk.feed.offset();
    pass(walk, to)?;
    said(walk, block, in_block, offset, length)
}

/// Goes on at `to`, or as far as there is something.
fn pass(walk: &mut StreamWalk<'_>, to: u64) -> Result<(), Stop> {
    let length = to - walk.feed.offset();
    if length < SKIP_BYTES && walk.feed.bytes().len() as u64 >= length {
        walk.feed.consume(to_usize(length));
    } else {
        walk.feed.skip(length).map_err(io(&walk.feed))?;
    }
    Ok(())
}

/// Reports room of `length` bytes at `offset` that was passed over, as far as the file has it.
fn said(
    walk: &mut StreamWalk<'_>,
    block: Option<usize>,
    in_block: u64,
    offset: u64,
    length: u64,
) -> Result<(), Stop> {
    let passed = walk.feed.offset() - offset;
    let event = Event::MappedRoom { block, offset: in_block };
    let item = Item { offset, length: passed, packaged: false, event };
    go(walk.visitor.item(&item, context(&walk.decoder)))?;
    if passed < length { Err(truncated(walk).into()) } else { Ok(()) }
}

/// Passes over room for pages that are not marked, up to `to`; looks for content in it until there is some.
fn unmarked(walk: &mut StreamWalk<'_>, block: usize, in_block: u64, to: u64) -> Result<(), Stop> {
    let offset = walk.feed.offset();
    while !walk.mapped.marked && !walk.mapped.content && walk.feed.offset() < to {
        let hole = walk.feed.hole().map_err(io(&walk.feed))?.min(to - walk.feed.offset());
        if hole > 0 {
            pass(walk, walk.feed.offset() + hole)?;
            continue;
        }
        let wanted = to_usize(LOOK_BYTES.min(to - walk.feed.offset()));
        walk.feed.fill(wanted).map_err(io(&walk.feed))?;
        let bytes = walk.feed.bytes();
        let bytes = &bytes[..bytes.len().min(wanted)];
        if bytes.is_empty() {
            break;
        }
        walk.mapped.content = !is_zero(bytes);
        let length = bytes.len();
        walk.feed.consume(length);
    }
    pass(walk, to)?;
    said(walk, Some(block), in_block, offset, to - offset)
}

/// The bitmap and the pages of one block.
fn block(
    walk: &mut StreamWalk<'_>,
    number: usize,
    mapped: &MappedBlock,
    place: MappedPlace,
) -> Result<(), Stop> {
    room(walk, None, 0, place.bitmap_offset)?;
    walk.mapped.first_bitmap.get_or_insert(place.bitmap_offset);
    if place.bitmap_bytes > BITMAP_LIMIT_BYTES {
        let (found, limit) = (place.bitmap_bytes, BITMAP_LIMIT_BYTES);
        let kind = ErrorKind::Limit { what: "mapped-ram bitmap", found, limit };
        let offset = place.bitmap_offset;
        return Err(Error { offset, path: "mapped-ram block list".to_owned(), kind }.into());
    }
    let marked = bitmap(walk, number, place.bitmap_bytes)?;
    room(walk, None, 0, place.pages_offset)?;
    walk.mapped.marked |= !marked.is_empty();
    if walk.salvage && !walk.mapped.marked {
        return places(walk, number, mapped.block.used_length, place.pages_offset);
    }

    let page = u64::from(walk.decoder.page_size());
    let pages = mapped.block.used_length / page;
    let mut at = 0;
    while at < pages {
        let next = marked.next(at).unwrap_or(pages).min(pages);
        if next == at {
            take_page(walk, number, at * page)?;
            at += 1;
        } else {
            unmarked(walk, number, at * page, place.pages_offset + next * page)?;
            at = next;
        }
    }
    Ok(())
}

/// The bitmap of a block, which is here, part by part.
fn bitmap(walk: &mut StreamWalk<'_>, block: usize, bytes: u64) -> Result<MarkedPages, Stop> {
    let mut marked = MarkedPages::default();
    let mut taken = 0;
    while taken < bytes {
        let length = (bytes - taken).min(BITMAP_PART_BYTES);
        let part = to_usize(length);
        fill(walk, part)?;
        let bits = &walk.feed.bytes()[..part];
        let first_page = 8 * taken;
        marked.push(first_page, bits);
        let event = Event::MappedBitmap { block, first_page, bits };
        let item = Item { offset: walk.feed.offset(), length, packaged: false, event };
        go(walk.visitor.item(&item, context(&walk.decoder)))?;
        walk.feed.consume(part);
        taken += length;
    }
    Ok(marked)
}

/// The page that comes next.
fn take_page(walk: &mut StreamWalk<'_>, number: usize, in_block: u64) -> Result<(), Stop> {
    let page_size = usize::from(walk.decoder.page_size());
    fill(walk, page_size)?;
    let data = &walk.feed.bytes()[..page_size];
    let content = PageContent::Raw(data);
    let record = Record::Page(Page { block: number, offset: in_block, named: false, content });
    let (offset, length, event) = (walk.feed.offset(), page_size as u64, Event::Record(record));
    go(walk.visitor.item(&Item { offset, length, packaged: false, event }, context(&walk.decoder)))?;
    walk.feed.consume(page_size);
    Ok(())
}

/// Takes the pages of a block from their places, without a bitmap: what is zero, or a hole, is a zero page.
fn places(walk: &mut StreamWalk<'_>, number: usize, length: u64, pages_offset: u64) -> Result<(), Stop> {
    let page_size = u64::from(walk.decoder.page_size());
    let mut at = 0;
    while at < length {
        let hole = walk.feed.hole().map_err(io(&walk.feed))?.min(length - at) / page_size * page_size;
        if hole > 0 {
            room(walk, Some(number), at, pages_offset + at + hole)?;
            at += hole;
            continue;
        }
        let bytes = to_usize(page_size);
        fill(walk, bytes)?;
        if is_zero(&walk.feed.bytes()[..bytes]) {
            room(walk, Some(number), at, pages_offset + at + page_size)?;
        } else {
            walk.mapped.content = true;
            take_page(walk, number, at)?;
        }
        at += page_size;
    }
    Ok(())
}
