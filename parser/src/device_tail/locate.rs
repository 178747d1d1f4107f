//! Where a device tail ends: EOF and vmdesc.

use crate::decoder::VMDESC_LIMIT_BYTES;
use crate::error::ErrorKind;
use crate::section::{QEMU_VM_EOF, QEMU_VM_SECTION_FOOTER, QEMU_VM_VMDESCRIPTION, VMDESC_HEADER_BYTES};
use core::ops::Range;

/// The end of a tail that has a vmdesc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where EOF is; the device sections end there.
    pub eof: usize,
    /// Where the JSON of the vmdesc is.
    pub vmdesc: Range<usize>,
}

/// Where the stream would end, judged by what has arrived of its tail: behind the first thing that looks like
/// EOF and the start of a vmdesc, where the section before has a footer. The first `searched` bytes were
/// searched before, in vain, so that a tail which arrives in parts is searched once.
#[must_use]
pub fn expected_end(tail: &[u8], searched: usize) -> Option<u64> {
    // A mark that is not whole yet is looked at again; the smallest tail with a footer is longer than 5
    // bytes.
    let mut at = searched.saturating_sub(6).max(5);
    while let Some(found) = tail.get(at..)?.windows(7).position(|window| {
        window[0] == QEMU_VM_EOF && window[1] == QEMU_VM_VMDESCRIPTION && window[2] == 0 && window[6] == b'{'
    }) {
        let eof = at + found;
        let length = u32::from_be_bytes([tail[eof + 2], tail[eof + 3], tail[eof + 4], tail[eof + 5]]);
        // With a zero as its first byte the length is within its limit.
        if tail[eof - 5] == QEMU_VM_SECTION_FOOTER {
            return Some((eof + 1 + VMDESC_HEADER_BYTES) as u64 + u64::from(length));
        }
        at = eof + 1;
    }
    None
}

/// Finds the EOF before a vmdesc that reaches exactly to the end of `tail`. The JSON has no control bytes, so
/// the first match from behind is the only one that can be.
#[must_use]
pub fn locate(tail: &[u8]) -> Option<Located> {
    let shortest = tail.len().checked_sub(7)?;
    let eof = (0..=shortest).rev().take(VMDESC_LIMIT_BYTES as usize).find(|&eof| {
        let rest = &tail[eof..];
        rest[0] == QEMU_VM_EOF
            && rest[1] == QEMU_VM_VMDESCRIPTION
            && rest[6] == b'{'
            && u32::from_be_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize == rest.len() - 6
    })?;
    Some(Located { eof, vmdesc: eof + 1 + VMDESC_HEADER_BYTES..tail.len() })
}

/// An EOF behind a footer, and behind it the start of a vmdesc that is longer than is accepted: where EOF
/// is, and what is wrong. To be asked where [`locate`] finds nothing.
#[must_use]
pub fn oversized_vmdesc(tail: &[u8], footers: bool) -> Option<(usize, ErrorKind)> {
    let length = |mark: &[u8]| u32::from_be_bytes([mark[2], mark[3], mark[4], mark[5]]);
    let begins = |at: usize, mark: &[u8]| {
        mark[..2] == [QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION]
            && mark[6] == b'{'
            && length(mark) > VMDESC_LIMIT_BYTES
            && (!footers || at == 0 || at >= 5 && tail[at - 5] == QEMU_VM_SECTION_FOOTER)
    };
    let (eof, mark) = tail.windows(7).enumerate().find(|(at, mark)| begins(*at, mark))?;
    let (found, limit) = (length(mark).into(), VMDESC_LIMIT_BYTES.into());
    Some((eof, ErrorKind::Limit { what: "vmdesc length", found, limit }))
}
