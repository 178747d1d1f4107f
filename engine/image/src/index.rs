//! Which pages are not zero, and their checksums.

use crate::size::to_usize;

/// Pages that one leaf describes.
pub(crate) const LEAF_PAGES: u64 = 8192;
const BITMAP_BYTES: usize = (LEAF_PAGES / 8) as usize;
/// Bytes before the bitmap: leaf number (be64), count of pages (be32), 4 zero bytes, UUID (16).
const LEAF_HEADER_BYTES: usize = 32;
/// A leaf with all of its pages, in bytes.
pub(crate) const LEAF_LIMIT_BYTES: u64 = LEAF_HEADER_BYTES as u64 + LEAF_PAGES / 8 + 4 * LEAF_PAGES;

/// Pages of one leaf in memory: a checksum each, and whether the page is not zero.
#[derive(Debug, Clone)]
struct Pages {
    present: Box<[u64]>,
    checksums: Box<[u32]>,
    count: u32,
}

impl Pages {
    /// All of them zero; `None` if the system has no memory for them.
    fn empty() -> Option<Self> {
        fn zeros<T: Clone + Default>(count: usize) -> Option<Box<[T]>> {
            let mut zeros = Vec::new();
            zeros.try_reserve_exact(count).ok()?;
            zeros.resize(count, T::default());
            Some(zeros.into())
        }
        let checksums = zeros(to_usize(LEAF_PAGES))?;
        Some(Self { present: zeros(BITMAP_BYTES / 8)?, checksums, count: 0 })
    }
}

/// The pages of a snapshot while it is being made. Takes 4 bytes and a bit per page, in leaves that are
/// allocated with their first page.
#[derive(Debug, Clone, Default)]
pub struct PageIndex {
    leaves: Vec<Option<Pages>>,
    nonzero_pages: u64,
}

fn place(page: u64) -> (usize, usize) {
    (to_usize(page / LEAF_PAGES), to_usize(page % LEAF_PAGES))
}

impl PageIndex {
    /// An index of no pages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Pages that are not zero.
    #[must_use]
    pub fn nonzero_pages(&self) -> u64 {
        self.nonzero_pages
    }

    /// Allocates the memory that the page needs, unless it has it; false if the system has none. After that
    /// [`set`](Self::set) allocates nothing.
    #[must_use]
    pub fn can_hold(&mut self, page: u64) -> bool {
        let (leaf, _) = place(page);
        if leaf >= self.leaves.len() {
            if self.leaves.try_reserve(leaf + 1 - self.leaves.len()).is_err() {
                return false;
            }
            self.leaves.resize(leaf + 1, None);
        }
        if self.leaves[leaf].is_none() {
            self.leaves[leaf] = Pages::empty();
        }
        self.leaves[leaf].is_some()
    }

    /// Records that the page is not zero now, with its checksum.
    ///
    /// # Panics
    ///
    /// If the system has no memory for it, where [`can_hold`](Self::can_hold) was not asked before.
    pub fn set(&mut self, page: u64, checksum: u32) {
        let (leaf, at) = place(page);
        assert!(self.can_hold(page), "no memory for the checksum of page {page}");
        let Some(pages) = &mut self.leaves[leaf] else { return };
        let bit = 1 << (at % 64);
        if pages.present[at / 64] & bit == 0 {
            pages.present[at / 64] |= bit;
            pages.count += 1;
            self.nonzero_pages += 1;
        }
        pages.checksums[at] = checksum;
    }

    /// Records that the page is zero now.
    pub fn clear(&mut self, page: u64) {
        let (leaf, at) = place(page);
        if let Some(Some(pages)) = self.leaves.get_mut(leaf) {
            let bit = 1 << (at % 64);
            if pages.present[at / 64] & bit != 0 {
                pages.present[at / 64] &= !bit;
                pages.count -= 1;
                self.nonzero_pages -= 1;
            }
        }
    }

