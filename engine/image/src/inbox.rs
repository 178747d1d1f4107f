//! Parts of the file that were asked for, until they are used.

use crate::size::to_usize;
use crate::types::{ALIGNMENT_BYTES, HostOffset};
use std::collections::BTreeMap;

/// An answer, or the part of the file that is needed first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// The answer.
    Ready(T),
    /// Read these bytes (both numbers are multiples of 4096; what lies behind the end of the file
    /// is zero), supply them, and ask again.
    Need(HostOffset, usize),
}

/// Parts of a file that were supplied and not used yet; at most a few at a time.
#[derive(Debug)]
pub(crate) struct Inbox {
    file_length: u64,
    parts: BTreeMap<u64, Vec<u8>>,
}

impl Inbox {
    /// For a file of this many bytes.
    pub(crate) fn new(file_length: u64) -> Self {
        Self { file_length, parts: BTreeMap::new() }
    }

    /// Length of the file in bytes.
    pub(crate) fn file_length(&self) -> u64 {
        self.file_length
    }

    pub(crate) fn supply(&mut self, at: HostOffset, bytes: &[u8]) {
        self.parts.insert(at.0, bytes.to_vec());
    }

    /// Takes `length` bytes at `at`, or says what to read.
    pub(crate) fn take(&mut self, at: u64, length: u64) -> Lookup<Vec<u8>> {
        if length == 0 {
            return Lookup::Ready(Vec::new());
        }
        let (start, needed) = aligned(at, length);
        if self.part(start, needed).is_none() {
            return Lookup::Need(HostOffset(start), needed);
        }
        let mut bytes = self.parts.remove(&start).unwrap_or_default();
        bytes.drain(..to_usize(at - start));
        bytes.truncate(to_usize(length));
        Lookup::Ready(bytes)
    }

    /// Takes several parts as one, once all of them have been supplied. An untrusted image may name one part
    /// twice.
    pub(crate) fn take_all(&mut self, places: &[(Option<u64>, u64)]) -> Lookup<Vec<u8>> {
        if let [(Some(at), length)] = *places {
            return self.take(at, length);
        }
        let mut all = Vec::new();
        for &(host, length) in places {
            let end = all.len() + to_usize(length);
            if let Some(at) = host {
                let (start, needed) = aligned(at, length);
                let Some(part) = self.part(start, needed) else {
                    return Lookup::Need(HostOffset(start), needed);
                };
                let skip = to_usize(at - start);
                all.extend_from_slice(part.get(skip..).unwrap_or_default());
            }
            // What has no place is zero, and a part may be longer than what is wanted of it.
            all.resize(end, 0);
        }
        for at in places.iter().filter_map(|&(host, _)| host) {
            self.parts.remove(&(at - at % ALIGNMENT_BYTES));
        }
        Lookup::Ready(all)
    }

    fn part(&self, start: u64, needed: usize) -> Option<&[u8]> {
        self.parts.get(&start).map(Vec::as_slice).filter(|bytes| bytes.len() >= needed)
    }
}

/// Where a read of `length` bytes at `at` begins, and how long it is.
fn aligned(at: u64, length: u64) -> (u64, usize) {
    let start = at - at % ALIGNMENT_BYTES;
    let needed = (at + length).next_multiple_of(ALIGNMENT_BYTES) - start;
    (start, to_usize(needed))
}

/// The answer of a lookup; returns early where a part of the file is needed first.
macro_rules! ready {
    ($lookup:expr) => {
        match $lookup {
            $crate::inbox::Lookup::Ready(value) => value,
            $crate::inbox::Lookup::Need(at, length) => return Ok($crate::inbox::Lookup::Need(at, length)),
        }
    };
}
pub(crate) use ready;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(from: u8) -> Vec<u8> {
        (from..from + 16).flat_map(|sector| [sector; 512]).collect()
    }

    #[test]
    fn a_part_is_asked_for_then_taken_once() {
        let mut inbox = Inbox::new(1 << 20);
        assert_eq!(inbox.take(8704, 1024), Lookup::Need(HostOffset(8192), 4096));
        inbox.supply(HostOffset(8192), &bytes(0));
        assert_eq!(inbox.take(8704, 1024), Lookup::Ready([vec![1; 512], vec![2; 512]].concat()));
        assert_eq!(inbox.take(8704, 1024), Lookup::Need(HostOffset(8192), 4096));
        assert_eq!(inbox.take(8704, 0), Lookup::Ready(Vec::new()));
    }

    #[test]
    fn parts_are_put_together_with_zeros_where_there_is_none_and_one_may_come_twice() {
        let mut inbox = Inbox::new(1 << 20);
        let places = [(Some(8192), 512), (None, 3), (Some(40960 + 512), 1024), (Some(8192), 1024)];
        assert_eq!(inbox.take_all(&places), Lookup::Need(HostOffset(8192), 4096));
        inbox.supply(HostOffset(8192), &bytes(7));
        assert_eq!(inbox.take_all(&places), Lookup::Need(HostOffset(40960), 4096));
        inbox.supply(HostOffset(40960), &bytes(1));
        let wanted = [vec![7; 512], vec![0; 3], vec![2; 512], vec![3; 512], vec![7; 512], vec![8; 512]];
        assert_eq!(inbox.take_all(&places), Lookup::Ready(wanted.concat()));
        assert!(inbox.parts.is_empty());
    }
}
