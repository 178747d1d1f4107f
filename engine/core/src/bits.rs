//! A set of numbers below a limit, one bit for each.

use crate::memory::OutOfMemory;
use crate::size::to_usize;
use std::ops::Range;
use zerocopy::FromZeros;

/// Words of one chunk, which is allocated when the first number goes into it.
const CHUNK_WORDS: usize = 512;
const WHAT: &str = "a set of pages";
const CHUNK_BITS: u64 = CHUNK_WORDS as u64 * 64;

/// The set.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    chunks: Vec<Option<Box<[u64]>>>,
    limit: u64,
    ones: u64,
}

/// Chunk, word in it, and bit in that.
fn place(number: u64) -> (usize, usize, u64) {
    let chunk = to_usize(number / CHUNK_BITS);
    let word = to_usize(number % CHUNK_BITS / 64);
    (chunk, word, 1 << (number % 64))
}

impl Bits {
    /// The empty set of numbers below `limit`.
    pub(crate) fn new(limit: u64) -> Result<Self, OutOfMemory> {
        let count = to_usize(limit.div_ceil(CHUNK_BITS));
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).map_err(|_| OutOfMemory::new(WHAT, count))?;
        chunks.resize(count, None);
        Ok(Self { chunks, limit, ones: 0 })
    }

    /// The word that holds this number; none for one that is too large.
    fn word_mut(&mut self, number: u64) -> Result<Option<&mut u64>, OutOfMemory> {
        let (chunk, word, _) = place(number);
        let Some(chunk) = self.chunks.get_mut(chunk) else { return Ok(None) };
        if chunk.is_none() {
            let words = u64::new_vec_zeroed(CHUNK_WORDS);
            *chunk = Some(words.map_err(|_| OutOfMemory::new(WHAT, CHUNK_WORDS * 8))?.into());
        }
        Ok(chunk.as_mut().and_then(|words| words.get_mut(word)))
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        let (chunk, word, bit) = place(number);
        self.chunks.get(chunk).and_then(Option::as_ref).is_some_and(|chunk| chunk[word] & bit != 0)
    }

    /// Adds a number; true if it was not there.
    pub(crate) fn insert(&mut self, number: u64) -> Result<bool, OutOfMemory> {
        let (.., bit) = place(number);
        let Some(word) = self.word_mut(number)? else { return Ok(false) };
        let new = *word & bit == 0;
        *word |= bit;
        self.ones += u64::from(new);
        Ok(new)
    }

    /// Adds a range of numbers.
    pub(crate) fn insert_all(&mut self, range: Range<u64>) -> Result<(), OutOfMemory> {
        let mut at = range.start;
        while let Some(next) = self.next_missing(at).filter(|&next| next < range.end) {
            let in_word = (64 - next % 64).min(range.end - next);
            let mask = if in_word == 64 { u64::MAX } else { ((1 << in_word) - 1) << (next % 64) };
            let Some(word) = self.word_mut(next)? else { return Ok(()) };
            let new = u64::from((mask & !*word).count_ones());
            *word |= mask;
            self.ones += new;
            at = next + in_word;
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let (chunk, word, bit) = place(number);
        if let Some(Some(chunk)) = self.chunks.get_mut(chunk)
            && chunk[word] & bit != 0
        {
            chunk[word] &= !bit;
            self.ones -= 1;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.ones
    }

    /// The first number from `from` on whose bit is not that of `flip`.
    fn next(&self, from: u64, flip: u64) -> Option<u64> {
        let (first, word, bit) = place(from);
        let mut mask = !(bit - 1);
        let mut skip = word;
        for (number, chunk) in self.chunks.iter().enumerate().skip(first) {
            let start = number as u64 * CHUNK_BITS;
            let found = match chunk {
                Some(chunk) => chunk.iter().enumerate().skip(skip).find_map(|(at, word)| {
                    let found = (word ^ flip) & std::mem::replace(&mut mask, u64::MAX);
                    (found != 0).then(|| start + at as u64 * 64 + u64::from(found.trailing_zeros()))
                }),
                None if flip != 0 => Some(start.max(from)),
                None => None,
            };
            if found.is_some() {
                return found.filter(|&number| number < self.limit);
            }
            (mask, skip) = (u64::MAX, 0);
        }
        None
    }

    /// The first number from `from` on that is in the set.
    pub(crate) fn next_present(&self, from: u64) -> Option<u64> {
        self.next(from, 0)
    }

    /// The first number from `from` on that is not in the set.
    pub(crate) fn next_missing(&self, from: u64) -> Option<u64> {
        self.next(from, u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(
            limit in prop_oneof![1u64..300, 32_000u64..100_000],
            steps in prop::collection::vec((0u8..3, 0u64..100_000, 0u64..100_000), 0..12)
        ) {
            let mut bits = Bits::new(limit).unwrap();
            let mut model = BTreeSet::new();
            for (kind, a, b) in steps {
                let (a, b) = (a % limit, b % limit);
                match kind {
                    0 => prop_assert_eq!(bits.insert(a), Ok(model.insert(a))),
                    1 => {
                        bits.remove(a);
                        model.remove(&a);
                    }
                    _ => {
                        bits.insert_all(a.min(b)..a.max(b)).unwrap();
                        model.extend(a.min(b)..a.max(b));
                    }
                }
                prop_assert_eq!(bits.count(), model.len() as u64);
                prop_assert_eq!(bits.next_present(a), model.range(a..).next().copied());
                prop_assert_eq!(bits.next_missing(a), (a..limit).find(|n| !model.contains(n)));
                prop_assert_eq!(bits.has(b), model.contains(&b));
            }
        }
    }
}