    /// The page's checksum; `None` if it is zero.
    #[must_use]
    pub fn get(&self, page: u64) -> Option<u32> {
        let (leaf, at) = place(page);
        let pages = self.leaves.get(leaf)?.as_ref()?;
        (pages.present[at / 64] >> (at % 64) & 1 == 1).then(|| pages.checksums[at])
    }

    /// Numbers of the leaves with pages in them, and the length of each when encoded.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        (0u64..).zip(&self.leaves).filter_map(|(number, leaf)| {
            let count = leaf.as_ref()?.count as usize;
            (count > 0).then_some((number, LEAF_HEADER_BYTES + BITMAP_BYTES + 4 * count))
        })
    }

    /// Number of leaves, empty ones included.
    pub(crate) fn leaf_count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// A leaf's bytes: header, bitmap (bit i of byte i/8), checksums (be32) of the pages in the bitmap.
    pub(crate) fn encode_leaf(&self, number: u64, uuid: &[u8; 16]) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(Some(pages)) = self.leaves.get(to_usize(number)) else {
            return out;
        };
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&pages.count.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(uuid);
        pages.present.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        for (at, checksum) in pages.checksums.iter().enumerate() {
            if pages.present[at / 64] >> (at % 64) & 1 == 1 {
                out.extend_from_slice(&checksum.to_be_bytes());
            }
        }
        out
    }
}

/// A leaf that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    bitmap: Vec<u8>,
    checksums: Vec<u32>,
}

impl Leaf {
    /// A leaf without pages.
    pub(crate) fn empty() -> Self {
        Self { bitmap: vec![0; BITMAP_BYTES], checksums: Vec::new() }
    }

