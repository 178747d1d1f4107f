//! Guesses the target page size where nothing has it: in what comes through a pipe, on targets that have no
//! `configuration/target-page-bits` (32-bit ARM boards with 1 KiB, alpha and sparc64 with 8 KiB).
//!
//! With another page size than the right one, addresses look like flags, or what follows a page is no record.

use super::{
    RAM_SAVE_FLAG_CONTINUE, RAM_SAVE_FLAG_EOS, RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_XBZRLE, RAM_SAVE_FLAG_ZERO,
};
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::ram::block::RamBlock;
use alloc::collections::BTreeMap;

const DEFAULT_BYTES: u32 = PageSize::DEFAULT.bytes();
/// The page sizes of QEMU's targets, the default first.
const SIZES: [u32; 6] = [DEFAULT_BYTES, 1 << 10, 1 << 11, 1 << 13, 1 << 14, 1 << 16];

/// How far records make sense with one page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trial {
    size: u32,
    records: u64,
    /// Nothing was wrong: the bytes ended, or the body did.
    sound: bool,
    /// The least distance between two pages that follow each other.
    step: Option<u64>,
}

fn trial(mut bytes: &[u8], blocks: &BTreeMap<&[u8], u64>, size: u32) -> Trial {
    let mut trial = Trial { size, records: 0, sound: true, step: None };
    let mask = u64::from(size) - 1;
    let mut last: Option<u64> = None;
    let mut limit = blocks.values().copied().max().unwrap_or(0);
    loop {
        let Some((word, rest)) = bytes.split_first_chunk::<8>() else { return trial };
        let word = u64::from_be_bytes(*word);
        if word == RAM_SAVE_FLAG_EOS {
            return trial;
        }
        let (flags, offset) = (word & mask, word & !mask);
        let mut rest = rest;
        let kind = flags & !RAM_SAVE_FLAG_CONTINUE;
        if flags & RAM_SAVE_FLAG_CONTINUE == 0 {
            let Some((&length, after)) = rest.split_first() else { return trial };
            let Some(name) = after.get(..usize::from(length)) else { return trial };
            let Some(&used_length) = blocks.get(name) else {
                return Trial { sound: false, ..trial };
            };
            limit = used_length;
            last = None;
            rest = &after[usize::from(length)..];
        }
        let body = match kind {
            RAM_SAVE_FLAG_ZERO => 1,
            RAM_SAVE_FLAG_PAGE => size as usize,
            RAM_SAVE_FLAG_XBZRLE => match rest {
                [_, high, low, ..] => 3 + usize::from(u16::from_be_bytes([*high, *low])),
                _ => return trial,
            },
            _ => return Trial { sound: false, ..trial },
        };
        if offset >= limit {
            return Trial { sound: false, ..trial };
        }
        if let Some(step) = last.and_then(|last| offset.checked_sub(last)).filter(|&step| step > 0) {
            trial.step = Some(trial.step.map_or(step, |least| least.min(step)));
        }
        last = Some(offset);
        trial.records += 1;
        let Some(after) = rest.get(body..) else { return trial };
        bytes = after;
    }
}

/// The page size with which `bytes`, the start of the first RAM body with pages in it, makes sense; `None` if
/// the default does as well as any other.
#[must_use]
pub fn guess(bytes: &[u8], blocks: &[RamBlock]) -> Option<PageSize> {
    PageSize::new(guess_bytes(bytes, blocks)?.into())
}

