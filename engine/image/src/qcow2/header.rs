//! The QCOW2 header and its extensions.
//!
//! Fields, big-endian: magic `QFI\xfb`, version (be32), backing file offset (be64) and size (be32), cluster
//! bits (be32), disk size (be64), encryption (be32), L1 entries (be32) and offset (be64), refcount table
//! offset (be64) and clusters (be32), internal snapshots (be32) and their offset (be64), incompatible,
//! compatible, autoclear features (be64 each), refcount order (be32), header length (be32). Extensions
//! follow: type (be32), length (be32), data, padding to 8.

use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::feature::Feature;
use crate::geometry::Geometry;

/// The header, with its extensions, must fit in here.
pub(crate) const HEADER_BYTES: usize = 4096;
const MAGIC: u32 = 0x5146_49fb;
const HEADER_LENGTH: u32 = 112;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_CRYPTO: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Ours: "QVMS".
const EXTENSION_SNAPSHOT: u32 = 0x5156_4d53;
const SNAPSHOT_EXTENSION_BYTES: usize = 56;
const SNAPSHOT_EXTENSION_VERSION: u32 = 1;
const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 2;
const INCOMPATIBLE_DATA_FILE: u64 = 4;
const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
/// The autoclear feature bit that a program which does not know of us clears when it writes to the image.
const AUTOCLEAR_SNAPSHOT_BIT: u8 = 63;
/// QEMU's own limit for L1 tables, in bytes.
const L1_LIMIT_BYTES: u64 = 32 << 20;
/// QEMU's own limit for refcount tables, in bytes.
const REFCOUNT_TABLE_LIMIT_BYTES: u64 = 8 << 20;

/// Whether a save is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SaveState {
    InProgress,
    Complete,
}

/// Our header extension: version (be32), state (be32), UUID (16), root's guest offset (be64) and length
/// (be64), its checksum (be32), checksum of the header block with this field zero (be32), where linear RAM
/// begins in the file (be64, 0: its layout is dense; a reader of older releases does not look at it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotExtension {
    pub(crate) state: SaveState,
    pub(crate) uuid: [u8; 16],
    pub(crate) root_offset: u64,
    pub(crate) root_length: u64,
    pub(crate) root_checksum: u32,
    pub(crate) ram_at: u64,
}

/// The fields of a header that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) geometry: Geometry,
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) extension: Option<SnapshotExtension>,
    /// The header block's checksum equals the one in our extension.
    pub(crate) checksum_fits: bool,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

fn damaged(at: u64, what: impl Into<String>) -> ImageError {
    ImageError::Damaged { structure: "header", at, what: what.into() }
}

impl Header {
    /// Of an image without any table, for a virtual disk of `size` bytes.
    pub(crate) fn new(geometry: Geometry, size: u64) -> Self {
        Self {
            geometry,
            size,
            l1_entries: 0,
            l1_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            compatible: 0,
            autoclear: 0,
            extension: None,
            checksum_fits: true,
        }
    }

    /// Whether the autoclear feature bit says that no other program has written to the image since.
    pub(crate) fn is_untouched(&self) -> bool {
        self.autoclear >> AUTOCLEAR_SNAPSHOT_BIT & 1 == 1
    }

    /// Sets or clears that bit.
    pub(crate) fn set_untouched(&mut self, untouched: bool) {
        self.autoclear = u64::from(untouched) << AUTOCLEAR_SNAPSHOT_BIT;
    }

