//! Other iterables whose bodies have a known grammar: `block`, `spapr/htab`, `s390-storage_attributes`.

use crate::error::ErrorKind;
use crate::prelude::*;
use crate::section::{put_str8, str8};
use crate::span::{Parsed, Span, take};
use crate::width::to_usize;
use nom::Parser;
use nom::number::streaming::{be_u16, be_u32, be_u64};

/// A chunk of a disk in a `block` record is always this long, in bytes.
pub const BLOCK_CHUNK_BYTES: usize = 1 << 20;

/// A record of the `block` section (block migration, removed in 9.1; `block_load`, migration/block.c). The
/// flag word is a be64: sector number << 9 and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockMigration<'a> {
    /// A chunk of a disk.
    Chunk {
        /// First sector.
        sector: u64,
        /// The disk.
        device: &'a [u8],
        /// 1 MiB, or none: all zero.
        data: Option<&'a [u8]>,
    },
    /// Percentage done.
    Progress(u64),
    /// The body ends.
    EndOfSection,
}

impl<'a> BlockMigration<'a> {
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> BlockMigration<'b> {
        match self {
            Self::Chunk { sector, device, data } => {
                BlockMigration::Chunk { sector, device: map(device), data: data.map(map) }
            }
            Self::Progress(percent) => BlockMigration::Progress(percent),
            Self::EndOfSection => BlockMigration::EndOfSection,
        }
    }
}

/// Parses a `block` record.
///
/// # Errors
///
/// `Value` for unknown flags.
pub(crate) fn block_migration(input: Span<'_>) -> Parsed<'_, BlockMigration<'_>> {
    let (rest, word) = be_u64.parse(input)?;
    let sector = word >> 9;
    match word & 0x1ff {
        0x1 => {
            let (rest, device) = str8(rest)?;
            let (rest, data) = take(rest, BLOCK_CHUNK_BYTES)?;
            Ok((rest, BlockMigration::Chunk { sector, device, data: Some(data) }))
        }
        0x9 => {
            let (rest, device) = str8(rest)?;
            Ok((rest, BlockMigration::Chunk { sector, device, data: None }))
        }
        0x4 => Ok((rest, BlockMigration::Progress(sector))),
        0x2 if sector == 0 => Ok((rest, BlockMigration::EndOfSection)),
        0x2 => {
            let what = "sector of a block section's end";
            Err(input.reject(ErrorKind::Value { what, found: sector, expected: "0" }))
        }
        found => Err(input.reject(ErrorKind::Value {
            what: "block flags",
            found,
            expected: "0x1, 0x2, 0x4 or 0x9",
        })),
    }
}

/// Writes what `block_migration` accepts.
pub fn put_block_migration(out: &mut Vec<u8>, record: &BlockMigration<'_>) {
    match record {
        BlockMigration::Chunk { sector, device, data } => {
            let flags = if data.is_some() { 0x1 } else { 0x9 };
            out.extend_from_slice(&(sector << 9 | flags).to_be_bytes());
            put_str8(out, device);
            out.extend_from_slice(data.unwrap_or_default());
        }
        BlockMigration::Progress(percent) => out.extend_from_slice(&(percent << 9 | 0x4).to_be_bytes()),
        BlockMigration::EndOfSection => out.extend_from_slice(&2u64.to_be_bytes()),
    }
}

/// A record of the `spapr/htab` section (`htab_load`, hw/ppc/spapr.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Htab<'a> {
    /// START's whole body: log2 of the table's size; all ones: none.
    Shift(u32),
    /// PART and END begin with a be32 0.
    Header,
    /// Consecutive entries of 16 bytes.
    Entries {
        /// First entry.
        index: u32,
        /// Entries that follow.
        valid: u16,
        /// Entries behind them that are empty.
        invalid: u16,
        /// `valid` times 16 bytes.
        data: &'a [u8],
    },
    /// The body ends.
    EndOfSection,
}

impl<'a> Htab<'a> {
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> Htab<'b> {
        match self {
            Self::Shift(shift) => Htab::Shift(shift),
            Self::Header => Htab::Header,
            Self::Entries { index, valid, invalid, data } => {
                Htab::Entries { index, valid, invalid, data: map(data) }
            }
            Self::EndOfSection => Htab::EndOfSection,
        }
    }
}

