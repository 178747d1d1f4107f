//! Finds where device sections before RAM end.
//!
//! Devices that must be loaded before RAM (virtio-mem) are sent first, as FULL sections without a length;
//! only the vmdesc at the far end of the stream has it. But the RAM section's START behind them can be told
//! from other bytes: its header is fixed, and the lengths in its block list sum up to the total exactly.
//!
//! Where such a device was registered behind RAM, it is between RAM's START and its first PART (10.0):
//! the PART begins with the id that is known by then, and names a block that was listed.

use crate::error::EarlyDevicesError;
use crate::page_size::PageSize;
use crate::ram::block::{BlockListContext, optional_fields};
use crate::ram::{
    RAM_SAVE_FLAG_EOS, RAM_SAVE_FLAG_MEM_SIZE, RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_XBZRLE, RAM_SAVE_FLAG_ZERO,
};
use crate::section::{
    FOOTER_BYTES, QEMU_VM_SECTION_END, QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_PART, QEMU_VM_SECTION_START,
    SectionId, section_header, str8,
};
use crate::span::{Parsed, Span};
use core::ops::Range;
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
    Wrong(EarlyDevicesError),
}

const START_TAIL: &[u8] = b"\x03ram\0\0\0\0\0\0\0\x04";
/// Other iterables, whose START may come first.
const OTHERS: [(&[u8], u32); 4] =
    [(b"dirty-bitmap", 1), (b"block", 1), (b"spapr/htab", 1), (b"s390-storage_attributes", 0)];
/// How far the first PART is looked for.
const BEHIND_LIMIT_BYTES: usize = 64 << 20;
const HEADER_BYTES: usize = 1 + 4 + START_TAIL.len() + 8;

impl Search {
    /// How many bytes stand before what follows early devices behind RAM's START.
    pub(crate) fn border_behind(&mut self, bytes: &[u8], next: Next<'_>) -> Result<usize, Stop> {
        for at in self.scanned..bytes.len() {
            match next.candidate(bytes, at) {
                Candidate::No => self.scanned = at + 1,
                Candidate::NeedMore => return Err(Stop::NeedMore),
                Candidate::Yes(_) => return Ok(at),
            }
            if at > BEHIND_LIMIT_BYTES {
                return Err(Stop::Wrong(EarlyDevicesError::NoRamPart));
            }
        }
        Err(Stop::NeedMore)
    }

    /// How many bytes stand before the RAM section's START.
    pub(crate) fn border(&mut self, bytes: &[u8], context: BlockListContext) -> Result<usize, Stop> {
        while self.scanned + HEADER_BYTES <= bytes.len() {
            let at = self.scanned;
            match candidate(&bytes[at..], context) {
                Candidate::No => self.scanned += 1,
                Candidate::NeedMore => return Err(Stop::NeedMore),
                Candidate::Yes(length) => return the_only_one(bytes, at..at + length, context).map(|()| at),
            }
        }
        Err(Stop::NeedMore)
    }
}

/// The section in this range cannot hold another START: a match inside it means that one of the two is device
/// data that happens to look like one. One that reaches over its end counts, too, and may need more bytes.
fn the_only_one(bytes: &[u8], section: Range<usize>, context: BlockListContext) -> Result<(), Stop> {
    for at in section.skip(1) {
        match candidate(&bytes[at..], context) {
            Candidate::No => {}
            Candidate::NeedMore => return Err(Stop::NeedMore),
            Candidate::Yes(_) => {
                return Err(Stop::Wrong(EarlyDevicesError::TwoEnds));
            }
        }
    }
    Ok(())
}

/// What may follow early devices behind RAM's START.
#[derive(Clone, Copy)]
pub(crate) struct Next<'a> {
    /// Id of the RAM section.
    pub(crate) ram: SectionId,
    pub(crate) page_size: PageSize,
    /// The used length of the block with a name. Bytes may look like the name of a page as often as they
    /// want.
    pub(crate) listed: &'a dyn Fn(&[u8]) -> Option<u64>,
    pub(crate) footers: bool,
}

