//! A sparse file in memory.

use snapshot_image::{HostOffset, Step};
use std::collections::BTreeMap;
use std::ops::Range;

const SECTOR: u64 = 4096;
/// The longest read that is asked for at once: a root, or a table of QEMU's largest size.
const READ_LIMIT: usize = 64 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct File {
    sectors: BTreeMap<u64, Vec<u8>>,
    length: u64,
}

impl File {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn set_length(&mut self, length: u64) {
        self.length = length;
        self.sectors.retain(|&at, _| at < length);
    }

    pub(crate) fn carry_out(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            match step {
                Step::Write { at, bytes } => {
                    assert!(
                        at.0.is_multiple_of(SECTOR) && (bytes.len() as u64).is_multiple_of(SECTOR),
                        "{at:?}"
                    );
                    self.write(at.0, &bytes);
                }
                Step::SetLength(length) => self.set_length(length),
                Step::Ballast(_) => {}
                Step::Flush => {}
            }
        }
    }

    /// Any bytes at any place, hole or not.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let (mut place, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let start = usize::try_from(place % SECTOR).unwrap();
            let (part, behind) = rest.split_at(rest.len().min(4096 - start));
            let sector = self.sectors.entry(place - start as u64).or_insert_with(|| vec![0; 4096]);
            sector[start..start + part.len()].copy_from_slice(part);
            place += part.len() as u64;
            rest = behind;
        }
        self.length = self.length.max(at + bytes.len() as u64);
    }

    /// Makes a hole of these whole sectors.
    pub(crate) fn punch(&mut self, hole: Range<u64>) {
        self.sectors.retain(|at, _| !hole.contains(at));
    }

    /// Writes zeros wherever something is written in this range.
    pub(crate) fn clear(&mut self, range: Range<u64>) {
        self.sectors.range_mut(range).for_each(|(_, sector)| sector.fill(0));
    }

    pub(crate) fn put_be32(&mut self, at: u64, value: u32) {
        self.write(at, &value.to_be_bytes());
    }

    pub(crate) fn put_be64(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_be_bytes());
    }

    pub(crate) fn flip(&mut self, bit: u64) {
        let byte = self.read(bit / 8, 1)[0] ^ 1 << (bit % 8);
        self.write(bit / 8, &[byte]);
    }

    pub(crate) fn be32(&self, at: u64) -> u32 {
        u32::from_be_bytes(self.read(at, 4).try_into().unwrap())
    }

    pub(crate) fn be64(&self, at: u64) -> u64 {
        u64::from_be_bytes(self.read(at, 8).try_into().unwrap())
    }

    pub(crate) fn read_part(&self, part: &super::Part) -> Vec<u8> {
        self.read(part.at, usize::try_from(part.length).unwrap())
    }

    /// What lies behind the end is zero.
    pub(crate) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        let end = at + length as u64;
        for (&start, sector) in self.sectors.range(at - at % SECTOR..end) {
            let (from, to) = (start.max(at), (start + SECTOR).min(end));
            let place = |from: u64, base: u64| usize::try_from(from - base).unwrap();
            out[place(from, at)..place(to, at)]
                .copy_from_slice(&sector[place(from, start)..place(to, start)]);
        }
        out
    }

    /// What a reader asked for: aligned, of a sane length, and nowhere but in the file (or its
    /// last, partial cluster).
    pub(crate) fn read_checked(&self, at: HostOffset, length: usize) -> Vec<u8> {
        assert!(
            at.0.is_multiple_of(SECTOR) && (length as u64).is_multiple_of(SECTOR) && length > 0,
            "{at:?} {length}"
        );
        assert!(length <= READ_LIMIT, "{length} bytes at once");
        let end = at.0.checked_add(length as u64).expect("a read behind the end of the world");
        assert!(
            end <= self.length.max(1).next_multiple_of(2 << 20),
            "{at:?}, {length}: the file has {}",
            self.length
        );
        self.read(at.0, length)
    }

    /// Page data of an extent; the last cluster of a file need not be whole.
    pub(crate) fn read_piece(&self, at: HostOffset, length: u64) -> Vec<u8> {
        assert!(at.0 < self.length.next_multiple_of(2 << 20), "{at:?}: the file has {}", self.length);
        self.read(at.0, usize::try_from(length).unwrap())
    }

    pub(crate) fn next_data(&self, from: u64) -> Option<Range<u64>> {
        let (&first, _) = self.sectors.range(from - from % SECTOR..).next()?;
        let mut end = first;
        while self.sectors.contains_key(&end) {
            end += SECTOR;
        }
        Some(first.max(from)..end.min(self.length).max(from))
    }
}
