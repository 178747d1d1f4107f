//! Dirty bitmaps as a source sends them.

use crate::rng::{Rng, mix};
use crate::size::{at_most_u32, to_usize};
use migration_stream::{
    ChunkKind, DirtyBitmapChunk, SectionId, put_dirty_bitmap_chunk, put_section_end, put_section_footer,
    put_section_part,
};

/// The section of dirty bitmaps.
pub(super) const BITMAPS: SectionId = SectionId(3);

const SECTOR_BYTES: u64 = 512;
/// The most bytes of a bitmap in one chunk (`CHUNK_SIZE`, migration/block-dirty-bitmap.c).
const CHUNK_BYTES: u64 = 1024;

/// A bitmap of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceBitmap {
    /// The disk's node.
    pub node: Vec<u8>,
    /// The bitmap.
    pub name: Vec<u8>,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Bytes of disk per bit.
    pub granularity: u32,
    /// It goes on recording.
    pub enabled: bool,
    /// It is kept in the disk's image.
    pub persistent: bool,
    /// Decides which bits are set.
    pub seed: u64,
}

impl SourceBitmap {
    /// Number of bits.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.disk_bytes.div_ceil(u64::from(self.granularity))
    }

    /// Whether a bit is set. Whole chunks are clear in some places.
    #[must_use]
    pub fn bit(&self, number: u64) -> bool {
        let chunk = number / (CHUNK_BYTES * 8);
        number < self.bits()
            && !mix(self.seed ^ mix(chunk)).is_multiple_of(3)
            && Rng::new(self.seed ^ number).chance(20)
    }
}

/// A body: chunks and its end.
fn put_body(out: &mut Vec<u8>, chunks: impl FnOnce(&mut Vec<u8>)) {
    chunks(out);
    put_dirty_bitmap_chunk(
        out,
        &DirtyBitmapChunk { node: None, bitmap: None, kind: ChunkKind::EndOfSection },
    );
}

/// The body of START.
pub(super) fn put_starts(out: &mut Vec<u8>, bitmaps: &[SourceBitmap]) {
    put_body(out, |out| {
        for bitmap in bitmaps {
            let flags = u8::from(bitmap.enabled) | u8::from(bitmap.persistent) << 1;
            let kind = ChunkKind::Start { granularity: bitmap.granularity, flags };
            put_dirty_bitmap_chunk(out, &chunk(bitmap, kind));
        }
    });
}

/// A section with all bits and completions; END, or PART and END in postcopy.
pub(super) fn put_bits(out: &mut Vec<u8>, bitmaps: &[SourceBitmap], postcopy: bool) {
    if postcopy {
        put_section_part(out, BITMAPS);
        put_body(out, |out| bitmaps.iter().for_each(|bitmap| put_chunks(out, bitmap)));
        put_section_footer(out, BITMAPS);
    }
    put_section_end(out, BITMAPS);
    put_body(out, |out| {
        for bitmap in bitmaps {
            if !postcopy {
                put_chunks(out, bitmap);
            }
            put_dirty_bitmap_chunk(out, &chunk(bitmap, ChunkKind::Complete));
        }
    });
    put_section_footer(out, BITMAPS);
}

fn chunk<'a>(bitmap: &'a SourceBitmap, kind: ChunkKind<'a>) -> DirtyBitmapChunk<'a> {
    DirtyBitmapChunk { node: Some(&bitmap.node), bitmap: Some(&bitmap.name), kind }
}

fn put_chunks(out: &mut Vec<u8>, bitmap: &SourceBitmap) {
    let sectors_per_bit = u64::from(bitmap.granularity) / SECTOR_BYTES;
    let disk_sectors = bitmap.disk_bytes / SECTOR_BYTES;
    // A chunk says its sectors in 32 bits.
    let bits_per_chunk = (CHUNK_BYTES * 8).min((u64::from(u32::MAX) / sectors_per_bit).max(1));
    let mut first = 0;
    while first < bitmap.bits() {
        let end = (first + bits_per_chunk).min(bitmap.bits());
        let bytes = to_usize((end - first).div_ceil(8).next_multiple_of(32));
        let mut bits = vec![0u8; bytes];
        for number in (first..end).filter(|&number| bitmap.bit(number)) {
            bits[to_usize((number - first) / 8)] |= 1 << ((number - first) % 8);
        }
        let set = bits.iter().any(|&byte| byte != 0);
        let sectors = (end * sectors_per_bit).min(disk_sectors) - first * sectors_per_bit;
        let kind = ChunkKind::Bits {
            first_sector: first * sectors_per_bit,
            sectors: at_most_u32(sectors),
            bits: set.then_some(&bits[..]),
        };
        put_dirty_bitmap_chunk(out, &chunk(bitmap, kind));
        first = end;
    }
}
