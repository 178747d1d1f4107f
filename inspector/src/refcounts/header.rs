//! What counting references needs of a QCOW2 header.

use super::{Problem, read};
use crate::input::{be, be32};
use crate::source::RandomAccess;

/// QEMU's own limits, in bytes.
const L1_LIMIT_BYTES: u64 = 32 << 20;
const REFCOUNT_TABLE_LIMIT_BYTES: u64 = 8 << 20;
const EXTENSIONS_LIMIT_BYTES: u64 = 64 << 10;
const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_DATA_FILE: u64 = 4;
const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
const EXTENSION_BITMAPS: u64 = 0x2385_2875;
const EXTENSION_CRYPTO: u64 = 0x0537_be77;

/// A range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) bytes: u64,
}

/// The header.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) cluster_bits: u32,
    pub(super) refcount_order: u32,
    pub(super) l1: Place,
    pub(super) refcount_table: Place,
    pub(super) snapshots: u64,
    pub(super) snapshots_at: u64,
    /// Number of bitmaps, and their directory.
    pub(super) bitmaps: Option<(u64, Place)>,
    pub(super) crypto: Option<Place>,
    /// Refcounts are not kept up to date while the image is in use, and it was not closed.
    pub(super) dirty: bool,
    pub(super) data_file: bool,
    pub(super) extended_l2: bool,
}

impl Header {
    pub(super) fn read(file: &dyn RandomAccess) -> Result<Self, Problem> {
        let bytes = read(file, 0, 104)?;
        let field = |at: usize, length: usize| be(&bytes[at..at + length]);
        let version = field(4, 4);
        let newer = version >= 3;
        if field(0, 4) != 0x5146_49fb || !(2..=3).contains(&version) {
            return Err(Problem::Wrong(format!("not a qcow2 image of version 2 or 3: version {version}")));
        }
        let cluster_bits = be32(&bytes[20..24]);
        let refcount_order = if newer { be32(&bytes[96..100]) } else { 4 };
        if !(9..=21).contains(&cluster_bits) || refcount_order > 6 {
            return Err(Problem::Wrong(format!(
                "cluster bits {cluster_bits}, refcount order {refcount_order}"
            )));
        }
        let incompatible = if newer { field(72, 8) } else { 0 };
        let l1 = Place { at: field(40, 8), bytes: field(36, 4) * 8 };
        let refcount_table = Place { at: field(48, 8), bytes: field(56, 4) << cluster_bits };
        if l1.bytes > L1_LIMIT_BYTES || refcount_table.bytes > REFCOUNT_TABLE_LIMIT_BYTES {
            let (l1, table) = (l1.bytes, refcount_table.bytes);
            return Err(Problem::Wrong(format!("an L1 table of {l1} bytes, a refcount table of {table}")));
        }
        let mut header = Self {
            cluster_bits,
            refcount_order,
            l1,
            refcount_table,
            snapshots: field(60, 4),
            snapshots_at: field(64, 8),
            bitmaps: None,
            crypto: None,
            dirty: incompatible & INCOMPATIBLE_DIRTY != 0,
            data_file: incompatible & INCOMPATIBLE_DATA_FILE != 0,
            extended_l2: incompatible & INCOMPATIBLE_EXTENDED_L2 != 0,
        };
        header.extensions(file, if newer { field(100, 4) } else { 72 })?;
        Ok(header)
    }

    fn extensions(&mut self, file: &dyn RandomAccess, mut at: u64) -> Result<(), Problem> {
        while at + 8 <= self.cluster_bytes().min(EXTENSIONS_LIMIT_BYTES) {
            let head = read(file, at, 8)?;
            let (kind, length) = (be(&head[..4]), be(&head[4..]));
            if kind == 0 {
                break;
            }
            if kind == EXTENSION_BITMAPS && length >= 24 {
                let data = read(file, at + 8, 24)?;
                let directory = Place { at: be(&data[16..24]), bytes: be(&data[8..16]) };
                self.bitmaps = Some((be(&data[..4]), directory));
            } else if kind == EXTENSION_CRYPTO && length >= 16 {
                let data = read(file, at + 8, 16)?;
                self.crypto = Some(Place { at: be(&data[..8]), bytes: be(&data[8..16]) });
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(())
    }

    pub(super) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }
}