    /// Parses the first [`HEADER_BYTES`] of a file.
    ///
    /// Whatever a snapshot cannot live with is refused here, so that no image of another program is changed:
    /// backing and data files, encryption, internal snapshots, bitmaps, extended L2 entries, features that
    /// are not known.
    pub(crate) fn parse(bytes: &[u8], file_length: u64) -> Result<Self, ImageError> {
        if file_length < 104 || bytes.len() < HEADER_BYTES {
            return Err(ImageError::TooShort { found: file_length });
        }
        if be32(bytes, 0) != MAGIC {
            return Err(ImageError::NotQcow2 { found: be32(bytes, 0) });
        }
        if be32(bytes, 4) != 3 {
            return Err(ImageError::Version { found: be32(bytes, 4) });
        }
        let incompatible = be64(bytes, 72);
        for (wrong, feature) in [
            (be64(bytes, 8) != 0 || be32(bytes, 16) != 0, Feature::BackingFile),
            (be32(bytes, 32) != 0, Feature::Encryption),
            (be32(bytes, 60) != 0, Feature::InternalSnapshots),
            (incompatible & INCOMPATIBLE_DATA_FILE != 0, Feature::DataFile),
            (incompatible & INCOMPATIBLE_EXTENDED_L2 != 0, Feature::ExtendedL2),
            (incompatible & INCOMPATIBLE_CORRUPT != 0, Feature::Corrupt),
            (incompatible & INCOMPATIBLE_DIRTY != 0, Feature::Dirty),
            (be64(bytes, 88) & 1 != 0, Feature::Bitmaps),
        ] {
            if wrong {
                return Err(ImageError::Foreign(feature));
            }
        }
        // Bit 3 (another compression type) does not matter: compressed clusters are refused one by one.
        if incompatible & !8 != 0 {
            return Err(ImageError::UnknownFeatures { bits: incompatible & !8 });
        }
        let refcount_order = be32(bytes, 96);
        if refcount_order > 6 {
            return Err(damaged(96, format!("refcount order {refcount_order}, expected 0 to 6")));
        }
        let cluster_bytes = 1u64.checked_shl(be32(bytes, 20)).unwrap_or(0);
        let mut header = Self {
            geometry: Geometry::new(cluster_bytes, 1 << refcount_order)?,
            size: be64(bytes, 24),
            l1_entries: be32(bytes, 36),
            l1_offset: be64(bytes, 40),
            refcount_table_offset: be64(bytes, 48),
            refcount_table_clusters: be32(bytes, 56),
            compatible: be64(bytes, 80),
            autoclear: be64(bytes, 88),
            extension: None,
            checksum_fits: false,
        };
        header.check_tables(file_length)?;
        header.parse_extensions(bytes)?;
        Ok(header)
    }

    fn check_tables(&self, file_length: u64) -> Result<(), ImageError> {
        let cluster = self.geometry.cluster_bytes();
        let l1_bytes = u64::from(self.l1_entries) * 8;
        let table_bytes = u64::from(self.refcount_table_clusters) * cluster;
        if self.size > 1 << 62
            || self.size.div_ceil(self.geometry.l1_span_bytes()) > u64::from(self.l1_entries)
        {
            return Err(damaged(
                24,
                format!("disk size {} does not fit {} L1 entries", self.size, self.l1_entries),
            ));
        }
        for (at, name, offset, length, limit) in [
            (40, "L1 table", self.l1_offset, l1_bytes, L1_LIMIT_BYTES),
            (
                48,
                "refcount table",
                self.refcount_table_offset,
                table_bytes,
                REFCOUNT_TABLE_LIMIT_BYTES.max(cluster),
            ),
        ] {
            if length > limit {
                return Err(damaged(at, format!("{name} is {length} bytes long, the limit is {limit}")));
            }
            let inside =
                offset.checked_add(length).is_some_and(|end| end <= file_length.next_multiple_of(cluster));
            if offset % cluster != 0 || !inside || (length > 0 && offset == 0) {
                return Err(damaged(
                    at,
                    format!("{name} at {offset:#x} with {length} bytes, the file has {file_length}"),
                ));
            }
        }
        if table_bytes == 0 {
            return Err(damaged(56, "no refcount table"));
        }
        Ok(())
    }

    fn parse_extensions(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let mut at = be32(bytes, 100) as usize;
        if !(104..=HEADER_BYTES).contains(&at) || !at.is_multiple_of(8) {
            return Err(damaged(100, format!("header length {at}")));
        }
        loop {
            let (kind, length) = (be32(bytes, at), be32(bytes, at + 4) as usize);
            if kind == EXTENSION_END {
                return Ok(());
            }
            let Some(data) = at.checked_add(8).and_then(|start| bytes.get(start..start.checked_add(length)?))
            else {
                return Err(damaged(at as u64, "header extensions of more than 4096 bytes"));
            };
            match kind {
                EXTENSION_BACKING_FORMAT => return Err(ImageError::Foreign(Feature::BackingFile)),
                EXTENSION_BITMAPS => return Err(ImageError::Foreign(Feature::Bitmaps)),
                EXTENSION_CRYPTO => return Err(ImageError::Foreign(Feature::Encryption)),
                EXTENSION_DATA_FILE => return Err(ImageError::Foreign(Feature::DataFile)),
                EXTENSION_SNAPSHOT => self.parse_snapshot_extension(bytes, at, data)?,
                _ => {}
            }
            at = at + 8 + length.next_multiple_of(8);
            if at + 8 > bytes.len() {
                return Err(damaged(at as u64, "header extensions of more than 4096 bytes"));
            }
        }
    }

