//! The RAM of a VM: named blocks of real memory, with a log of what was written.

use crate::size::to_usize;
use background_snapshot::{Backing, Mapping, Region};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Bytes of a target page.
pub const TARGET_PAGE_BYTES: usize = 4096;

/// What the memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum MemoryKind {
    /// Private anonymous memory
    #[default]
    Anonymous,
    /// Shared memory (memfd)
    Shared,
    /// Pages of 2 MiB (they have to be reserved: vm.nr_hugepages)
    Huge,
}

impl MemoryKind {
    /// Bytes of a host page.
    #[must_use]
    pub fn page_bytes(self) -> usize {
        if self == Self::Huge { HUGE_PAGE_BYTES } else { TARGET_PAGE_BYTES }
    }
}

/// A RAM block.
#[derive(Debug)]
pub struct Block {
    /// Its name.
    pub name: Vec<u8>,
    /// Its memory.
    pub mapping: Arc<Mapping>,
    /// Bytes of a host page as the peer knows it: what is requested and placed at once.
    pub host_page: usize,
    /// Number of its first page, counted through all blocks.
    first_page: u64,
    /// A bit for each page that was written since it was last asked.
    dirty: Box<[AtomicU64]>,
}

impl Block {
    /// Target pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        (self.mapping.length() / TARGET_PAGE_BYTES) as u64
    }
}

/// All blocks. Pages are counted through all of them.
#[derive(Debug, Default)]
pub struct GuestMemory {
    blocks: Vec<Block>,
    pages: u64,
}

impl GuestMemory {
    /// Memory without blocks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a block. One that is not of whole host pages (a ROM) gets ordinary memory.
    ///
    /// # Errors
    ///
    /// The kernel's; a length that is not of whole target pages.
    pub fn add(&mut self, name: &[u8], length: u64, kind: MemoryKind, host_page: usize) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let host_page = host_page.max(kind.page_bytes());
        let whole = length.is_multiple_of(host_page);
        let host_page = if whole { host_page } else { TARGET_PAGE_BYTES };
        let backing = match kind {
            MemoryKind::Shared => Backing::Shared,
            MemoryKind::Huge if whole => Backing::Huge,
            MemoryKind::Anonymous | MemoryKind::Huge => Backing::Anonymous,
        };
        self.add_mapping(name, Mapping::new(length, &backing)?, host_page);
        Ok(())
    }

    /// Adds a block that is mapped already.
    pub(super) fn add_mapping(&mut self, name: &[u8], mapping: Mapping, host_page: usize) {
        let pages = mapping.length() / TARGET_PAGE_BYTES;
        let dirty = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (name, mapping, first_page) = (name.to_vec(), Arc::new(mapping), self.pages);
        self.blocks.push(Block { name, mapping, host_page, first_page, dirty });
        self.pages += pages as u64;
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Index of a block.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.blocks.iter().position(|block| block.name == name)
    }

    /// Pages of all blocks.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Its blocks as regions, in their order.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        self.blocks.iter().map(|block| block.mapping.clone().into()).collect()
    }

    /// Block and byte offset of a page.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    #[must_use]
    pub fn locate(&self, page: u64) -> (usize, usize) {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        let block = self.blocks.partition_point(|block| block.first_page <= page) - 1;
        let offset = (page - self.blocks[block].first_page) * TARGET_PAGE_BYTES as u64;
        (block, to_usize(offset))
    }

    /// The page at an offset in a block.
    #[must_use]
    pub fn page_at(&self, block: usize, offset: usize) -> u64 {
        self.blocks[block].first_page + (offset / TARGET_PAGE_BYTES) as u64
    }

    /// Copies a page out.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn read_page(&self, page: u64, out: &mut [u8; TARGET_PAGE_BYTES]) {
        let (block, offset) = self.locate(page);
        self.blocks[block].mapping.read(offset, out);
    }

    /// Replaces a page.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn write_page(&self, page: u64, data: &[u8; TARGET_PAGE_BYTES]) {
        let (block, offset) = self.locate(page);
        self.blocks[block].mapping.write(offset, data);
        self.mark_dirty(block, offset);
    }

    /// A write of the guest's: one word of a page.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn write_word(&self, page: u64, word: usize, value: u64) {
        let (block, offset) = self.locate(page);
        self.blocks[block].mapping.store(offset + word % (TARGET_PAGE_BYTES / 8) * 8, value);
        self.mark_dirty(block, offset);
    }

    /// A write of the kernel's, as a device model does it: `read(2)` of 512 bytes into the page.
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Panics
    ///
    /// If there is no such page.
    pub fn write_by_kernel(&self, page: u64, from: impl AsFd) -> io::Result<()> {
        let (block, offset) = self.locate(page);
        self.blocks[block].mapping.read_from(from, offset, 512)?;
        self.mark_dirty(block, offset);
        Ok(())
    }

    /// After the write, never before: whoever takes the mark must find what was written.
    fn mark_dirty(&self, block: usize, offset: usize) {
        let page = offset / TARGET_PAGE_BYTES;
        self.blocks[block].dirty[page / 64].fetch_or(1 << (page % 64), Ordering::Release);
    }

    /// Takes the marks of a block: byte offsets of the pages that were written since the last time.
    #[must_use]
    pub fn take_dirty(&self, block: usize) -> Vec<usize> {
        let mut offsets = Vec::new();
        for (number, word) in self.blocks[block].dirty.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                offsets.push((number * 64 + bits.trailing_zeros() as usize) * TARGET_PAGE_BYTES);
                bits &= bits - 1;
            }
        }
        offsets
    }

    /// Pages that are marked.
    #[must_use]
    pub fn dirty_pages(&self) -> u64 {
        let words = self.blocks.iter().flat_map(|block| &block.dirty);
        words.map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

/// Whether a page holds nothing but zeros.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    page.chunks(256).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