/// Parses START's body, or the be32 that begins PART's and END's.
///
/// # Errors
///
/// `Value` if PART or END begin with something else than 0.
pub(crate) fn htab_header(input: Span<'_>, start: bool) -> Parsed<'_, Htab<'_>> {
    let (rest, word) = be_u32.parse(input)?;
    match (start, word) {
        (true, shift) => Ok((rest, Htab::Shift(shift))),
        (false, 0) => Ok((rest, Htab::Header)),
        (false, found) => Err(input.reject(ErrorKind::Value {
            what: "htab section header",
            found: u64::from(found),
            expected: "0",
        })),
    }
}

/// Parses a run of entries, or the zeros that end a body.
///
/// # Errors
///
/// `Incomplete` only.
pub(crate) fn htab_entries(input: Span<'_>) -> Parsed<'_, Htab<'_>> {
    let (rest, index) = be_u32.parse(input)?;
    let (rest, valid) = be_u16.parse(rest)?;
    let (rest, invalid) = be_u16.parse(rest)?;
    if (index, valid, invalid) == (0, 0, 0) {
        return Ok((rest, Htab::EndOfSection));
    }
    let (rest, data) = take(rest, usize::from(valid) * 16)?;
    Ok((rest, Htab::Entries { index, valid, invalid, data }))
}

/// Writes what `htab_header` and `htab_entries` accept.
pub fn put_htab(out: &mut Vec<u8>, record: &Htab<'_>) {
    match record {
        Htab::Shift(shift) => out.extend_from_slice(&shift.to_be_bytes()),
        Htab::Header => out.extend_from_slice(&[0; 4]),
        Htab::Entries { index, valid, invalid, data } => {
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&valid.to_be_bytes());
            out.extend_from_slice(&invalid.to_be_bytes());
            out.extend_from_slice(data);
        }
        Htab::EndOfSection => out.extend_from_slice(&[0; 8]),
    }
}

/// A record of the `s390-storage_attributes` section (`cmma_load`, hw/s390x/s390-stattrib.c): a be64 of
/// guest frame number << 12 and flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageAttributes<'a> {
    /// Attributes of consecutive frames, one byte each.
    Values {
        /// First guest frame number.
        frame: u64,
        /// One byte per frame.
        values: &'a [u8],
    },
    /// The source is done; the body goes on.
    Done,
    /// The body ends.
    EndOfSection,
}

impl<'a> StorageAttributes<'a> {
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> StorageAttributes<'b> {
        match self {
            Self::Values { frame, values } => StorageAttributes::Values { frame, values: map(values) },
            Self::Done => StorageAttributes::Done,
            Self::EndOfSection => StorageAttributes::EndOfSection,
        }
    }
}

/// The most attributes in one record: what QEMU reads from the kernel at once is far less.
const ATTRIBUTES_LIMIT: u64 = 1 << 20;

/// Parses a record.
///
/// # Errors
///
/// `Limit`, `Value` for unknown flags and for the error that the source reports.
pub(crate) fn storage_attributes(input: Span<'_>) -> Parsed<'_, StorageAttributes<'_>> {
    let (rest, word) = be_u64.parse(input)?;
    let frame = word >> 12;
    match word & 0xfff {
        0x2 => {
            let (after, count) = be_u64.parse(rest)?;
            if count > ATTRIBUTES_LIMIT {
                let (found, limit) = (count, ATTRIBUTES_LIMIT);
                return Err(rest.reject(ErrorKind::Limit { what: "attribute count", found, limit }));
            }
            let (rest, values) = take(after, to_usize(count))?;
            Ok((rest, StorageAttributes::Values { frame, values }))
        }
        0x8 if frame == 0 => Ok((rest, StorageAttributes::Done)),
        0x1 if frame == 0 => Ok((rest, StorageAttributes::EndOfSection)),
        0x1 | 0x8 => {
            let what = "frame of a storage attribute mark";
            Err(input.reject(ErrorKind::Value { what, found: frame, expected: "0" }))
        }
        found => {
            let expected = "0x1, 0x2 or 0x8 (0x4 is an error of the source)";
            Err(input.reject(ErrorKind::Value { what: "storage attribute flags", found, expected }))
        }
    }
}

