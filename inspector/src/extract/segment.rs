//! A part of RAM at its place.

use std::ops::Range;

/// A part of a block that the guest has at a physical address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) block: usize,
    pub(super) range: Range<u64>,
}

impl Segment {
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}