impl Next<'_> {
    fn candidate(self, bytes: &[u8], at: usize) -> Candidate {
        let behind_footer = at >= FOOTER_BYTES && bytes[at - FOOTER_BYTES] == QEMU_VM_SECTION_FOOTER;
        if self.footers && !behind_footer {
            return Candidate::No;
        }
        let rest = &bytes[at + 1..];
        match bytes[at] {
            QEMU_VM_SECTION_PART | QEMU_VM_SECTION_END => self.part(rest),
            QEMU_VM_SECTION_START => match section_header(Span::new(rest, 0)) {
                Ok((_, header)) if OTHERS.contains(&(header.idstr, header.version_id)) => Candidate::Yes(0),
                Err(nom::Err::Incomplete(_)) => Candidate::NeedMore,
                _ => Candidate::No,
            },
            _ => Candidate::No,
        }
    }

    /// The id of the RAM section, and a page of a listed block or the end of the body.
    fn part(self, rest: &[u8]) -> Candidate {
        let Some((id, rest)) = rest.split_first_chunk::<4>() else { return Candidate::NeedMore };
        if u32::from_be_bytes(*id) != self.ram.0 {
            return Candidate::No;
        }
        let Some((word, rest)) = rest.split_first_chunk::<8>() else { return Candidate::NeedMore };
        let word = u64::from_be_bytes(*word);
        let mask = u64::from(self.page_size) - 1;
        if word == RAM_SAVE_FLAG_EOS {
            return Candidate::Yes(0);
        }
        if ![RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_ZERO, RAM_SAVE_FLAG_XBZRLE].contains(&(word & mask)) {
            return Candidate::No;
        }
        let Some((&length, rest)) = rest.split_first() else { return Candidate::NeedMore };
        let Some(name) = rest.get(..usize::from(length)) else { return Candidate::NeedMore };
        let listed = (self.listed)(name).is_some_and(|used_length| word & !mask < used_length);
        if listed { Candidate::Yes(0) } else { Candidate::No }
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
    let behind_id = bytes.get(5..).unwrap_or_default();
    let Some(rest) = behind_id.strip_prefix(START_TAIL) else {
        return if START_TAIL.starts_with(behind_id) { Candidate::NeedMore } else { Candidate::No };
    };
    let input = Span::new(rest, 0);
    match list_end(input, context) {
        Ok((end, true)) => Candidate::Yes(bytes.len() - rest.len() + input.consumed(&end)),
        Ok((_, false)) => Candidate::No,
        Err(_) => Candidate::NeedMore,
    }
}

