//! `QEMU_VM_COMMAND`: requests from the source to the destination.

use crate::error::ErrorKind;
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::section::{QEMU_VM_COMMAND, counted16, counted32, put_str8, str8};
use crate::span::{Parsed, Span, take};
use nom::Parser;
use nom::number::streaming::{be_u8, be_u16, be_u32, be_u64};

/// The longest package that is accepted (`MAX_VM_CMD_PACKAGED_SIZE` is 4 GiB in QEMU; tens of KiB are usual).
const PACKAGE_LIMIT_BYTES: u32 = 256 << 20;

/// A range of a RAM block, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscardRange {
    /// Offset in the block.
    pub start: u64,
    /// Its length.
    pub length: u64,
}

/// A command (`enum qemu_vm_cmd`, migration/savevm.c).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command<'a> {
    /// 1: the destination answers on the reverse direction from now on.
    OpenReturnPath,
    /// 2: the destination answers with PONG and this value.
    Ping(u32),
    /// 3: postcopy may follow. None: of dirty bitmaps only.
    PostcopyAdvise(Option<PostcopyAdvise>),
    /// 4: pages are requested and placed one by one from now on.
    PostcopyListen,
    /// 5: the guest runs.
    PostcopyRun,
    /// 6: these pages will come again.
    PostcopyRamDiscard {
        /// The block's name.
        block: &'a [u8],
        /// At least one range.
        ranges: Vec<DiscardRange>,
    },
    /// 7: a part of the stream that is loaded from memory.
    Packaged(&'a [u8]),
    /// 8: COLO.
    EnableColo,
    /// 9: an interrupted postcopy goes on.
    PostcopyResume,
    /// 10: which pages of this block arrived?
    RecvBitmap(&'a [u8]),
    /// 11: the source has stopped (10.0).
    SwitchoverStart,
}

impl<'a> Command<'a> {
    /// QEMU's name of it (`mig_cmd_args`, migration/savevm.c), with an underscore for a blank.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::OpenReturnPath => "OPEN_RETURN_PATH",
            Self::Ping(_) => "PING",
            Self::PostcopyAdvise(_) => "POSTCOPY_ADVISE",
            Self::PostcopyListen => "POSTCOPY_LISTEN",
            Self::PostcopyRun => "POSTCOPY_RUN",
            Self::PostcopyRamDiscard { .. } => "POSTCOPY_RAM_DISCARD",
            Self::Packaged(_) => "PACKAGED",
            Self::EnableColo => "ENABLE_COLO",
            Self::PostcopyResume => "POSTCOPY_RESUME",
            Self::RecvBitmap(_) => "RECV_BITMAP",
            Self::SwitchoverStart => "SWITCHOVER_START",
        }
    }

    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> Command<'b> {
        match self {
            Self::OpenReturnPath => Command::OpenReturnPath,
            Self::Ping(value) => Command::Ping(value),
            Self::PostcopyAdvise(advise) => Command::PostcopyAdvise(advise),
            Self::PostcopyListen => Command::PostcopyListen,
            Self::PostcopyRun => Command::PostcopyRun,
            Self::PostcopyRamDiscard { block, ranges } => {
                Command::PostcopyRamDiscard { block: map(block), ranges }
            }
            Self::Packaged(package) => Command::Packaged(map(package)),
            Self::EnableColo => Command::EnableColo,
            Self::PostcopyResume => Command::PostcopyResume,
            Self::RecvBitmap(block) => Command::RecvBitmap(map(block)),
            Self::SwitchoverStart => Command::SwitchoverStart,
        }
    }
}

/// The page sizes that both sides must have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostcopyAdvise {
    /// Bitwise or of the host page sizes of all blocks, in bytes.
    pub page_size_summary: u64,
    /// Target page size, in bytes.
    pub target_page_size: u64,
}