/// Writes what `storage_attributes` accepts.
pub fn put_storage_attributes(out: &mut Vec<u8>, record: &StorageAttributes<'_>) {
    match record {
        StorageAttributes::Values { frame, values } => {
            out.extend_from_slice(&(frame << 12 | 0x2).to_be_bytes());
            out.extend_from_slice(&(values.len() as u64).to_be_bytes());
            out.extend_from_slice(values);
        }
        StorageAttributes::Done => out.extend_from_slice(&8u64.to_be_bytes()),
        StorageAttributes::EndOfSection => out.extend_from_slice(&1u64.to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parser<T> = fn(Span<'static>) -> Parsed<'static, T>;

    /// What is written is read back, and every cut of it waits.
    fn check<T: PartialEq + core::fmt::Debug>(parse: Parser<T>, put: fn(&mut Vec<u8>, &T), record: &T) {
        let mut bytes = Vec::new();
        put(&mut bytes, record);
        let bytes: &'static [u8] = bytes.leak();
        let (rest, read) = parse(Span::new(bytes, 0)).unwrap();
        assert_eq!((rest.bytes, &read), (&[][..], record));
        for cut in (0..bytes.len()).take(30) {
            let answer = parse(Span::new(&bytes[..cut], 0));
            assert!(matches!(answer, Err(nom::Err::Incomplete(_))), "{record:?} cut at {cut}");
        }
    }

    #[test]
    fn records_survive_a_round_trip_and_every_cut_waits() {
        static CHUNK: [u8; BLOCK_CHUNK_BYTES] = [3; BLOCK_CHUNK_BYTES];
        let (device, sector) = (&b"drive0"[..], 0x00ab_cdef_0123);
        for record in [
            BlockMigration::Chunk { sector, device, data: Some(&CHUNK) },
            BlockMigration::Chunk { sector, device, data: None },
            BlockMigration::Progress(99),
            BlockMigration::EndOfSection,
        ] {
            check(block_migration, put_block_migration, &record);
        }
        check(|span| htab_header(span, true), put_htab, &Htab::Shift(24));
        check(|span| htab_header(span, false), put_htab, &Htab::Header);
        for (index, valid, invalid) in [(5, 2, 3), (0, 0, 1), (0, 2, 0), (1, 0, 0)] {
            let data = &[9; 32][..usize::from(valid) * 16];
            check(htab_entries, put_htab, &Htab::Entries { index, valid, invalid, data });
        }
        check(htab_entries, put_htab, &Htab::EndOfSection);
        for record in [
            StorageAttributes::Values { frame: 0x000f_edcb_a987, values: &[1, 2, 3] },
            StorageAttributes::Done,
            StorageAttributes::EndOfSection,
        ] {
            check(storage_attributes, put_storage_attributes, &record);
        }
    }

    #[test]
    fn unknown_flags_are_refused() {
        fn refused<T>(answer: &Parsed<'_, T>) -> bool {
            matches!(answer, Err(nom::Err::Failure(_)))
        }
        for word in [0u64, 3, 5, 8, 0x202, 0x100] {
            assert!(refused(&block_migration(Span::new(&word.to_be_bytes(), 0))), "block {word:#x}");
        }
        for word in [0u64, 3, 4, 0x1008, 0x1001, 0x10] {
            assert!(refused(&storage_attributes(Span::new(&word.to_be_bytes(), 0))), "attributes {word:#x}");
        }
        assert!(refused(&htab_header(Span::new(&[0, 0, 0, 1], 0), false)));
        let attributes = |count: u64| [2u64.to_be_bytes(), count.to_be_bytes()].concat();
        assert!(refused(&storage_attributes(Span::new(&attributes(ATTRIBUTES_LIMIT + 1), 0))));
        assert!(!refused(&storage_attributes(Span::new(&attributes(ATTRIBUTES_LIMIT), 0))));
    }
}
