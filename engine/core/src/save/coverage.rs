//! Which pages the stream has mentioned at all.

use snapshot_image::RamLayout;

/// Pages per lazily allocated chunk.
const CHUNK_PAGES: u64 = 1 << 15;

/// One bit per page of RAM that came in any form, zero pages included. Tells when a stream nears its end, and which
/// RAM never came.
#[derive(Debug)]
pub(crate) struct Coverage {
    chunks: Vec<Option<Box<[u64]>>>,
    seen_pages: u64,
    total_pages: u64,
    /// Pages seen per block, in list order.
    per_block: Vec<u64>,
}

impl Coverage {
    pub(crate) fn new(layout: &RamLayout) -> Self {
        let page = u64::from(layout.page_size());
        Self {
            chunks: Vec::new(),
            seen_pages: 0,
            total_pages: layout.blocks().iter().map(|block| block.used_length / page).sum(),
            per_block: vec![0; layout.blocks().len()],
        }
    }

    /// Takes note of page number `page` (in the virtual disk) of block `block`.
    pub(crate) fn insert(&mut self, block: usize, page: u64) {
        let Ok(at) = usize::try_from(page / CHUNK_PAGES) else { return };
        if at >= self.chunks.len() {
            self.chunks.resize(at + 1, None);
        }
        let chunk = self.chunks[at].get_or_insert_with(|| vec![0; (CHUNK_PAGES / 64) as usize].into());
        let in_chunk = page % CHUNK_PAGES;
        let word = &mut chunk[(in_chunk / 64) as usize];
        let bit = 1 << (in_chunk % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.seen_pages += 1;
            self.per_block[block] += 1;
        }
    }

    /// Pages that have not come yet.
    pub(crate) fn missing_pages(&self) -> u64 {
        self.total_pages - self.seen_pages
    }

    /// Pages of RAM, all blocks together.
    pub(crate) fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Pages that have come.
    pub(crate) fn seen_pages(&self) -> u64 {
        self.seen_pages
    }

    /// The first block of which no page came.
    pub(crate) fn untouched_block(&self) -> Option<usize> {
        self.per_block.iter().position(|&seen| seen == 0)
    }
}
