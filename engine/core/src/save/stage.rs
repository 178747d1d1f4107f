//! Pages that came out of order, kept one by one.
//!
//! In a background snapshot QEMU sends the pages first that the guest is waiting to write, from
//! anywhere. A slab for each would fill the memory with emptiness; here a page takes no more than
//! itself, until its slab is opened.

use crate::memory::OutOfMemory;
use crate::pool::{BufferId, Pool};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Memory is taken in buffers of this size.
const BUFFER_BYTES: usize = 1 << 20;

/// A page of a slab, and its place in the buffers.
#[derive(Debug, Clone, Copy)]
struct Staged {
    page: usize,
    place: usize,
}

/// Single pages of many slabs.
#[derive(Debug)]
pub(crate) struct Stage {
    page_bytes: usize,
    limit_pages: usize,
    buffers: Vec<BufferId>,
    free: Vec<usize>,
    slabs: BTreeMap<u64, Vec<Staged>>,
    /// The same slabs by how many pages they have.
    by_count: BTreeSet<(usize, u64)>,
}

impl Stage {
    /// Room for `memory_bytes` of pages, and for a buffer of them at least: without any, a page
    /// whose slab cannot be opened would wait for nothing.
    pub(crate) fn new(page_bytes: usize, memory_bytes: usize) -> Self {
        Self {
            page_bytes,
            limit_pages: (memory_bytes / BUFFER_BYTES).max(1) * (BUFFER_BYTES / page_bytes),
            buffers: Vec::new(),
            free: Vec::new(),
            slabs: BTreeMap::new(),
            by_count: BTreeSet::new(),
        }
    }

    fn bytes_of(&self, place: usize) -> (BufferId, Range<usize>) {
        let in_buffer = BUFFER_BYTES / self.page_bytes;
        let start = place % in_buffer * self.page_bytes;
        (self.buffers[place / in_buffer], start..start + self.page_bytes)
    }

    /// Where page number `page` of `slab` is, if it is here.
    pub(crate) fn find(&self, slab: u64, page: usize) -> Option<(BufferId, Range<usize>)> {
        let staged = self.slabs.get(&slab)?.iter().find(|staged| staged.page == page)?;
        Some(self.bytes_of(staged.place))
    }

    /// A place for a page that is not here yet; `None` if there is no room.
    pub(crate) fn add(
        &mut self,
        pool: &mut Pool,
        slab: u64,
        page: usize,
    ) -> Result<Option<(BufferId, Range<usize>)>, OutOfMemory> {
        if self.free.is_empty() {
            let pages = self.buffers.len() * (BUFFER_BYTES / self.page_bytes);
            if pages >= self.limit_pages {
                return Ok(None);
            }
            self.buffers.push(pool.take(BUFFER_BYTES)?);
            self.free.extend((pages..pages + BUFFER_BYTES / self.page_bytes).rev());
        }
        let Some(place) = self.free.pop() else { return Ok(None) };
        let pages = self.slabs.entry(slab).or_default();
        self.by_count.remove(&(pages.len(), slab));
        pages.push(Staged { page, place });
        self.by_count.insert((pages.len(), slab));
        Ok(Some(self.bytes_of(place)))
    }

    /// Pages of `slab` that are here.
    pub(crate) fn count(&self, slab: u64) -> usize {
        self.slabs.get(&slab).map_or(0, Vec::len)
    }

    /// Slabs with pages here, those with the most first.
    pub(crate) fn fullest(&self) -> impl Iterator<Item = u64> {
        self.by_count.iter().rev().map(|&(_, slab)| slab)
    }

    /// The lowest slab with pages here.
    pub(crate) fn first(&self) -> Option<u64> {
        self.slabs.first_key_value().map(|(&slab, _)| slab)
    }

    /// Copies the pages of `slab` to their places in `to`, and returns which they were.
    pub(crate) fn move_to(&mut self, pool: &mut Pool, slab: u64, to: BufferId) -> Vec<usize> {
        let pages = self.slabs.remove(&slab).unwrap_or_default();
        self.by_count.remove(&(pages.len(), slab));
        for staged in &pages {
            let (from, range) = self.bytes_of(staged.place);
            let (from, to) = pool.pair(from, to);
            let start = staged.page * self.page_bytes;
            to[start..start + self.page_bytes].copy_from_slice(&from[range]);
            self.free.push(staged.place);
        }
        pages.into_iter().map(|staged| staged.page).collect()
    }

    /// No page is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.slabs.is_empty()
    }

    /// Forgets all pages and gives the memory back.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        self.slabs.clear();
        self.by_count.clear();
        self.free.clear();
        self.buffers.drain(..).for_each(|buffer| pool.release(buffer));
    }
}
