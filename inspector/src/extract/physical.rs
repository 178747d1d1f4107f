//! The guest's physical memory, for what has to be followed in it.

use super::segment::Segment;
use crate::contents::RamFile;
use crate::size::to_usize;
use std::io;

/// RAM by physical address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Physical<'a> {
    pub(super) ram: &'a RamFile,
    /// Where it lies, in the order of addresses; none overlap.
    pub(super) segments: &'a [Segment],
}

impl Physical<'_> {
    /// Reads; false where not all of it is RAM.
    pub(super) fn read(&self, mut address: u64, mut out: &mut [u8]) -> io::Result<bool> {
        while !out.is_empty() {
            let Some(segment) = self.at(address) else { return Ok(false) };
            let skipped = address - segment.address;
            let length = (segment.bytes() - skipped).min(out.len() as u64);
            let (now, rest) = out.split_at_mut(to_usize(length));
            self.ram.read(segment.block, segment.range.start + skipped, now)?;
            out = rest;
            let Some(next) = address.checked_add(length) else { return Ok(out.is_empty()) };
            address = next;
        }
        Ok(true)
    }

    fn at(&self, address: u64) -> Option<&Segment> {
        let behind = self.segments.partition_point(|segment| segment.address <= address);
        let segment = self.segments.get(behind.checked_sub(1)?)?;
        (address - segment.address < segment.bytes()).then_some(segment)
    }

    /// The parts of a range that are RAM: start and length of each, in order.
    pub(super) fn parts(&self, address: u64, bytes: u64) -> impl Iterator<Item = (u64, u64)> {
        let end = address.saturating_add(bytes);
        let first = self.segments.partition_point(|segment| segment.address + segment.bytes() <= address);
        let segments = self.segments[first..].iter().take_while(move |segment| segment.address < end);
        segments.map(move |segment| {
            let start = segment.address.max(address);
            (start, (segment.address + segment.bytes()).min(end) - start)
        })
    }
}