/// Parses a command, its type byte included: number (be16), length (be16), payload. A package's bytes follow
/// the payload and are part of it here.
///
/// # Errors
///
/// `Command`, `CommandLength`, `Value`, `Limit`, `EmptyName`.
pub(crate) fn command(input: Span<'_>) -> Parsed<'_, Command<'_>> {
    let (at_number, _) = be_u8.parse(input)?;
    let (at_length, number) = be_u16.parse(at_number)?;
    let (at_payload, length) = be_u16.parse(at_length)?;
    let fixed = |name, expected: u16, text| {
        if length == expected {
            Ok(())
        } else {
            Err(at_length.reject(ErrorKind::CommandLength { command: name, found: length, expected: text }))
        }
    };
    let (rest, payload) = take(at_payload, usize::from(length))?;
    let payload = Span::new(payload, at_payload.offset);
    let command = match number {
        1 => fixed("OPEN_RETURN_PATH", 0, "0").map(|()| Command::OpenReturnPath)?,
        2 => {
            fixed("PING", 4, "4")?;
            Command::Ping(be_u32.parse(payload)?.1)
        }
        3 if length == 0 => Command::PostcopyAdvise(None),
        3 => {
            fixed("POSTCOPY_ADVISE", 16, "0 or 16")?;
            let (at_target, page_size_summary) = be_u64.parse(payload)?;
            let (_, target_page_size) = be_u64.parse(at_target)?;
            if PageSize::new(target_page_size).is_none() {
                let (found, expected) = (target_page_size, PageSize::EXPECTED);
                return Err(at_target.reject(ErrorKind::Value {
                    what: "advised page size",
                    found,
                    expected,
                }));
            }
            if page_size_summary < target_page_size {
                let (found, expected) = (page_size_summary, "page sizes that no target page is larger than");
                return Err(payload.reject(ErrorKind::Value { what: "advised page sizes", found, expected }));
            }
            Command::PostcopyAdvise(Some(PostcopyAdvise { page_size_summary, target_page_size }))
        }
        4 => fixed("POSTCOPY_LISTEN", 0, "0").map(|()| Command::PostcopyListen)?,
        5 => fixed("POSTCOPY_RUN", 0, "0").map(|()| Command::PostcopyRun)?,
        6 => discard(payload, length, at_length)?,
        7 => {
            fixed("PACKAGED", 4, "4")?;
            let (_, package) = be_u32.parse(payload)?;
            if package > PACKAGE_LIMIT_BYTES {
                let (found, limit) = (u64::from(package), u64::from(PACKAGE_LIMIT_BYTES));
                return Err(payload.reject(ErrorKind::Limit { what: "package length", found, limit }));
            }
            let (rest, package) = take(rest, package as usize)?;
            return Ok((rest, Command::Packaged(package)));
        }
        8 => fixed("ENABLE_COLO", 0, "0").map(|()| Command::EnableColo)?,
        9 => fixed("POSTCOPY_RESUME", 0, "0").map(|()| Command::PostcopyResume)?,
        10 => {
            let inner =
                payload.bytes.split_first().filter(|(n, name)| usize::from(**n) == name.len() && **n > 0);
            let Some((_, name)) = inner else {
                let kind =
                    ErrorKind::CommandLength { command: "RECV_BITMAP", found: length, expected: "1 + name" };
                return Err(at_length.reject(kind));
            };
            Command::RecvBitmap(name)
        }
        11 => fixed("SWITCHOVER_START", 0, "0").map(|()| Command::SwitchoverStart)?,
        found => return Err(at_number.reject(ErrorKind::Command { found })),
    };
    Ok((rest, command))
}

/// Parses the payload of POSTCOPY_RAM_DISCARD: version 0 (u8), block (str8), 0 (u8), then start and length
/// (be64 each) at least once (`loadvm_postcopy_ram_handle_discard`, migration/savevm.c).
fn discard<'a>(
    payload: Span<'a>,
    length: u16,
    at_length: Span<'a>,
) -> Result<Command<'a>, nom::Err<crate::span::Reject>> {
    let wrong = |_| {
        let expected = "3 + name + 16 per range";
        at_length.reject(ErrorKind::CommandLength {
            command: "POSTCOPY_RAM_DISCARD",
            found: length,
            expected,
        })
    };
    let (rest, version) = be_u8.parse(payload).map_err(wrong)?;
    if version != 0 {
        let found = u64::from(version);
        return Err(payload.reject(ErrorKind::Value { what: "discard version", found, expected: "0" }));
    }
    let at_name = rest;
    let (at_end, block) = str8(rest).map_err(wrong)?;
    if block.is_empty() {
        return Err(at_name.reject(ErrorKind::EmptyName { what: "ram block name" }));
    }
    let (mut rest, terminator) = be_u8.parse(at_end).map_err(wrong)?;
    if terminator != 0 {
        let found = u64::from(terminator);
        return Err(at_end.reject(ErrorKind::Value { what: "terminator", found, expected: "0" }));
    }
    if rest.bytes.is_empty() || rest.bytes.len() % 16 != 0 {
        return Err(wrong(nom::Err::Incomplete(nom::Needed::Unknown)));
    }
    let mut ranges = Vec::new();
    while !rest.bytes.is_empty() {
        let (at_length, start) = be_u64.parse(rest)?;
        let (after, length) = be_u64.parse(at_length)?;
        let expected = "a multiple of the host page size";
        if !start.is_multiple_of(PageSize::SMALLEST.into()) {
            return Err(rest.reject(ErrorKind::Value { what: "discard start", found: start, expected }));
        }
        // QEMU takes an empty range on anonymous memory, and fails on memory with a file behind it.
        if length == 0
            || !length.is_multiple_of(PageSize::SMALLEST.into())
            || start.checked_add(length).is_none()
        {
            return Err(at_length.reject(ErrorKind::Value {
                what: "discard length",
                found: length,
                expected,
            }));
        }
        ranges.push(DiscardRange { start, length });
        rest = after;
    }
    Ok(Command::PostcopyRamDiscard { block, ranges })
}

