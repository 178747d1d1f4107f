//! What lies where in an image of ours, found by a second reading of the format, and how a forger
//! makes its checksums right again.

use super::File;
use snapshot_image::crc32c;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Where our header extension's data begins: behind the header (112), the feature names (8 + 192)
/// and its own head (8).
const EXTENSION: u64 = 112 + 8 + 192 + 8;
const HEADER_CHECKSUM: u64 = EXTENSION + 44;

/// One structure of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// Where in the file.
    pub(crate) at: u64,
    pub(crate) length: u64,
}

/// All structures of an image, as they were when it was whole.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) parts: Vec<Part>,
    /// Offset in the root, of each checksum that it has of a part.
    root_checksums: Vec<(u64, Part)>,
    index_checksums: Vec<(u64, Part)>,
}

impl Places {
    pub(crate) fn of(file: &File) -> Self {
        let cluster = 1u64 << file.be32(20);
        let span = cluster * cluster / 8;
        let l1 = file.be64(40);
        let host = |guest: u64| {
            let l2 = file.be64(l1 + guest / span * 8) & OFFSET_MASK;
            (file.be64(l2 + guest % span / cluster * 8) & OFFSET_MASK) + guest % cluster
        };
        let part = |name, at, length| Part { name, at, length };
        let table = file.be64(48);
        let mut parts = vec![
            part("header", 0, 112),
            part("header extension", EXTENSION - 8, 64),
            part("L1 table", l1, u64::from(file.be32(36)) * 8),
            part("refcount table", table, 64),
            part("refcount block", file.be64(table) & OFFSET_MASK, 64),
        ];
        for entry in 0..u64::from(file.be32(36)) {
            let at = file.be64(l1 + entry * 8) & OFFSET_MASK;
            if at != 0 {
                parts.push(part("L2 table", at, 256));
            }
        }
        let start = file.be64(24).div_ceil(span) * span;
        let vm = host(start);
        let magic = file.read(vm, 4);
        let (vm_header, third, device, end) = if magic == b"STVM" {
            let device = u64::from(file.be32(vm + 20));
            (28, device, device, u64::from(file.be32(vm + 24)))
        } else {
            (48, file.be64(vm + 24), file.be64(vm + 32), file.be64(vm + 40))
        };
        let vm_header = part("VM-state header", vm, vm_header);
        let regions = [("leader", 0, third), ("third region", third, device), ("device tail", device, end)]
            .map(|(name, from, to)| part(name, vm + vm_header.length + from, to - from));
        let root_at = host(file.be64(EXTENSION + 24));
        let root = part("root", root_at, file.be64(EXTENSION + 32));
        let mut root_checksums = vec![(56, vm_header)];
        root_checksums.extend((0..).zip(regions).map(|(number, region)| (60 + number * 12 + 8, region)));
        let mut index_checksums = Vec::new();
        parts.push(vm_header);
        parts.extend(regions.iter().filter(|region| region.length > 0));
        parts.push(root);
        let count = u64::from(file.be32(root_at + 96));
        for entry in (0..count).map(|number| 100 + number * 16) {
            let page = part(
                "page index",
                host(file.be64(root_at + entry)),
                u64::from(file.be32(root_at + entry + 8)),
            );
            for leaf in (0..page.length / 16).map(|number| page.at + number * 16) {
                let leaf_part = part("leaf", host(file.be64(leaf)), u64::from(file.be32(leaf + 8)));
                index_checksums.push((leaf + 12, leaf_part));
                parts.push(leaf_part);
            }
            root_checksums.push((entry + 12, page));
            parts.push(page);
        }
        let mut at = 100 + count * 16;
        let blocks = u64::from(file.be32(root_at + at));
        at += 4;
        for _ in 0..blocks {
            at += 2 + u64::from(file.be32(root_at + at) >> 16) + 24;
        }
        let tables = u64::from(file.be32(root_at + at));
        for entry in (0..tables).map(|number| at + 4 + number * 16) {
            let length = u64::from(file.be32(root_at + entry + 8));
            root_checksums.push((entry + 12, part("table", file.be64(root_at + entry), length)));
        }
        parts.push(part("page", host(0), 8192));
        Self { parts, root_checksums, index_checksums }
    }

    pub(crate) fn get(&self, name: &str) -> Part {
        *self.parts.iter().find(|part| part.name == name).unwrap()
    }

    /// Makes every checksum fit what the parts hold now, as an attacker would.
    pub(crate) fn forge(&self, file: &mut File) {
        let checksum = |file: &File, part: &Part| crc32c(&file.read_part(part));
        for (at, part) in &self.index_checksums {
            let found = checksum(file, part);
            file.put_be32(*at, found);
        }
        let root = self.get("root");
        for (offset, part) in &self.root_checksums {
            let found = checksum(file, part);
            file.put_be32(root.at + offset, found);
        }
        let found = checksum(file, &root);
        file.put_be32(EXTENSION + 40, found);
        self.forge_header(file);
    }

    /// As [`forge`](Self::forge), for the header alone.
    pub(crate) fn forge_header(&self, file: &mut File) {
        file.put_be32(HEADER_CHECKSUM, 0);
        let found = crc32c(&file.read(0, 4096));
        file.put_be32(HEADER_CHECKSUM, found);
    }
}
