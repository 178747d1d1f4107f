//! The `dirty-bitmap` section: which clusters of which disks a backup has to copy.

use crate::error::ErrorKind;
use crate::prelude::*;
use crate::section::{put_str8, str8};
use crate::span::{Parsed, Span, take};
use crate::width::to_usize;
use nom::Parser;
use nom::number::streaming::{be_u8, be_u32, be_u64};

const FLAG_EOS: u8 = 0x01;
const FLAG_ZEROES: u8 = 0x02;
const FLAG_BITMAP_NAME: u8 = 0x04;
const FLAG_DEVICE_NAME: u8 = 0x08;
const FLAG_START: u8 = 0x10;
const FLAG_COMPLETE: u8 = 0x20;
const FLAG_BITS: u8 = 0x40;
const FLAG_EXTRA: u8 = 0x80;
/// The longest piece of a bitmap that the destination takes (`DIRTY_BITMAP_MIG_... size` check), in bytes.
const BITS_LIMIT_BYTES: u64 = 10240;

/// What a chunk says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChunkKind<'a> {
    /// A bitmap begins.
    Start {
        /// Bytes of disk per bit.
        granularity: u32,
        /// Bit 0 enabled, bit 1 persistent, bit 2 formerly autoload.
        flags: u8,
    },
    /// A bitmap is complete.
    Complete,
    /// A range of it.
    Bits {
        /// First sector (512 bytes).
        first_sector: u64,
        /// Number of sectors.
        sectors: u32,
        /// One bit per granule, little-endian bit order; none: all clear.
        bits: Option<&'a [u8]>,
    },
    /// The body ends.
    EndOfSection,
}

/// One chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyBitmapChunk<'a> {
    /// Node name or alias, where it changes.
    pub node: Option<&'a [u8]>,
    /// Bitmap name or alias, where it changes.
    pub bitmap: Option<&'a [u8]>,
    /// What it says.
    pub kind: ChunkKind<'a>,
}

impl<'a> DirtyBitmapChunk<'a> {
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> DirtyBitmapChunk<'b> {
        let (node, bitmap) = (self.node.map(&mut *map), self.bitmap.map(&mut *map));
        let kind = match self.kind {
            ChunkKind::Start { granularity, flags } => ChunkKind::Start { granularity, flags },
            ChunkKind::Complete => ChunkKind::Complete,
            ChunkKind::Bits { first_sector, sectors, bits } => {
                ChunkKind::Bits { first_sector, sectors, bits: bits.map(map) }
            }
            ChunkKind::EndOfSection => ChunkKind::EndOfSection,
        };
        DirtyBitmapChunk { node, bitmap, kind }
    }
}

/// Parses a chunk: flags (u8), node (str8), bitmap (str8), then by flags (`dirty_bitmap_load`,
/// migration/block-dirty-bitmap.c).
///
/// # Errors
///
/// `DirtyBitmap`, `Limit`.
pub(crate) fn dirty_bitmap_chunk(input: Span<'_>) -> Parsed<'_, DirtyBitmapChunk<'_>> {
    let (mut rest, flags) = be_u8.parse(input)?;
    if flags & FLAG_EXTRA != 0 {
        return Err(input.reject(ErrorKind::DirtyBitmap("flags of more than one byte, none is known")));
    }
    let mut name = |flag| -> Result<Option<&[u8]>, nom::Err<crate::span::Reject>> {
        if flags & flag == 0 {
            return Ok(None);
        }
        let (after, name) = str8(rest)?;
        rest = after;
        Ok(Some(name))
    };
    let node = name(FLAG_DEVICE_NAME)?;
    let bitmap = name(FLAG_BITMAP_NAME)?;
    let (rest, kind) = match flags & !(FLAG_DEVICE_NAME | FLAG_BITMAP_NAME) {
        FLAG_EOS if node.is_none() && bitmap.is_none() => (rest, ChunkKind::EndOfSection),
        FLAG_START => {
            let at_granularity = rest;
            let (at_flags, granularity) = be_u32.parse(rest)?;
            if !granularity.is_power_of_two() || granularity < 512 {
                return Err(at_granularity
                    .reject(ErrorKind::DirtyBitmap("granularity is no power of two from 512 on")));
            }
            let (rest, flags) = be_u8.parse(at_flags)?;
            if flags & !0x07 != 0 {
                return Err(at_flags.reject(ErrorKind::DirtyBitmap("reserved bitmap flags")));
            }
            (rest, ChunkKind::Start { granularity, flags })
        }
        FLAG_COMPLETE => (rest, ChunkKind::Complete),
        bits if bits & !FLAG_ZEROES == FLAG_BITS => {
            let at_first = rest;
            let (rest, first_sector) = be_u64.parse(rest)?;
            let (rest, sectors) = be_u32.parse(rest)?;
            if first_sector.checked_add(u64::from(sectors)).is_none_or(|end| end > 1 << 55) {
                return Err(at_first.reject(ErrorKind::DirtyBitmap("range ends behind any disk")));
            }
            let (rest, bits) = if flags & FLAG_ZEROES == 0 {
                let (after, size) = be_u64.parse(rest)?;
                if size > BITS_LIMIT_BYTES {
                    let (found, limit) = (size, BITS_LIMIT_BYTES);
                    return Err(rest.reject(ErrorKind::Limit { what: "bitmap piece size", found, limit }));
                }
                let (after, bits) = take(after, to_usize(size))?;
                (after, Some(bits))
            } else {
                (rest, None)
            };
            (rest, ChunkKind::Bits { first_sector, sectors, bits })
        }
        _ => return Err(input.reject(ErrorKind::DirtyBitmap("unknown flags"))),
    };
    Ok((rest, DirtyBitmapChunk { node, bitmap, kind }))
}

