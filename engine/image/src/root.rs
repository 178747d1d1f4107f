//! The extension's root: what a snapshot consists of, with a checksum for each part of it.
//!
//! It lies in the VM-state area, half an L1 entry behind its start; the header's extension has its place,
//! length and checksum. From here every part can be verified by itself: the regions of the VM state, the
//! index pages (each of which has checksums of [`LEAVES_PER_INDEX_PAGE`] leaves, which have those of the
//! pages), and the QCOW2 tables.
//!
//! Fields, big-endian: magic (be32), version (be32), UUID (16), creation time (be64), page size (be32), zero
//! (be32), PAGE records (be64), non-zero pages (be64); VM header's checksum (be32); length of preamble, other
//! iterables and tail (be64) and checksum (be32); count (be32) of index pages, each offset (be64), length
//! (be32), checksum (be32); count (be32) of blocks, each name length (be16), name, used length (be64), start
//! (be64), host page size (be64, 0: not known); count (be32) of QCOW2 tables, each offset in the file (be64),
//! length (be32), checksum (be32).

use crate::error::ImageError;
use crate::layout::ImageBlock;

const MAGIC: u32 = 0x5156_4d52;
const VERSION: u32 = 1;
/// Leaves that one index page describes: 64 KiB of entries, offset (be64), length (be32), checksum (be32).
pub(crate) const LEAVES_PER_INDEX_PAGE: u64 = 4096;
/// Bytes of an entry of an index page, or of the root's lists.
pub(crate) const ENTRY_BYTES: usize = 16;
/// The most that a root can have: some 10^5 blocks.
pub(crate) const ROOT_LIMIT_BYTES: u64 = 64 << 20;

/// A part of the image with its checksum; with an offset of 0 there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) checksum: u32,
}

impl Entry {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.checksum.to_be_bytes());
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        Some(Self { offset: input.be64()?, length: input.be32()?, checksum: input.be32()? })
    }
}

/// A region of the VM state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Region {
    pub(crate) length: u64,
    pub(crate) checksum: u32,
}

