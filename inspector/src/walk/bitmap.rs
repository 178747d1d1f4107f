//! Bitmaps of mapped-ram files: whether they were written, and the marked pages of a block, in
//! memory that follows the pages which the file holds, not the bitmap's length: a block of 15 TiB
//! has a bitmap of 480 MiB.

use super::event::{Finding, Level};
use crate::advice::Advice;
use crate::pages::is_zero;

/// Bytes of the bitmap that are kept together if any bit of them is set.
const CHUNK_BYTES: usize = 4096;
/// Pages that a chunk stands for.
const CHUNK_PAGES: u64 = 8 * CHUNK_BYTES as u64;

/// A set of page numbers. Each chunk that is kept has a bit set, so the file has room for a page for it.
#[derive(Debug, Default)]
pub(super) struct MarkedPages {
    /// Chunks with a bit set, by the number of their first page, ascending.
    chunks: Vec<(u64, Box<[u8]>)>,
}

impl MarkedPages {
    /// Adds the part of the bitmap that begins with page `first`, a multiple of [`CHUNK_PAGES`]
    /// behind all before.
    pub(super) fn push(&mut self, first: u64, bits: &[u8]) {
        for (at, chunk) in (0..).zip(bits.chunks(CHUNK_BYTES)).filter(|(_, chunk)| !is_zero(chunk)) {
            self.chunks.push((first + at * CHUNK_PAGES, chunk.into()));
        }
    }

    /// No page is marked.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The first marked page from `page` on.
    pub(super) fn next(&self, page: u64) -> Option<u64> {
        let before = self.chunks.partition_point(|(first, _)| first + CHUNK_PAGES <= page);
        self.chunks[before..].iter().find_map(|(first, bits)| {
            let skipped = page.saturating_sub(*first);
            let bytes = (0..).zip(bits.iter()).skip_while(|(at, _)| 8 * (at + 1) <= skipped);
            bytes.into_iter().find_map(|(at, &byte)| {
                let dead = skipped.saturating_sub(8 * at);
                let left = byte & 0xff_u8.unbounded_shl(u32::try_from(dead).ok()?);
                (left != 0).then(|| first + 8 * at + u64::from(left.trailing_zeros()))
            })
        })
    }
}

/// What shows whether the bitmaps of a mapped-ram file were written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Where the first bitmap is; none: no list has come, or no block is in the file.
    pub(super) first_bitmap: Option<u64>,
    /// A page is marked in some bitmap.
    pub(super) marked: bool,
    /// Something other than zero lies in the places of pages that are not marked.
    pub(super) content: bool,
    /// The RAM section has an END, with which QEMU writes the bitmaps.
    pub(super) ended: bool,
}

impl Written {
    /// What is wrong with the bitmaps, now that RAM is over.
    pub(super) fn verdict(&self, salvage: bool) -> Option<Finding> {
        let at = self.first_bitmap?;
        let text = match (self.ended || self.marked, self.content, salvage) {
            (false, true, false) => {
                "no page is marked and the RAM section has no END, yet pages have content: background-snapshot with \
                 mapped-ram, for which QEMU writes no bitmaps. A destination loads all RAM as zeros"
            }
            (true, _, true) => "nothing to salvage: the bitmaps say which pages are there",
            (false, false, true) => "nothing to salvage: no page has content",
            _ => return None,
        };
        let finding = Finding::new(Level::Error, at, "mapped-ram bitmap", text);
        Some(finding.advised((!salvage).then_some(Advice::Salvage)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_pages_are_found_across_chunks_and_gaps() {
        let pages = [0, 1, 7, 8, 300, CHUNK_PAGES - 1, CHUNK_PAGES, 70 * CHUNK_PAGES + 9];
        let mut bits = vec![0; 71 * CHUNK_BYTES];
        for page in pages {
            bits[usize::try_from(page / 8).unwrap()] |= 1 << (page % 8);
        }
        let mut marked = MarkedPages::default();
        assert!(marked.is_empty());
        let half = 32 * CHUNK_BYTES;
        marked.push(0, &bits[..half]);
        marked.push(32 * CHUNK_PAGES, &bits[half..]);
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(page) = marked.next(at) {
            found.push(page);
            at = page + 1;
        }
        assert_eq!(found, pages);
        assert_eq!(marked.chunks.len(), 3, "what has no bit is not kept");
    }
}