/// Writes what `command` accepts. More than fits its length field (64 KiB of a payload, 4 GiB of a package)
/// is cut.
pub fn put_command(out: &mut Vec<u8>, command: &Command<'_>) {
    let mut payload = Vec::new();
    let number: u16 = match command {
        Command::OpenReturnPath => 1,
        Command::Ping(value) => {
            payload.extend_from_slice(&value.to_be_bytes());
            2
        }
        Command::PostcopyAdvise(advise) => {
            if let Some(advise) = advise {
                payload.extend_from_slice(&advise.page_size_summary.to_be_bytes());
                payload.extend_from_slice(&advise.target_page_size.to_be_bytes());
            }
            3
        }
        Command::PostcopyListen => 4,
        Command::PostcopyRun => 5,
        Command::PostcopyRamDiscard { block, ranges } => {
            payload.push(0);
            put_str8(&mut payload, block);
            payload.push(0);
            for range in ranges {
                payload.extend_from_slice(&range.start.to_be_bytes());
                payload.extend_from_slice(&range.length.to_be_bytes());
            }
            6
        }
        Command::Packaged(package) => {
            payload.extend_from_slice(&counted32(package).0.to_be_bytes());
            7
        }
        Command::EnableColo => 8,
        Command::PostcopyResume => 9,
        Command::RecvBitmap(block) => {
            put_str8(&mut payload, block);
            10
        }
        Command::SwitchoverStart => 11,
    };
    out.push(QEMU_VM_COMMAND);
    out.extend_from_slice(&number.to_be_bytes());
    let (length, payload) = counted16(&payload);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    if let Command::Packaged(package) = command {
        out.extend_from_slice(counted32(package).1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_a_round_trip_and_every_cut_waits() {
        let range = DiscardRange { start: 1 << 40, length: 3 << 20 };
        let advise = |page_size_summary, target_page_size| {
            Command::PostcopyAdvise(Some(PostcopyAdvise { page_size_summary, target_page_size }))
        };
        for expected in [
            Command::OpenReturnPath,
            Command::Ping(0x0102_0304),
            Command::PostcopyAdvise(None),
            advise(1 << 10, 1 << 10),
            advise(1 << 21 | 1 << 12, 1 << 16),
            Command::PostcopyListen,
            Command::PostcopyRun,
            Command::PostcopyRamDiscard { block: b"pc.ram", ranges: vec![range; 2] },
            Command::Packaged(&[5; 70]),
            Command::EnableColo,
            Command::PostcopyResume,
            Command::RecvBitmap(b"pc.ram"),
            Command::SwitchoverStart,
        ] {
            let mut bytes = Vec::new();
            put_command(&mut bytes, &expected);
            let (rest, read) = command(Span::new(&bytes, 0)).unwrap();
            assert_eq!((rest.bytes, &read), (&[][..], &expected));
            for cut in 0..bytes.len() {
                let answer = command(Span::new(&bytes[..cut], 0));
                assert!(matches!(answer, Err(nom::Err::Incomplete(_))), "{expected:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn lengths_and_values_that_cannot_be_are_refused_with_their_place() {
        let check = |number: u8, payload: &[u8], offset: u64| {
            let length = u8::try_from(payload.len()).unwrap();
            let bytes = [&[8, 0, number, 0, length][..], payload].concat();
            match command(Span::new(&bytes, 0)) {
                Err(nom::Err::Failure(reject)) => assert_eq!(reject.offset, offset, "{number} {payload:?}"),
                other => panic!("{number} {payload:?}: {other:?}"),
            }
        };
        for number in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] {
            check(number, &[0; 5], if number == 6 { 6 } else { 3 });
        }
        check(0, &[], 1);
        check(12, &[], 1);
        let advise = |summary: u64, target: u64| [summary.to_be_bytes(), target.to_be_bytes()].concat();
        check(3, &advise(4096, 3000), 13);
        check(3, &advise(4096, 512), 13);
        check(3, &advise(1 << 20, 1 << 17), 13);
        check(3, &advise(4095, 4096), 5);
        let discard = |version: u8, name: &[u8], end: u8, ranges: &[u64]| {
            let ranges = ranges.iter().flat_map(|number| number.to_be_bytes());
            let length = u8::try_from(name.len()).unwrap();
            [&[version, length][..], name, &[end]].concat().into_iter().chain(ranges).collect::<Vec<u8>>()
        };
        check(6, &discard(1, b"a", 0, &[0, 4096]), 5);
        check(6, &discard(0, b"", 0, &[0, 4096]), 6);
        check(6, &discard(0, b"a", 1, &[0, 4096]), 8);
        check(6, &discard(0, b"a", 0, &[]), 3);
        check(6, &discard(0, b"a", 0, &[0]), 3);
        check(6, &discard(0, b"a", 0, &[512, 4096]), 9);
        for length in [0, 512, 4097, 0u64.wrapping_sub(1024)] {
            check(6, &discard(0, b"a", 0, &[2048, length]), 17);
        }
        check(7, &((256u32 << 20) + 1).to_be_bytes(), 5);
        let limit = [&[8, 0, 7, 0, 4][..], &(256u32 << 20).to_be_bytes()].concat();
        assert!(matches!(command(Span::new(&limit, 0)), Err(nom::Err::Incomplete(_))));
        check(10, &[0], 3);
        check(10, &[], 3);
        check(10, &[3, b'a', b'b'], 3);
    }
}
