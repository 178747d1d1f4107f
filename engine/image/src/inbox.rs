//! Parts of the file that were asked for, until they are used.

use crate::types::{ALIGNMENT_BYTES, HostOffset};
use std::collections::HashMap;

/// An answer that may need a part of the file first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// Here it is.
    Ready(T),
    /// Read these bytes (both numbers are multiples of 4096; what lies behind the end of the file is zero), supply
    /// them, and ask again.
    Need(HostOffset, usize),
}

/// What was supplied and not used yet; at most a few parts at a time.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    parts: HashMap<u64, Vec<u8>>,
}

impl Inbox {
    pub(crate) fn supply(&mut self, at: HostOffset, bytes: &[u8]) {
        self.parts.insert(at.0, bytes.to_vec());
    }

    /// Takes `length` bytes at `at`, or says what to read.
    pub(crate) fn take(&mut self, at: u64, length: u64) -> Lookup<Vec<u8>> {
        if length == 0 {
            return Lookup::Ready(Vec::new());
        }
        let start = at - at % ALIGNMENT_BYTES;
        let needed =
            usize::try_from((at + length).next_multiple_of(ALIGNMENT_BYTES) - start).unwrap_or(usize::MAX);
        match self.parts.remove(&start) {
            Some(bytes) if bytes.len() >= needed => {
                let skip = usize::try_from(at - start).unwrap_or(0);
                Lookup::Ready(bytes[skip..skip + usize::try_from(length).unwrap_or(0)].to_vec())
            }
            _ => Lookup::Need(HostOffset(start), needed),
        }
    }

    /// Takes several parts as one, when all of them are there.
    pub(crate) fn take_all(&mut self, places: &[(Option<u64>, u64)]) -> Lookup<Vec<u8>> {
        for &(host, length) in places {
            let Some(at) = host else { continue };
            match self.take(at, length) {
                Lookup::Need(at, length) => return Lookup::Need(at, length),
                // Put it back: the others may still be missing.
                Lookup::Ready(bytes) => {
                    let start = at - at % ALIGNMENT_BYTES;
                    let mut whole = vec![0; usize::try_from(at - start).unwrap_or(0)];
                    whole.extend_from_slice(&bytes);
                    whole.resize(
                        whole.len().next_multiple_of(usize::try_from(ALIGNMENT_BYTES).unwrap_or(1)),
                        0,
                    );
                    self.parts.insert(start, whole);
                }
            }
        }
        let mut all = Vec::new();
        for &(host, length) in places {
            match host.map(|at| self.take(at, length)) {
                Some(Lookup::Ready(bytes)) => all.extend_from_slice(&bytes),
                Some(Lookup::Need(at, length)) => return Lookup::Need(at, length),
                None => all.resize(all.len() + usize::try_from(length).unwrap_or(0), 0),
            }
        }
        Lookup::Ready(all)
    }
}

/// Returns early where a part of the file is needed first.
macro_rules! ready {
    ($lookup:expr) => {
        match $lookup {
            $crate::inbox::Lookup::Ready(value) => value,
            $crate::inbox::Lookup::Need(at, length) => return Ok($crate::inbox::Lookup::Need(at, length)),
        }
    };
}
pub(crate) use ready;