    /// Reads what [`PageIndex::encode_leaf`] wrote; `None` if it is another leaf, or of another snapshot, or
    /// does not add up.
    pub(crate) fn decode(bytes: &[u8], number: u64, uuid: &[u8; 16]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(LEAF_HEADER_BYTES)?;
        let (bitmap, rest) = rest.split_at_checked(BITMAP_BYTES)?;
        let count: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
        let same = header[..8] == number.to_be_bytes() && header[16..] == uuid[..];
        if !same || rest.len() != 4 * count || header[8..12] != u32::try_from(count).ok()?.to_be_bytes() {
            return None;
        }
        let checksums = rest.chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]])).collect();
        Some(Self { bitmap: bitmap.to_vec(), checksums })
    }

    /// The pages from `first` to `end` (numbers within the leaf) that are not zero, with their checksums.
    pub(crate) fn pages(&self, first: usize, end: usize) -> Vec<(usize, u32)> {
        if self.checksums.is_empty() {
            return Vec::new();
        }
        let before = |at: usize| -> usize {
            let whole: usize = self.bitmap[..at / 8].iter().map(|byte| byte.count_ones() as usize).sum();
            whole + (0..at % 8).filter(|bit| self.bitmap[at / 8] >> bit & 1 == 1).count()
        };
        let mut next = if first < end { before(first) } else { 0 };
        let mut found = Vec::new();
        for at in first..end {
            if self.bitmap[at / 8] >> (at % 8) & 1 == 1 {
                found.push((at, self.checksums[next]));
                next += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Pages at both ends of words, bytes and leaves.
    fn page() -> impl Strategy<Value = u64> {
        (0..4u64, prop::sample::select(vec![0, 1, 7, 8, 9, 62, 63, 64, 65, 4000, 8127, 8128, 8190, 8191]))
            .prop_map(|(leaf, at)| leaf * LEAF_PAGES + at)
    }

    proptest! {
        /// It is a map of pages to checksums, and its leaves say the same.
        #[test]
        fn it_is_a_map_and_so_are_its_leaves(
            changes in prop::collection::vec((page(), prop::option::of(any::<u32>())), 0..80),
            (from, to) in (page(), page()),
        ) {
            let (mut index, mut map) = (PageIndex::new(), BTreeMap::new());
            for (page, checksum) in changes {
                if let Some(checksum) = checksum {
                    index.set(page, checksum);
                    map.insert(page, checksum);
                } else {
                    index.clear(page);
                    map.remove(&page);
                }
                prop_assert_eq!(index.nonzero_pages(), map.len() as u64);
                prop_assert_eq!(index.get(page), map.get(&page).copied());
            }
            for page in (0..4 * LEAF_PAGES).step_by(61).chain(map.keys().copied()) {
                prop_assert_eq!(index.get(page), map.get(&page).copied());
            }
            let (from, to) = (from % LEAF_PAGES, to % LEAF_PAGES);
            let mut pages = 0;
            for (number, length) in index.occupied() {
                prop_assert!(number < index.leaf_count());
                let bytes = index.encode_leaf(number, &[3; 16]);
                prop_assert_eq!(bytes.len(), length);
                prop_assert!(length as u64 <= LEAF_LIMIT_BYTES);
                let leaf = Leaf::decode(&bytes, number, &[3; 16]).unwrap();
                let first = number * LEAF_PAGES;
                for (from, to) in [(0, LEAF_PAGES), (from, to), (from, from)] {
                    let wanted: Vec<(usize, u32)> = map
                        .range(first + from..(first + to).max(first + from))
                        .map(|(page, &checksum)| (usize::try_from(page - first).unwrap(), checksum))
                        .collect();
                    let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(to).unwrap());
                    prop_assert_eq!(leaf.pages(from, to), wanted);
                }
                pages += leaf.pages(0, 8192).len();
            }
            prop_assert_eq!(pages, map.len());
        }
    }

    #[test]
    fn a_full_leaf_is_as_long_as_the_limit_says() {
        let mut index = PageIndex::new();
        (0..LEAF_PAGES).for_each(|page| index.set(page, 1));
        assert_eq!(index.encode_leaf(0, &[0; 16]).len() as u64, LEAF_LIMIT_BYTES);
        assert!(index.encode_leaf(1, &[0; 16]).is_empty());
        assert!(Leaf::empty().pages(0, 8192).is_empty());
    }

    #[test]
    fn a_leaf_whose_pages_became_zero_is_not_written() {
        let mut index = PageIndex::new();
        index.set(3, 1);
        index.set(LEAF_PAGES, 2);
        index.clear(3);
        assert_eq!(index.occupied().map(|(number, _)| number).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_leaf_that_does_not_add_up_is_none() {
        let mut index = PageIndex::new();
        [3, 64, 8000].into_iter().for_each(|page| index.set(page, 9));
        let bytes = index.encode_leaf(0, &[9; 16]);
        for bit in (0..12 * 8).chain(16 * 8..32 * 8).chain([32 * 8, 32 * 8 + 3]) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Leaf::decode(&damaged, 0, &[9; 16]), None, "bit {bit}");
        }
        assert_eq!(Leaf::decode(&[&bytes[..], &[0; 4]].concat(), 0, &[9; 16]), None);
    }

    #[test]
    fn a_leaf_survives_its_encoding_and_knows_where_it_belongs() {
        let mut index = PageIndex::new();
        for page in [0, 1, 8191, 8192, 100_000] {
            index.set(page, u32::try_from(page).unwrap() ^ 0xdead_beef);
        }
        index.set(7, 7);
        index.clear(7);
        assert_eq!(
            (index.nonzero_pages(), index.get(7), index.get(8192)),
            (5, None, Some(8192 ^ 0xdead_beef))
        );
        let bytes = index.encode_leaf(0, &[9; 16]);
        assert_eq!(index.occupied().next(), Some((0, bytes.len())));
        let leaf = Leaf::decode(&bytes, 0, &[9; 16]).unwrap();
        let sum = |page: u32| (page as usize, page ^ 0xdead_beef);
        assert_eq!(leaf.pages(0, 8192), [sum(0), sum(1), sum(8191)]);
        assert_eq!(leaf.pages(1, 8191), [sum(1)]);
        assert_eq!(Leaf::decode(&bytes, 1, &[9; 16]), None);
        assert_eq!(Leaf::decode(&bytes, 0, &[8; 16]), None);
        assert_eq!(Leaf::decode(&bytes[..bytes.len() - 1], 0, &[9; 16]), None);
    }
}