fn guess_bytes(bytes: &[u8], blocks: &[RamBlock]) -> Option<u32> {
    let by_name = blocks.iter().map(|block| (&block.idstr[..], block.used_length)).collect();
    let fits = |size: u32| blocks.iter().all(|block| block.used_length % u64::from(size) == 0);
    let trials: Vec<_> = SIZES
        .into_iter()
        .filter(|&size| fits(size))
        .map(|size| trial(bytes, &by_name, size))
        .filter(|trial| trial.sound && trial.records > 0)
        .collect();
    // Zero pages alone make sense with several sizes: the distance between them shows the right one.
    let by_step = trials.iter().find(|trial| trial.step == Some(u64::from(trial.size)));
    let best = by_step.or_else(|| trials.first())?;
    (best.size != DEFAULT_BYTES).then_some(best.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::{put_end_of_section, put_page_header, put_xbzrle_page, put_zero_page};

    fn body(size: u32, zero: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for number in 0..20u64 {
            let name = (number == 0).then_some(&b"ram"[..]);
            if zero {
                put_zero_page(&mut out, name, number * u64::from(size));
            } else {
                put_page_header(&mut out, name, number * u64::from(size));
                out.resize(out.len() + size as usize, 0xa5);
            }
        }
        put_end_of_section(&mut out);
        out
    }

    #[test]
    fn every_page_size_is_told_by_pages_with_and_without_content() {
        let block = RamBlock {
            idstr: b"ram".to_vec(),
            used_length: 4 << 20,
            host_page_size: None,
            guest_physical_address: None,
        };
        for size in SIZES {
            for zero in [false, true] {
                let expected = (size != DEFAULT_BYTES).then_some(size);
                let bytes = body(size, zero);
                assert_eq!(guess_bytes(&bytes, core::slice::from_ref(&block)), expected, "{size} {zero}");
                // A part of it is enough.
                let part = &bytes[..bytes.len() / 2];
                assert_eq!(guess_bytes(part, core::slice::from_ref(&block)), expected, "{size} {zero}");
            }
        }
        // Wherever they end, pages of 64 KiB are no smaller ones.
        let bytes = body(1 << 16, false);
        for cut in 0..30 {
            let found = guess_bytes(&bytes[..cut], core::slice::from_ref(&block));
            assert!(found.is_none(), "cut at {cut}: {found:?}");
        }
        assert_eq!(guess_bytes(b"", &[block]), None);
    }

    fn blocks() -> [RamBlock; 2] {
        [(&b"ram"[..], 0x8000), (b"rom", 0x4000)].map(|(idstr, used_length)| RamBlock {
            idstr: idstr.to_vec(),
            used_length,
            host_page_size: None,
            guest_physical_address: None,
        })
    }

    /// Records, whether they are sound, and the least step.
    fn tried(bytes: &[u8]) -> (u64, bool, Option<u64>) {
        let blocks = blocks();
        let by_name = blocks.iter().map(|block| (&block.idstr[..], block.used_length)).collect();
        let trial = trial(bytes, &by_name, 4096);
        assert_eq!(trial.size, 4096);
        (trial.records, trial.sound, trial.step)
    }

    fn zero(name: Option<&[u8]>, offset: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_zero_page(&mut out, name, offset);
        out
    }

    #[test]
    fn pages_lie_inside_of_their_block() {
        assert_eq!(tried(&zero(Some(b"rom"), 0x3000)), (1, true, None));
        assert_eq!(tried(&zero(Some(b"rom"), 0x4000)), (0, false, None));
        assert_eq!(tried(&zero(Some(b"vga"), 0)), (0, false, None));
        // Without a name it is in any of them.
        assert_eq!(tried(&zero(None, 0x7000)), (1, true, None));
        assert_eq!(tried(&zero(None, 0x8000)), (0, false, None));
    }

    #[test]
    fn the_step_is_the_least_between_pages_of_a_block() {
        let pages = |rest: &[(Option<&'static [u8]>, u64)]| {
            let bytes: Vec<u8> = rest.iter().flat_map(|(name, offset)| zero(*name, *offset)).collect();
            tried(&bytes)
        };
        assert_eq!(
            pages(&[(Some(b"ram"), 0), (None, 0x3000), (None, 0x5000), (None, 0x5000)]),
            (4, true, Some(0x2000))
        );
        assert_eq!(pages(&[(Some(b"ram"), 0x3000), (None, 0x1000)]), (2, true, None));
        assert_eq!(
            pages(&[(Some(b"ram"), 0), (Some(b"rom"), 0x1000), (None, 0x3000)]),
            (3, true, Some(0x2000))
        );
    }

    #[test]
    fn a_trial_ends_with_the_body_or_the_bytes() {
        let first = zero(Some(b"ram"), 0);
        let mut ended = first.clone();
        put_end_of_section(&mut ended);
        assert_eq!(tried(&[&ended[..], &[0xff; 20]].concat()), (1, true, None));
        assert_eq!(tried(&[&first[..], &[0xff; 20]].concat()), (1, false, None));
        (0..8).for_each(|cut| assert_eq!(tried(&[&first[..], &[0xff; 20][..cut]].concat()), (1, true, None)));
        // The block list is no page, and neither is EOS with a name.
        assert_eq!(tried(&(0x1000u64 | 4).to_be_bytes()), (0, true, None));
        assert_eq!(tried(b"\0\0\0\0\0\0\x10\x04\x03ram"), (0, false, None));
    }

    #[test]
    fn a_delta_has_its_own_length() {
        let mut bytes = Vec::new();
        put_xbzrle_page(&mut bytes, Some(b"ram"), 0, &[0x5a; 0x102]);
        let end = bytes.len();
        bytes.extend(zero(None, 0x1000));
        assert_eq!(tried(&bytes), (2, true, Some(0x1000)));
        assert_eq!(tried(&bytes[..end]), (1, true, None));
        assert_eq!(tried(&bytes[..14]), (0, true, None));
        assert_eq!(tried(&bytes[..15]), (1, true, None));
    }

    #[test]
    fn blocks_are_whole_pages_of_the_size_that_is_told() {
        let bytes = body(1 << 13, true);
        let block = |used_length| RamBlock { used_length, ..blocks()[0].clone() };
        assert_eq!(guess_bytes(&bytes, &[block(1 << 20)]), Some(1 << 13));
        assert_eq!(guess_bytes(&bytes, &[block((1 << 20) + (1 << 12))]), None);
        assert_eq!(guess_bytes(&bytes, &[block(1 << 20), block(1 << 12)]), None);
    }

    #[test]
    fn pages_that_are_not_sound_tell_no_size() {
        let mut bytes = Vec::new();
        put_page_header(&mut bytes, Some(b"ram"), 0);
        bytes.resize(bytes.len() + (1 << 13), 0xa5);
        put_end_of_section(&mut bytes);
        assert_eq!(guess_bytes(&bytes, &blocks()), Some(1 << 13));
        let small = RamBlock { used_length: 1 << 10, ..blocks()[0].clone() };
        assert_eq!(guess_bytes(&zero(Some(b"ram"), 0), core::slice::from_ref(&small)), Some(1 << 10));
        assert_eq!(guess_bytes(b"", &[small]), None);
    }
}