    fn parse_snapshot_extension(&mut self, bytes: &[u8], at: usize, data: &[u8]) -> Result<(), ImageError> {
        let state = match (data.len(), be32(data, 0), be32(data, 4)) {
            (SNAPSHOT_EXTENSION_BYTES, SNAPSHOT_EXTENSION_VERSION, 0) => SaveState::InProgress,
            (SNAPSHOT_EXTENSION_BYTES, SNAPSHOT_EXTENSION_VERSION, 1) => SaveState::Complete,
            (length, version, state) => {
                let what = format!("snapshot extension of {length} bytes, version {version}, state {state}");
                return Err(damaged(at as u64, what));
            }
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&data[8..24]);
        self.extension = Some(SnapshotExtension {
            state,
            uuid,
            root_offset: be64(data, 24),
            root_length: be64(data, 32),
            root_checksum: be32(data, 40),
            ram_at: be64(data, 48),
        });
        let mut block = bytes[..HEADER_BYTES].to_vec();
        block[at + 8 + 44..at + 8 + 48].fill(0);
        self.checksum_fits = crc32c(&block) == be32(data, 44);
        Ok(())
    }

    /// The header block: all that a new image has in its first [`HEADER_BYTES`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&3u32.to_be_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.geometry.cluster_bits().to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.l1_entries.to_be_bytes());
        out.extend_from_slice(&self.l1_offset.to_be_bytes());
        out.extend_from_slice(&self.refcount_table_offset.to_be_bytes());
        out.extend_from_slice(&self.refcount_table_clusters.to_be_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&0u64.to_be_bytes());
        out.extend_from_slice(&self.compatible.to_be_bytes());
        out.extend_from_slice(&self.autoclear.to_be_bytes());
        out.extend_from_slice(&self.geometry.refcount_order().to_be_bytes());
        out.extend_from_slice(&HEADER_LENGTH.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        put_extension(&mut out, EXTENSION_FEATURE_NAMES, &feature_names());
        let Some(extension) = self.extension else {
            out.resize(HEADER_BYTES, 0);
            return out;
        };
        let at = out.len();
        let mut data = Vec::with_capacity(SNAPSHOT_EXTENSION_BYTES);
        data.extend_from_slice(&SNAPSHOT_EXTENSION_VERSION.to_be_bytes());
        data.extend_from_slice(&u32::from(extension.state == SaveState::Complete).to_be_bytes());
        data.extend_from_slice(&extension.uuid);
        data.extend_from_slice(&extension.root_offset.to_be_bytes());
        data.extend_from_slice(&extension.root_length.to_be_bytes());
        data.extend_from_slice(&extension.root_checksum.to_be_bytes());
        data.extend_from_slice(&[0; 4]);
        data.extend_from_slice(&extension.ram_at.to_be_bytes());
        put_extension(&mut out, EXTENSION_SNAPSHOT, &data);
        out.resize(HEADER_BYTES, 0);
        let checksum = crc32c(&out);
        out[at + 8 + 44..at + 8 + 48].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Bytes of the file that the L1 table takes, whole clusters.
    pub(crate) fn l1_clusters(&self) -> u64 {
        (u64::from(self.l1_entries) * 8).div_ceil(self.geometry.cluster_bytes())
    }

    /// Where the VM-state area begins.
    pub(crate) fn vm_state_start(&self) -> u64 {
        self.geometry.vm_state_start(self.size)
    }
}

fn put_extension(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    let length = u32::try_from(data.len()).expect("a header extension is shorter than the header");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Names for `qemu-img` to show: type (u8: 0 incompatible, 1 compatible, 2 autoclear), bit (u8), name (46
/// bytes).
fn feature_names() -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, bit, name) in [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (1, 0, "lazy refcounts"),
        (2, AUTOCLEAR_SNAPSHOT_BIT, "unchanged since qemu-snapshot saved it"),
    ] {
        out.extend_from_slice(&[kind, bit]);
        let start = out.len();
        out.extend_from_slice(name.as_bytes());
        out.resize(start + 46, 0);
    }
    out
}