/// The end of a block list whose lengths sum up to its total; false if this is none. What else is wrong with
/// a list is reported when it is parsed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_size::PageSize;
    use crate::prelude::*;
    use crate::ram::block::RamBlock;

    fn listed_in(blocks: &[RamBlock]) -> impl Fn(&[u8]) -> Option<u64> + use<> {
        let blocks = blocks.to_vec();
        move |name| blocks.iter().find(|block| block.idstr == name).map(|block| block.used_length)
    }

    fn block() -> RamBlock {
        RamBlock {
            idstr: b"pc.ram".to_vec(),
            used_length: 1 << 20,
            host_page_size: None,
            guest_physical_address: None,
        }
    }

    #[test]
    fn the_first_part_of_ram_ends_early_devices_and_bytes_that_look_alike_do_not() {
        let blocks = [block()];
        let next = Next {
            ram: SectionId(1),
            page_size: PageSize::DEFAULT,
            listed: &listed_in(&blocks),
            footers: true,
        };
        let mut bytes = vec![4, 0, 0, 0, 9];
        // A PART of another section, one of RAM without a footer before it, and one with a page outside of
        // the block.
        bytes.extend_from_slice(b"\x7e\0\0\0\x09\x02\0\0\0\x02\0\0\0\0\0\0\0\x08\x06pc.ram");
        bytes.extend_from_slice(b"\0\0\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0\x08\x06pc.ram");
        bytes.extend_from_slice(b"\x7e\0\0\0\x09\x02\0\0\0\x01\0\0\0\0\0\x10\0\x08\x06pc.ram");
        let expected = bytes.len() + 5;
        bytes.extend_from_slice(b"\x7e\0\0\0\x09\x02\0\0\0\x01\0\0\0\0\0\0\x20\x08\x06pc.ram");
        assert_eq!(Search::default().border_behind(&bytes, next), Ok(expected));
        let mut search = Search::default();
        for cut in 0..bytes.len() {
            assert_eq!(search.border_behind(&bytes[..cut], next), Err(Stop::NeedMore), "cut at {cut}");
        }
        assert_eq!(search.border_behind(&bytes, next), Ok(expected));
    }

    const CONTEXT: BlockListContext = BlockListContext {
        page_size: PageSize::DEFAULT,
        page_size_guessed: false,
        advised: false,
        ignore_shared: false,
        max_ram_bytes: 1 << 40,
    };

    /// START of `ram` with a list of these words: the total, then name and length of each block.
    fn ram(total: u64, blocks: &[(&[u8], u64)]) -> Vec<u8> {
        let mut out = vec![QEMU_VM_SECTION_START, 0, 0, 0, 1];
        out.extend_from_slice(START_TAIL);
        out.extend_from_slice(&total.to_be_bytes());
        for (name, length) in blocks {
            out.push(u8::try_from(name.len()).unwrap());
            out.extend_from_slice(name);
            out.extend_from_slice(&length.to_be_bytes());
        }
        out
    }

    #[test]
    fn the_block_list_tells_ram_from_what_looks_like_it() {
        let right = ram(0x3004, &[(b"a", 0x1000), (b"b", 0x2000)]);
        let border = |bytes: &[u8]| Search::default().border(bytes, CONTEXT);
        assert_eq!(border(&right), Ok(0));
        for wrong in [
            ram(0x3002, &[(b"a", 0x1000), (b"b", 0x2000)]),
            ram(0x3004, &[(b"a", 0x1000), (b"", 0x2000)]),
            ram(0x3004, &[(b"a", 0), (b"b", 0x3000)]),
            ram(0x3004, &[(b"a", 0x4000), (b"b", 0x2000)]),
            ram(0x3004, &[(b"a", 0x1001), (b"b", 0x1fff)]),
        ] {
            assert_eq!(border(&wrong), Err(Stop::NeedMore), "{wrong:?}");
            assert_eq!(border(&[&wrong[..], &right].concat()), Ok(wrong.len()), "{wrong:?}");
        }
        // Inside of the list of one, another: as the name of a block.
        let name = &right[..];
        let twice = ram(0x1004, &[(name, 0x1000)]);
        assert!(matches!(border(&twice), Err(Stop::Wrong(_))));
    }

    #[test]
    fn what_may_follow_early_devices_behind_ram() {
        let blocks = [block()];
        let next = Next {
            ram: SectionId(1),
            page_size: PageSize::DEFAULT,
            listed: &listed_in(&blocks),
            footers: true,
        };
        let behind = |rest: &[u8]| {
            let bytes = [b"\x04xx\x7e\0\0\0\x09", rest].concat();
            Search::default().border_behind(&bytes, next)
        };
        // The end of the body at once; a page with a flag that is none; one of a block that is not listed.
        assert_eq!(behind(b"\x03\0\0\0\x01\0\0\0\0\0\0\0\x10"), Ok(8));
        assert_eq!(behind(b"\x02\0\0\0\x01\0\0\0\0\0\0\x20\x01\x06pc.ram"), Err(Stop::NeedMore));
        assert_eq!(behind(b"\x02\0\0\0\x01\0\0\0\0\0\0\x20\x08\x06pc.rom"), Err(Stop::NeedMore));
        // START of something else, of an iterable in a version that is none, and of one that has not come
        // yet.
        let start = |idstr: &[u8], version: u8| {
            let mut out = vec![1, 0, 0, 0, 5, u8::try_from(idstr.len()).unwrap()];
            out.extend_from_slice(idstr);
            out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, version]);
            out
        };
        assert_eq!(behind(&start(b"block", 1)), Ok(8));
        let mut unknown = start(b"block", 9);
        unknown.extend_from_slice(&[0; 300]);
        assert_eq!(behind(&unknown), Err(Stop::NeedMore));
        let mut search = Search::default();
        let bytes = [b"\x04xx\x7e\0\0\0\x09", &start(b"dirty-bitmap", 1)[..]].concat();
        assert_eq!(search.border_behind(&bytes[..15], next), Err(Stop::NeedMore));
        assert_eq!(search.border_behind(&bytes, next), Ok(8));
        // Without footers anything may stand before it.
        let next = Next { footers: false, ..next };
        assert_eq!(Search::default().border_behind(b"\x04xx\x03\0\0\0\x01\0\0\0\0\0\0\0\x10", next), Ok(3));
    }

    #[test]
    fn the_first_part_is_looked_for_up_to_the_limit() {
        let next = Next {
            ram: SectionId(1),
            page_size: PageSize::DEFAULT,
            listed: &listed_in(&[block()]),
            footers: true,
        };
        let found =
            |bytes: usize| Search { scanned: BEHIND_LIMIT_BYTES - 1 }.border_behind(&vec![0; bytes], next);
        assert_eq!(found(BEHIND_LIMIT_BYTES + 1), Err(Stop::NeedMore));
        let wrong = Stop::Wrong(EarlyDevicesError::NoRamPart);
        assert_eq!(found(BEHIND_LIMIT_BYTES + 2), Err(wrong));
    }

    #[test]
    fn a_start_that_reaches_over_the_end_of_the_list_is_inside_too() {
        let list = ram(0x100_0004, &[(b"a", 0x100_0000)]);
        // The last bytes of the list, 01 and three zeros, begin another START.
        let over = [&list[..], &list[4..]].concat();
        let wrong = Stop::Wrong(EarlyDevicesError::TwoEnds);
        assert_eq!(Search::default().border(&over, CONTEXT), Err(wrong));
        // However few bytes of it there are at first.
        for cut in 0..over.len() {
            assert_eq!(Search::default().border(&over[..cut], CONTEXT), Err(Stop::NeedMore), "cut at {cut}");
        }
        let behind = [&list[..], &list].concat();
        assert_eq!(Search::default().border(&behind, CONTEXT), Ok(0));
    }

    #[test]
    fn another_iterable_may_come_first() {
        let next = Next {
            ram: SectionId(1),
            page_size: PageSize::DEFAULT,
            listed: &listed_in(&[block()]),
            footers: true,
        };
        let bytes = b"\x04xx\x7e\0\0\0\x09\x01\0\0\0\x05\x0cdirty-bitmap\0\0\0\0\0\0\0\x01";
        assert_eq!(Search::default().border_behind(bytes, next), Ok(8));
    }

    #[test]
    fn a_block_list_ends_where_its_lengths_sum_up() {
        let block = |idstr: &[u8], used_length| RamBlock { idstr: idstr.to_vec(), used_length, ..block() };
        let context = BlockListContext {
            page_size: PageSize::DEFAULT,
            page_size_guessed: false,
            advised: false,
            ignore_shared: false,
            max_ram_bytes: 1 << 40,
        };
        let list = |total: u64, blocks: &[RamBlock]| {
            let mut bytes = Vec::new();
            let blocks = blocks.to_vec();
            crate::ram::block::put_ram_blocks(&mut bytes, &crate::ram::block::BlockList { blocks });
            bytes[..8].copy_from_slice(&total.to_be_bytes());
            bytes
        };
        let said =
            |bytes: &[u8]| list_end(Span::new(bytes, 0), context).map(|(rest, is)| (rest.bytes.len(), is));
        let blocks = [block(b"a", 3 << 12), block(b"b", 1 << 12)];
        let bytes = list(4 << 12 | RAM_SAVE_FLAG_MEM_SIZE, &blocks);
        assert_eq!(said(&bytes).ok(), Some((0, true)));
        assert_eq!(said(&[&bytes[..], b"more"].concat()).ok(), Some((4, true)));
        (0..bytes.len()).for_each(|cut| assert!(said(&bytes[..cut]).is_err(), "cut at {cut}"));
        for (total, blocks) in [
            (4 << 12 | 8, blocks.to_vec()),
            (3 << 12 | RAM_SAVE_FLAG_MEM_SIZE, vec![block(b"a", 2 << 12), block(b"b", 2 << 12)]),
            (4 << 12 | RAM_SAVE_FLAG_MEM_SIZE, vec![block(b"a", 0), block(b"b", 4 << 12)]),
            (4 << 12 | RAM_SAVE_FLAG_MEM_SIZE, vec![block(b"", 4 << 12)]),
            (4 << 12 | RAM_SAVE_FLAG_MEM_SIZE, vec![block(b"a", 0x1800), block(b"b", 0x2800)]),
        ] {
            let said = said(&list(total, &blocks));
            assert!(said.as_ref().is_ok_and(|(_, is)| !is), "{total:#x} {blocks:?}");
        }
    }
}
