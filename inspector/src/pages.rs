//! Sets of pages in constant memory: what a stream claims is not allocated before pages come.

use crate::size::to_usize;
use std::collections::BTreeMap;

/// Pages of one chunk.
const CHUNK_PAGES: u64 = 1 << 15;
/// Chunks that are kept: 64 MiB would be 2 TiB of RAM in pages of 4 KiB; half of that is enough.
const CHUNK_LIMIT: usize = 1 << 13;

type Chunk = [u64; (CHUNK_PAGES / 64) as usize];

/// A set of pages, each of them a block and a number.
#[derive(Debug, Default)]
pub(crate) struct PageSet {
    chunks: Vec<Box<Chunk>>,
    places: BTreeMap<(usize, u64), usize>,
    /// The chunk that was asked for last: pages come in order, mostly.
    last: Option<((usize, u64), usize)>,
    full: bool,
}

fn place(page: u64) -> (usize, u64) {
    let bit = page % CHUNK_PAGES;
    (to_usize(bit / 64), 1 << (bit % 64))
}

impl PageSet {
    /// Adds a page; whether it is new. Beyond the limit, everything is.
    pub(crate) fn insert(&mut self, block: usize, page: u64) -> bool {
        let key = (block, page / CHUNK_PAGES);
        let number = match self.last {
            Some((last, number)) if last == key => number,
            _ => {
                let next = self.chunks.len();
                if next >= CHUNK_LIMIT && !self.places.contains_key(&key) {
                    self.full = true;
                    return true;
                }
                let number = *self.places.entry(key).or_insert(next);
                if number == next {
                    self.chunks.push(Box::new([0; (CHUNK_PAGES / 64) as usize]));
                }
                self.last = Some((key, number));
                number
            }
        };
        let (word, bit) = place(page);
        let word = &mut self.chunks[number][word];
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes pages out.
    pub(crate) fn remove(&mut self, block: usize, pages: std::ops::Range<u64>) {
        let whole = |chunk: u64| {
            let first = chunk * CHUNK_PAGES;
            pages.start <= first && first + CHUNK_PAGES <= pages.end
        };
        if pages.end.saturating_sub(pages.start) >= CHUNK_PAGES {
            for ((_, chunk), &number) in self.places.range((block, 0)..=(block, u64::MAX)) {
                if whole(*chunk) {
                    self.chunks[number].fill(0);
                }
            }
        }
        // What is left of the range are the chunks at its two ends.
        let ends = [pages.start / CHUNK_PAGES, pages.end.saturating_sub(1) / CHUNK_PAGES];
        for (number, chunk) in ends.into_iter().enumerate() {
            let Some(&place_of) =
                self.places.get(&(block, chunk)).filter(|_| number == 0 || chunk != ends[0])
            else {
                continue;
            };
            let first = chunk * CHUNK_PAGES;
            for page in pages.start.max(first)..pages.end.min(first + CHUNK_PAGES) {
                let (word, bit) = place(page);
                self.chunks[place_of][word] &= !bit;
            }
        }
    }

    pub(crate) fn contains(&self, block: usize, page: u64) -> bool {
        let (word, bit) = place(page);
        let number = self.places.get(&(block, page / CHUNK_PAGES));
        number.is_some_and(|&number| self.chunks[number][word] & bit != 0)
    }

    /// The first page of a block that is in the set, from `page` on. What lies between is not gone over.
    pub(crate) fn next(&self, block: usize, page: u64) -> Option<u64> {
        let first = page / CHUNK_PAGES;
        self.places.range((block, first)..=(block, u64::MAX)).find_map(|(&(_, chunk), &number)| {
            let start = if chunk == first { page % CHUNK_PAGES } else { 0 };
            let from = to_usize(start / 64);
            let words = self.chunks[number].iter().enumerate().skip(from);
            words.into_iter().find_map(|(at, &word)| {
                let word = if at == from { word & (u64::MAX << (start % 64)) } else { word };
                (word != 0).then(|| chunk * CHUNK_PAGES + at as u64 * 64 + u64::from(word.trailing_zeros()))
            })
        })
    }

    /// Pages of a block that are in the set.
    pub(crate) fn count(&self, block: usize) -> u64 {
        let of_block = self.places.range((block, 0)..=(block, u64::MAX));
        let words = of_block.flat_map(|(_, &number)| self.chunks[number].iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Pages were left out: there are more than are kept.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.full
    }
}

/// Whether a page is zero; reads it in pieces that the compiler turns into vector code.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    page.chunks(256).all(|chunk| chunk.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_per_block_and_taken_out_by_range() {
        let mut set = PageSet::default();
        assert!(set.insert(0, 5) && set.insert(1, 5) && set.insert(0, CHUNK_PAGES + 1));
        assert!(!set.insert(0, 5));
        assert_eq!((set.count(0), set.count(1), set.count(2)), (2, 1, 0));
        set.remove(0, 0..CHUNK_PAGES * 2);
        assert!(!set.contains(0, 5) && !set.contains(0, CHUNK_PAGES + 1) && set.contains(1, 5));
        set.remove(1, 6..7);
        assert!(set.contains(1, 5));
    }

    #[test]
    fn the_next_page_is_found_across_words_chunks_and_gaps() {
        let mut set = PageSet::default();
        let pages = [0, 63, 64, 200, CHUNK_PAGES - 1, CHUNK_PAGES, 1 << 32, (1 << 32) + 1];
        for page in pages {
            set.insert(1, page);
            set.insert(0, page + 1);
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(page) = set.next(1, at) {
            found.push(page);
            at = page + 1;
        }
        assert_eq!(found, pages);
        assert_eq!(
            (set.next(0, 0), set.next(1, 201), set.next(2, 0)),
            (Some(1), Some(CHUNK_PAGES - 1), None)
        );
    }

    #[test]
    fn a_stream_that_names_a_page_in_each_chunk_does_not_take_all_memory() {
        let mut set = PageSet::default();
        for chunk in 0..2 * CHUNK_LIMIT as u64 {
            assert!(set.insert(0, chunk * CHUNK_PAGES));
        }
        assert_eq!((set.chunks.len(), set.is_incomplete()), (CHUNK_LIMIT, true));
    }
}
