//! A set of numbers below a limit, one bit for each.

use std::ops::Range;

/// The set. Memory that was never written costs address space only.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    words: Vec<u64>,
    limit: u64,
    ones: u64,
}

impl Bits {
    /// The empty set of numbers below `limit`.
    pub(crate) fn new(limit: u64) -> Self {
        let words = usize::try_from(limit.div_ceil(64)).unwrap_or(usize::MAX);
        Self { words: vec![0; words], limit, ones: 0 }
    }

    fn place(number: u64) -> (usize, u64) {
        (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a number; true if it was not there.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        let Some(word) = self.words.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        self.ones += u64::from(new);
        new
    }

    /// Adds a range of numbers.
    pub(crate) fn insert_all(&mut self, range: Range<u64>) {
        let mut at = range.start;
        while let Some(next) = self.next_missing(at).filter(|&next| next < range.end) {
            let in_word = (64 - next % 64).min(range.end - next);
            let mask = if in_word == 64 { u64::MAX } else { ((1 << in_word) - 1) << (next % 64) };
            let Some(word) = self.words.get_mut(Self::place(next).0) else { return };
            self.ones += u64::from((mask & !*word).count_ones());
            *word |= mask;
            at = next + in_word;
        }
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        if let Some(word) = self.words.get_mut(word)
            && *word & bit != 0
        {
            *word &= !bit;
            self.ones -= 1;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.ones
    }

    fn next(&self, from: u64, flip: u64) -> Option<u64> {
        let (first, bit) = Self::place(from);
        let words = self.words.get(first..)?;
        let mut mask = !(bit - 1);
        for (at, word) in words.iter().enumerate() {
            let found = (word ^ flip) & mask;
            if found != 0 {
                let number = (first + at) as u64 * 64 + u64::from(found.trailing_zeros());
                return Some(number).filter(|&number| number < self.limit);
            }
            mask = u64::MAX;
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
        fn it_is_a_set(limit in 1u64..300, steps in prop::collection::vec((0u8..3, 0u64..300, 0u64..300), 0..40)) {
            let mut bits = Bits::new(limit);
            let mut model = BTreeSet::new();
            for (kind, a, b) in steps {
                let (a, b) = (a % limit, b % limit);
                match kind {
                    0 => prop_assert_eq!(bits.insert(a), model.insert(a)),
                    1 => {
                        bits.remove(a);
                        model.remove(&a);
                    }
                    _ => {
                        bits.insert_all(a.min(b)..a.max(b));
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