/// Writes what `dirty_bitmap_chunk` accepts.
pub fn put_dirty_bitmap_chunk(out: &mut Vec<u8>, chunk: &DirtyBitmapChunk<'_>) {
    let kind = match chunk.kind {
        ChunkKind::EndOfSection => FLAG_EOS,
        ChunkKind::Start { .. } => FLAG_START,
        ChunkKind::Complete => FLAG_COMPLETE,
        ChunkKind::Bits { bits: Some(_), .. } => FLAG_BITS,
        ChunkKind::Bits { bits: None, .. } => FLAG_BITS | FLAG_ZEROES,
    };
    let node = if chunk.node.is_some() { FLAG_DEVICE_NAME } else { 0 };
    let bitmap = if chunk.bitmap.is_some() { FLAG_BITMAP_NAME } else { 0 };
    out.push(kind | node | bitmap);
    [chunk.node, chunk.bitmap].into_iter().flatten().for_each(|name| put_str8(out, name));
    match chunk.kind {
        ChunkKind::Start { granularity, flags } => {
            out.extend_from_slice(&granularity.to_be_bytes());
            out.push(flags);
        }
        ChunkKind::Bits { first_sector, sectors, bits } => {
            out.extend_from_slice(&first_sector.to_be_bytes());
            out.extend_from_slice(&sectors.to_be_bytes());
            if let Some(bits) = bits {
                out.extend_from_slice(&(bits.len() as u64).to_be_bytes());
                out.extend_from_slice(bits);
            }
        }
        ChunkKind::Complete | ChunkKind::EndOfSection => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(chunk: &DirtyBitmapChunk<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        put_dirty_bitmap_chunk(&mut out, chunk);
        out
    }

    #[test]
    fn chunks_survive_a_round_trip_and_every_cut_waits() {
        let kinds = [
            ChunkKind::Start { granularity: 512, flags: 7 },
            ChunkKind::Start { granularity: 1 << 31, flags: 0 },
            ChunkKind::Complete,
            ChunkKind::Bits { first_sector: (1 << 55) - 9, sectors: 9, bits: Some(&[0xa5; 10240]) },
            ChunkKind::Bits { first_sector: 0x0102_0304_0506, sectors: 0x0708_090a, bits: None },
        ];
        for kind in kinds {
            for (node, bitmap) in [
                (None, None),
                (Some(&b"drive0"[..]), None),
                (None, Some(&b"b0"[..])),
                (Some(b"d"), Some(b"b")),
            ] {
                let chunk = DirtyBitmapChunk { node, bitmap, kind: kind.clone() };
                let bytes = bytes(&chunk);
                let (rest, read) = dirty_bitmap_chunk(Span::new(&bytes, 0)).unwrap();
                assert_eq!((rest.bytes, read), (&[][..], chunk));
                for cut in (0..bytes.len()).take(40) {
                    let answer = dirty_bitmap_chunk(Span::new(&bytes[..cut], 0));
                    assert!(matches!(answer, Err(nom::Err::Incomplete(_))), "cut at {cut}");
                }
            }
        }
        let end = DirtyBitmapChunk { node: None, bitmap: None, kind: ChunkKind::EndOfSection };
        assert_eq!(bytes(&end), [1]);
        assert_eq!(dirty_bitmap_chunk(Span::new(&[1], 0)).unwrap().1, end);
    }

    #[test]
    fn what_the_destination_does_not_take_is_refused_with_its_place() {
        let check = |bytes: &[u8], offset: u64, kind: &str| match dirty_bitmap_chunk(Span::new(bytes, 0)) {
            Err(nom::Err::Failure(reject)) => {
                assert_eq!((reject.offset, format!("{:?}", reject.kind)), (offset, kind.to_owned()));
            }
            other => panic!("{other:?}"),
        };
        let text = |text: &str| format!("DirtyBitmap({text:?})");
        check(&[0x80, 0], 0, &text("flags of more than one byte, none is known"));
        // An end mark with a name, nothing at all, two things at once.
        check(&[0x09, 1, b'd'], 0, &text("unknown flags"));
        check(&[0x05, 1, b'b'], 0, &text("unknown flags"));
        check(&[0x00], 0, &text("unknown flags"));
        check(&[0x30], 0, &text("unknown flags"));
        check(&[0x02], 0, &text("unknown flags"));
        for granularity in [0u32, 256, 513, 768] {
            let bytes = [&[0x10][..], &granularity.to_be_bytes(), &[0]].concat();
            check(&bytes, 1, &text("granularity is no power of two from 512 on"));
        }
        check(&[0x10, 0, 0, 2, 0, 8], 5, &text("reserved bitmap flags"));
        for (first, sectors) in [((1u64 << 55) - 8, 9u32), (u64::MAX, 1), (1 << 55, 1)] {
            let bytes = [&[0x42][..], &first.to_be_bytes(), &sectors.to_be_bytes()].concat();
            check(&bytes, 1, &text("range ends behind any disk"));
        }
        let bytes = [&[0x40][..], &[0; 12], &10241u64.to_be_bytes()].concat();
        check(&bytes, 13, "Limit { what: \"bitmap piece size\", found: 10241, limit: 10240 }");
    }
}
