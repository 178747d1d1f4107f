//! Which pages the stream has mentioned at all.

use crate::bits::Bits;
use crate::memory::OutOfMemory;
use snapshot_image::RamLayout;

/// One bit per page of RAM that came in any form, zero pages included. Shows when a stream nears
/// its end, and which RAM never came.
#[derive(Debug)]
pub(crate) struct Coverage {
    /// By number in the virtual disk.
    seen: Bits,
    total_pages: u64,
    /// Pages of the virtual disk, in which blocks begin at whole MiBs.
    places: u64,
    /// Pages seen per block, in list order.
    per_block: Vec<u64>,
    /// Behind the last page of all that came.
    farthest: u64,
    /// Pages came that had been passed by.
    comes_back: bool,
    /// A page came again: RAM is sent in rounds, each of which may be the last.
    repeats: bool,
}

impl Coverage {
    pub(crate) fn new(layout: &RamLayout) -> Result<Self, OutOfMemory> {
        let page = u64::from(layout.page_size());
        let places = layout.total_bytes().div_ceil(page);
        Ok(Self {
            seen: Bits::new(places)?,
            places,
            total_pages: layout.blocks().iter().map(|block| block.used_length / page).sum(),
            per_block: vec![0; layout.blocks().len()],
            farthest: 0,
            comes_back: false,
            repeats: false,
        })
    }

    /// Records page number `page` (in the virtual disk) of block `block`.
    pub(crate) fn insert(&mut self, block: usize, page: u64) -> Result<(), OutOfMemory> {
        if self.seen.insert(page)? {
            self.per_block[block] += 1;
            // At the end of its walk a source that sends RAM in rounds begins again.
            self.comes_back |= page < self.farthest && self.farthest < self.places;
            self.farthest = self.farthest.max(page + 1).min(self.places);
        } else {
            self.repeats = true;
        }
        Ok(())
    }

    /// Pages that have not come yet.
    pub(crate) fn missing_pages(&self) -> u64 {
        self.total_pages - self.seen_pages()
    }

    /// Pages that are still to come, as far as can be told. A source walks over RAM in order. There
    /// are pages that it never sends (balloon, free page hints): what it passed by counts only if
    /// it comes back for such pages, as it does after pages that were urgent. Before the first page
    /// nothing can be told.
    pub(crate) fn pages_ahead(&self) -> Option<u64> {
        let missing = self.missing_pages();
        let ahead = match (self.repeats, self.comes_back) {
            (true, _) => 0,
            (false, true) => missing,
            (false, false) => missing.min(self.places - self.farthest),
        };
        (self.farthest > 0).then_some(ahead)
    }

    /// Pages of RAM, all blocks together.
    pub(crate) fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Pages that have come.
    pub(crate) fn seen_pages(&self) -> u64 {
        self.seen.count()
    }

    /// The first block of which no page came.
    pub(crate) fn untouched_block(&self) -> Option<usize> {
        self.untouched_blocks().next()
    }

    /// The blocks of which no page came.
    pub(crate) fn untouched_blocks(&self) -> impl Iterator<Item = usize> {
        self.per_block.iter().enumerate().filter(|(_, seen)| **seen == 0).map(|(block, _)| block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_image::ImageBlock;

    #[test]
    fn each_page_counts_once() {
        let block = |name: &[u8], pages: u64| ImageBlock {
            name: name.to_vec(),
            used_length: pages * 4096,
            host_page_size: None,
        };
        let layout = RamLayout::new(vec![block(b"a", 3), block(b"b", 2)], 4096).unwrap();
        let mut coverage = Coverage::new(&layout).unwrap();
        let said = |coverage: &Coverage| {
            (
                coverage.seen_pages(),
                coverage.missing_pages(),
                coverage.pages_ahead(),
                coverage.untouched_block(),
            )
        };
        assert_eq!(coverage.total_pages(), 5);
        assert_eq!(said(&coverage), (0, 5, None, Some(0)));
        // The second block begins at the next MiB.
        for (block, page, expected) in [
            (0, 1, (1, 4, Some(4), Some(1))),
            (1, 256, (2, 3, Some(1), None)),
            // It had not passed it for good.
            (0, 0, (3, 2, Some(2), None)),
            (1, 257, (4, 1, Some(1), None)),
            (0, 2, (5, 0, Some(0), None)),
            (0, 2, (5, 0, Some(0), None)),
        ] {
            coverage.insert(block, page).unwrap();
            assert_eq!(said(&coverage), expected, "page {page}");
        }
    }

    #[test]
    fn what_is_never_sent_is_not_waited_for() {
        let block = ImageBlock { name: b"a".to_vec(), used_length: 1000 * 4096, host_page_size: None };
        let mut coverage = Coverage::new(&RamLayout::new(vec![block], 4096).unwrap()).unwrap();
        for page in (0..1000).filter(|page| page % 100 == 99) {
            coverage.insert(0, page).unwrap();
            assert_eq!(coverage.pages_ahead(), Some(999 - page));
        }
        // Another round.
        coverage.insert(0, 500).unwrap();
        assert_eq!((coverage.missing_pages(), coverage.pages_ahead()), (989, Some(0)));
    }

    /// With free page hints the last pages of RAM may never come, and others in a later round first.
    #[test]
    fn when_pages_come_again_the_end_may_be_near() {
        let block = ImageBlock { name: b"a".to_vec(), used_length: 1000 * 4096, host_page_size: None };
        let mut coverage = Coverage::new(&RamLayout::new(vec![block], 4096).unwrap()).unwrap();
        (0..10).for_each(|page| coverage.insert(0, 10 * page).unwrap());
        assert_eq!(coverage.pages_ahead(), Some(909));
        coverage.insert(0, 0).unwrap();
        assert_eq!(coverage.pages_ahead(), Some(0));
        coverage.insert(0, 5).unwrap();
        assert_eq!((coverage.missing_pages(), coverage.pages_ahead()), (989, Some(0)));
    }
}