/// The root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) uuid: [u8; 16],
    pub(crate) created_unix_s: u64,
    pub(crate) page_size: u32,
    pub(crate) normal_pages: u64,
    pub(crate) nonzero_pages: u64,
    pub(crate) vm_header_checksum: u32,
    /// Preamble, other iterables, tail.
    pub(crate) regions: [Region; 3],
    pub(crate) index_pages: Vec<Entry>,
    pub(crate) blocks: Vec<(ImageBlock, u64)>,
    pub(crate) tables: Vec<Entry>,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }
    fn be16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }
    fn be32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
    fn be64(&mut self) -> Option<u64> {
        Some(u64::from(self.be32()?) << 32 | u64::from(self.be32()?))
    }
    fn entries(&mut self) -> Option<Vec<Entry>> {
        let count = self.be32()? as usize;
        self.take(count.checked_mul(ENTRY_BYTES)?)?.chunks_exact(ENTRY_BYTES).map(Entry::parse).collect()
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a root of 64 MiB has fewer entries");
    out.extend_from_slice(&count.to_be_bytes());
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // A name, its length, and three numbers; there can be 131072 of them.
        let blocks: usize = self.blocks.iter().map(|(block, _)| block.name.len() + 2 + 3 * 8).sum();
        let entries = ENTRY_BYTES * (self.index_pages.len() + self.tables.len());
        let mut out = Vec::with_capacity(256 + blocks + entries);
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.created_unix_s.to_be_bytes());
        out.extend_from_slice(&self.page_size.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.normal_pages.to_be_bytes());
        out.extend_from_slice(&self.nonzero_pages.to_be_bytes());
        out.extend_from_slice(&self.vm_header_checksum.to_be_bytes());
        for region in &self.regions {
            out.extend_from_slice(&region.length.to_be_bytes());
            out.extend_from_slice(&region.checksum.to_be_bytes());
        }
        put_count(&mut out, self.index_pages.len());
        self.index_pages.iter().for_each(|entry| entry.put(&mut out));
        put_count(&mut out, self.blocks.len());
        for (block, start) in &self.blocks {
            let length = u16::try_from(block.name.len()).expect("a layout has names of 255 bytes at most");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&block.name);
            for value in [block.used_length, *start, block.host_page_size.unwrap_or(0)] {
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
        put_count(&mut out, self.tables.len());
        self.tables.iter().for_each(|entry| entry.put(&mut out));
        out
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let malformed = || ImageError::NoSnapshot("its root is malformed");
        let mut input = Input(bytes);
        let magic = input.be32().ok_or_else(malformed)?;
        if magic != MAGIC {
            return Err(ImageError::Value {
                what: "root magic",
                found: u64::from(magic),
                expected: "0x51564d52",
            });
        }
        let version = input.be32().ok_or_else(malformed)?;
        if version != VERSION {
            return Err(ImageError::Value { what: "root version", found: u64::from(version), expected: "1" });
        }
        Self::parse_fields(&mut input).filter(|_| input.0.is_empty()).ok_or_else(malformed)
    }

    fn parse_fields(input: &mut Input<'_>) -> Option<Self> {
        let uuid = input.take(16)?.try_into().ok()?;
        let created_unix_s = input.be64()?;
        let page_size = input.be32()?;
        input.be32()?;
        let normal_pages = input.be64()?;
        let nonzero_pages = input.be64()?;
        let vm_header_checksum = input.be32()?;
        let mut regions = [Region::default(); 3];
        for region in &mut regions {
            *region = Region { length: input.be64()?, checksum: input.be32()? };
        }
        let index_pages = input.entries()?;
        let mut blocks = Vec::new();
        for _ in 0..input.be32()? {
            // As long as a name in the stream can be.
            let length = input.be16().filter(|length| (1..=255).contains(length))?;
            let name = input.take(usize::from(length))?.to_vec();
            let used_length = input.be64()?;
            let start = input.be64()?;
            let host_page_size = Some(input.be64()?).filter(|&size| size != 0);
            blocks.push((ImageBlock { name, used_length, host_page_size }, start));
        }
        let tables = input.entries()?;
        Some(Self {
            uuid,
            created_unix_s,
            page_size,
            normal_pages,
            nonzero_pages,
            vm_header_checksum,
            regions,
            index_pages,
            blocks,
            tables,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        let entry = |number: u32| Entry {
            offset: (u64::from(number) << 33) + 4096,
            length: number + 1,
            checksum: 0xf00d_0000 | number,
        };
        let block = |name: &[u8], used_length, host_page_size| ImageBlock {
            name: name.to_vec(),
            used_length,
            host_page_size,
        };
        Root {
            uuid: *b"0123456789abcdef",
            created_unix_s: 0x1122_3344_5566_7788,
            page_size: 4096,
            normal_pages: 0x0102_0304_0506_0708,
            nonzero_pages: 77,
            vm_header_checksum: 0xdead_beef,
            regions: [1, 2, 3].map(|number| Region { length: u64::from(number) << 40, checksum: number }),
            index_pages: vec![entry(1), Entry::default(), entry(2)],
            blocks: vec![
                (block(b"a", 4096, None), 0),
                (block(&[b'n'; 255], 1 << 40, Some(2 << 20)), 1 << 20),
            ],
            tables: vec![entry(3)],
        }
    }

    #[test]
    fn it_survives_a_round_trip_and_no_cut() {
        let bytes = root().encode();
        assert_eq!(Root::parse(&bytes).unwrap(), root());
        let malformed = |bytes: &[u8]| {
            let error = Root::parse(bytes).unwrap_err().to_string();
            assert_eq!(error, ImageError::NoSnapshot("its root is malformed").to_string());
        };
        (0..bytes.len()).for_each(|cut| malformed(&bytes[..cut]));
        malformed(&[&bytes[..], &[0]].concat());
    }

    #[test]
    fn names_have_one_to_255_bytes() {
        for length in [0, 256] {
            let mut root = root();
            root.blocks[1].0.name = vec![b'n'; length];
            assert!(Root::parse(&root.encode()).is_err(), "a name of {length} bytes");
        }
    }

    #[test]
    fn another_magic_or_version_is_refused() {
        let check = |byte: usize, expected: &str| {
            let mut bytes = root().encode();
            bytes[byte] ^= 2;
            assert_eq!(Root::parse(&bytes).unwrap_err().to_string(), expected);
        };
        check(0, "snapshot root magic 0x53564d52, expected 0x51564d52");
        check(7, "snapshot root version 0x3, expected 1");
    }
}
