//! Slices of RAM on their way from the disk to the destination.
//!
//! Many reads are under way at once and complete in any order; slices leave in theirs. A slice is a
//! range of one RAM block, with a buffer that holds its non-zero pages at their places.

use crate::machine::IoId;
use crate::pool::BufferId;
use std::collections::VecDeque;

/// A page that a slice holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlicePage {
    /// Its place in the slice, in pages.
    pub(crate) at: u64,
    /// Its checksum, where the image has them.
    pub(crate) checksum: Option<u32>,
}

/// A range of one RAM block.
#[derive(Debug)]
pub(crate) struct Slice {
    /// Index in the block list.
    pub(crate) block: usize,
    /// Byte offset in the block.
    pub(crate) offset: u64,
    /// Its length in pages, zero pages included.
    pub(crate) pages: u64,
    /// Pages to be read, ascending; all others are zero.
    pub(crate) present: Vec<SlicePage>,
    /// Holds the pages at their places; none if there is nothing to read.
    pub(crate) buffer: Option<BufferId>,
}

#[derive(Debug)]
struct Entry {
    slice: Slice,
    reading: Option<IoId>,
}

/// The slices under way, in the order in which they leave.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
}

impl Ring {
    /// Slices under way.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// No slice is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends a slice whose read, if any, has been started.
    pub(crate) fn push(&mut self, slice: Slice, reading: Option<IoId>) {
        self.entries.push_back(Entry { slice, reading });
    }

    /// Records a completed read, and tells of which block and from which offset it was; none
    /// if it is none of these.
    pub(crate) fn done(&mut self, id: IoId) -> Option<(usize, u64)> {
        let entry = self.entries.iter_mut().find(|entry| entry.reading == Some(id))?;
        entry.reading = None;
        Some((entry.slice.block, entry.slice.offset))
    }

    /// The next slice in order, if its read is complete.
    pub(crate) fn pop_ready(&mut self) -> Option<Slice> {
        if self.entries.front()?.reading.is_some() {
            return None;
        }
        self.entries.pop_front().map(|entry| entry.slice)
    }
}
