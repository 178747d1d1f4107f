//! Finds where device sections before RAM end.
//!
//! Devices that must be loaded before RAM (virtio-mem) are sent first, as FULL sections without a length; only the
//! vmdesc at the far end of the stream tells it. But the RAM section's START behind them can be told from other bytes:
//! its header is fixed, and the lengths in its block list sum up to the total exactly.

use crate::ram::RAM_SAVE_FLAG_MEM_SIZE;
use crate::ram::block::{BlockListContext, optional_fields};
use crate::section::{QEMU_VM_SECTION_START, str8};
use crate::span::{Parsed, Span};
use nom::Parser;
use nom::number::streaming::be_u64;

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
    pub(crate) fn border(&mut self, bytes: &[u8], context: BlockListContext) -> Result<usize, Stop> {
        let mut found = None;
        let mut at = self.scanned;
        while at + HEADER_BYTES <= bytes.len() {
            match candidate(&bytes[at..], context) {
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
                        .any(|other| matches!(candidate(&bytes[other..], context), Candidate::Yes(_)))
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

fn candidate(bytes: &[u8], context: BlockListContext) -> Candidate {
    if bytes[0] != QEMU_VM_SECTION_START {
        return Candidate::No;
    }
    let Some(rest) = bytes.get(5..).and_then(|rest| rest.strip_prefix(START_TAIL)) else {
        return Candidate::No;
    };
    let input = Span::new(rest, 0);
    match list_end(input, context) {
        Ok((end, true)) => Candidate::Yes(bytes.len() - rest.len() + input.consumed(&end)),
        Ok((_, false)) => Candidate::No,
        Err(_) => Candidate::NeedMore,
    }
}

/// The end of a block list whose lengths sum up to its total; false if this is none. What else is wrong with a list is
/// told when it is parsed.
fn list_end(input: Span<'_>, context: BlockListContext) -> Parsed<'_, bool> {
    let mask = u64::from(context.page_size) - 1;
    let (mut rest, word) = be_u64.parse(input)?;
    if word & mask != RAM_SAVE_FLAG_MEM_SIZE {
        return Ok((rest, false));
    }
    let mut remaining = word & !mask;
    while remaining > 0 {
        let (at_length, name) = str8(rest)?;
        if name.is_empty() {
            return Ok((rest, false));
        }
        let (after, used) = be_u64.parse(at_length)?;
        if used == 0 || used > remaining || used & mask != 0 {
            return Ok((rest, false));
        }
        remaining -= used;
        (rest, _) = optional_fields(after, context)?;
    }
    Ok((rest, true))
}
