//! Which pages the stream has mentioned at all.

use crate::bits::Bits;
use snapshot_image::RamLayout;

/// One bit per page of RAM that came in any form, zero pages included. Tells when a stream nears its end, and which
/// RAM never came.
#[derive(Debug)]
pub(crate) struct Coverage {
    /// By number in the virtual disk.
    seen: Bits,
    total_pages: u64,
    /// Pages seen per block, in list order.
    per_block: Vec<u64>,
}

impl Coverage {
    pub(crate) fn new(layout: &RamLayout) -> Self {
        let page = u64::from(layout.page_size());
        Self {
            seen: Bits::new(layout.total_bytes().div_ceil(page)),
            total_pages: layout.blocks().iter().map(|block| block.used_length / page).sum(),
            per_block: vec![0; layout.blocks().len()],
        }
    }

    /// Takes note of page number `page` (in the virtual disk) of block `block`.
    pub(crate) fn insert(&mut self, block: usize, page: u64) {
        if self.seen.insert(page) {
            self.per_block[block] += 1;
        }
    }

    /// Pages that have not come yet.
    pub(crate) fn missing_pages(&self) -> u64 {
        self.total_pages - self.seen_pages()
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
        self.per_block.iter().position(|&seen| seen == 0)
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
        let mut coverage = Coverage::new(&layout);
        let said = |coverage: &Coverage| {
            (coverage.seen_pages(), coverage.missing_pages(), coverage.untouched_block())
        };
        assert_eq!(coverage.total_pages(), 5);
        assert_eq!(said(&coverage), (0, 5, Some(0)));
        // The second block begins at the next MiB.
        for (block, page, expected) in [
            (0, 2, (1, 4, Some(1))),
            (0, 2, (1, 4, Some(1))),
            (0, 0, (2, 3, Some(1))),
            (1, 257, (3, 2, None)),
            (1, 256, (4, 1, None)),
            (0, 1, (5, 0, None)),
        ] {
            coverage.insert(block, page);
            assert_eq!(said(&coverage), expected, "page {page}");
        }
    }
}
