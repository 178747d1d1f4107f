//! Finds where device sections before RAM end.
//!
//! Devices that must be loaded before RAM (virtio-mem) are sent first, as FULL sections without a length; only the
//! vmdesc at the far end of the stream tells it. But the RAM section's START behind them can be told from other bytes:
//! its header is fixed, and the lengths in its block list sum up to the total exactly.

use crate::ram::RAM_SAVE_FLAG_MEM_SIZE;

/// Resumes where it stopped for want of bytes: a long search is not begun anew with each of them.
#[derive(Debug, Default)]
pub(crate) struct Search {
    scanned: usize,
}

/// Why there is no border yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    NeedMore,
    Wrong(&'static str),
}

const START_TAIL: &[u8] = b"\x03ram\0\0\0\0\0\0\0\x04";
const HEADER_BYTES: usize = 1 + 4 + START_TAIL.len() + 8;

impl Search {
    /// How many bytes stand before the RAM section's START.
    pub(crate) fn border(&mut self, bytes: &[u8], page_size: u32) -> Result<usize, Stop> {
        let mut found = None;
        let mut at = self.scanned;
        while at + HEADER_BYTES <= bytes.len() {
            match candidate(&bytes[at..], page_size) {
                Candidate::No => {}
                Candidate::NeedMore => {
                    self.scanned = at;
                    return Err(Stop::NeedMore);
                }
                Candidate::Yes(length) => {
                    // The section itself cannot hold another START: a second match inside it means that one of the
                    // two is device data that happens to look like one.
                    let end = at + length;
                    if (at + 1..end)
                        .any(|other| matches!(candidate(&bytes[other..], page_size), Candidate::Yes(_)))
                    {
                        return Err(Stop::Wrong(
                            "two ram sections could begin among the early device sections",
                        ));
                    }
                    found = Some(at);
                    break;
                }
            }
            at += 1;
        }
        self.scanned = at;
        found.ok_or(Stop::NeedMore)
    }
}

enum Candidate {
    No,
    NeedMore,
    Yes(usize),
}

fn candidate(bytes: &[u8], page_size: u32) -> Candidate {
    if bytes[0] != 0x01 {
        return Candidate::No;
    }
    let Some(rest) = bytes.get(5..).and_then(|rest| rest.strip_prefix(START_TAIL)) else {
        return Candidate::No;
    };
    let Some((word, mut rest)) = rest.split_first_chunk::<8>() else { return Candidate::NeedMore };
    let word = u64::from_be_bytes(*word);
    let mask = u64::from(page_size) - 1;
    if word & mask != RAM_SAVE_FLAG_MEM_SIZE {
        return Candidate::No;
    }
    let mut remaining = word & !mask;
    while remaining > 0 {
        let Some((&length, after)) = rest.split_first() else { return Candidate::NeedMore };
        if length == 0 {
            return Candidate::No;
        }
        let Some(after) = after.get(usize::from(length)..) else { return Candidate::NeedMore };
        let Some((used, after)) = after.split_first_chunk::<8>() else { return Candidate::NeedMore };
        let used = u64::from_be_bytes(*used);
        if used == 0 || used > remaining || used & mask != 0 {
            return Candidate::No;
        }
        remaining -= used;
        rest = after;
    }
    Candidate::Yes(bytes.len() - rest.len())
}
