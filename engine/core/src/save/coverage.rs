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
