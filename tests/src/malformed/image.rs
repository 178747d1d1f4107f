//! A snapshot image in clusters of 64 KiB. Its checksums are made right again after each change, so
//! that what is behind them counts; the changes without that are in the bit flip tests.

use std::{collections::BTreeMap, sync::Arc};

use migration_stream::{
    BlockList, Configuration, RamBlock, put_configuration, put_end_of_section, put_file_header,
    put_ram_blocks,
};
use snapshot_image::{
    Geometry, GuestOffset, HostOffset, Identity, ImageBlock, PageIndex, RamLayout, SnapshotWriter, Step,
    VmState, crc32c,
};

use super::{Kind, Recipes, base::Base};

/// Where our header extension is: behind the header (112) and the feature names (8 + 192).
const EXTENSION: usize = 312;
/// The header's checksum in it.
const CHECKSUM: usize = EXTENSION + 8 + 44;
const PAGES: u64 = 20;

fn leader() -> Vec<u8> {
    let mut base = Base::new("leader");
    base.put_with(put_file_header).put_with(|out| {
        put_configuration(out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    });
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: PAGES * 4096,
        host_page_size: None,
        guest_physical_address: None,
    };
    base.section(false, 2, b"ram", 4).put_with(|out| put_ram_blocks(out, &BlockList { blocks: vec![block] }));
    base.put_with(put_end_of_section).footer(2);
    base.bytes
}

/// Carries writes out in memory.
fn carry_out(file: &mut BTreeMap<u64, Vec<u8>>, steps: impl IntoIterator<Item = Step>) {
    for step in steps {
        if let Step::Write { at, bytes } = step {
            for (number, sector) in (at.0 / 4096..).zip(bytes.chunks(4096)) {
                file.insert(number, sector.to_vec());
            }
        }
    }
}

fn base() -> Base {
    let geometry = Geometry::new(64 << 10, 16).expect("sizes of a QCOW2 image");
    let block = ImageBlock { name: b"pc.ram".to_vec(), used_length: PAGES * 4096, host_page_size: None };
    let layout = RamLayout::new(vec![block], 4096).expect("a small layout");
    let identity = Identity { uuid: *b"0123456789abcdef", created_unix_s: 1_700_000_000 };
    let (mut writer, begin) = SnapshotWriter::create(geometry, 1 << 20, identity).expect("a small image");
    let mut file = BTreeMap::new();
    carry_out(&mut file, begin);
    let mut index = PageIndex::new();
    for page in [0, 1, 17] {
        let bytes = vec![b'p'; 4096];
        let guest = page * 4096;
        let host = writer.host(GuestOffset(guest - guest % 65536)).expect("room");
        index.set(page, crc32c(&bytes));
        carry_out(&mut file, [Step::Write { at: HostOffset(host.0 + guest % 65536), bytes }]);
    }
    let tail = [&b"\x04\0\0\0\x0a\x05timer\0\0\0\0\0\0\0\x02"[..], &[0x11; 16], b"\x7e\0\0\0\x0a\0"].concat();
    let vm = VmState {
        leader: leader(),
        third: Vec::new(),
        ram_list_offset: 15,
        ram_start_is_last: true,
        footers: true,
        optional_fields: false,
        normal_pages: 3,
    };
    let (reserved, steps) = writer.reserve(vm, &layout, &Arc::new(index), tail.len() as u64).expect("room");
    carry_out(&mut file, steps);
    carry_out(&mut file, reserved.seal(&tail).expect("room").1);
    let clusters = file.keys().max().expect("written") / 16 + 1;
    let mut base = Base::new("image");
    base.bytes = vec![0; usize::try_from(clusters).expect("small") << 16];
    for (number, sector) in file {
        let at = usize::try_from(number).expect("small") * 4096;
        base.bytes[at..at + 4096].copy_from_slice(&sector);
    }
    base
}

fn be32(bytes: &[u8], at: usize) -> usize {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn be64(bytes: &[u8], at: usize) -> usize {
    usize::try_from(
        u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) & 0x00ff_ffff_ffff_fe00,
    )
    .expect("a small file")
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Where the parts are, in the valid image.
struct Parts {
    l1: usize,
    l2: usize,
    refcounts: usize,
    block: usize,
    vm: usize,
    root: usize,
    root_bytes: usize,
    leaf_index: usize,
}

impl Parts {
    fn of(bytes: &[u8]) -> Self {
        let (l1, refcounts) = (be64(bytes, 40), be64(bytes, 48));
        let state = be64(bytes, l1 + 8);
        // The extension lies half an L1 entry's span behind the VM state: at entry 4096 of 8192.
        let root = be64(bytes, state + 4096 * 8);
        let index =
            usize::try_from(u64::from_be_bytes(bytes[root + 100..root + 108].try_into().expect("8 bytes")))
                .expect("a small image");
        // The VM state of a disk of less than 512 MiB begins there.
        let in_state = index - (512 << 20);
        let leaf_index = be64(bytes, state + in_state / 65536 * 8) + in_state % 65536;
        Self {
            l1,
            l2: be64(bytes, l1),
            refcounts,
            block: be64(bytes, refcounts),
            vm: be64(bytes, state),
            root,
            root_bytes: be32(bytes, EXTENSION + 8 + 36),
            leaf_index,
        }
    }

    /// Makes the checksums of header and root, and those in the root of VM-state header and tables,
    /// right again.
    fn forge(&self, bytes: &mut [u8]) {
        let vm = crc32c(&bytes[self.vm..self.vm + 28]);
        put32(bytes, self.root + 56, vm);
        let index_bytes = be32(bytes, self.root + 108).min(16);
        let index = crc32c(&bytes[self.leaf_index..self.leaf_index + index_bytes]);
        put32(bytes, self.root + 112, index);
        // One index page, one block with a name of six bytes, then the tables.
        let tables = self.root + 100 + 16 + 4 + 2 + 6 + 24;
        for table in [self.refcounts, self.l1, self.l2, be64(bytes, self.l1 + 8), self.block] {
            for entry in (tables + 4..self.root + self.root_bytes).step_by(16) {
                if be64(bytes, entry) == table && table + 65536 <= bytes.len() {
                    let found = crc32c(&bytes[table..table + 65536]);
                    put32(bytes, entry + 12, found);
                }
            }
        }
        let root = crc32c(&bytes[self.root..self.root + self.root_bytes]);
        put32(bytes, EXTENSION + 8 + 40, root);
        put32(bytes, CHECKSUM, 0);
        let header = crc32c(&bytes[..4096]);
        put32(bytes, CHECKSUM, header);
    }
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Image, base());
    container(&mut r);
    snapshot(&mut r);
    r
}

/// A change with forged checksums.
fn forged(r: &mut Recipes, name: &str, change: &'static str, at: impl Fn(&Parts) -> usize, new: &[u8]) {
    r.make(name, change, |bytes, base| {
        let parts = Parts::of(&base.bytes);
        let at = at(&parts);
        bytes[at..at + new.len()].copy_from_slice(new);
        parts.forge(bytes);
    });
}

fn container(r: &mut Recipes) {
    let header = |r: &mut Recipes, name: &str, change: &'static str, at: usize, new: &[u8]| {
        forged(r, name, change, move |_| at, new);
    };
    let max = &[0xff; 8];
    header(r, "magic", "another magic", 0, b"QED\0");
    header(r, "version-2", "version 2", 4, &[0, 0, 0, 2]);
    header(r, "version-max", "version 4294967295", 4, &max[..4]);
    header(r, "backing-file", "a backing file", 8, &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 4]);
    header(r, "backing-length", "a backing file's name of 4 GiB (CVE-2014-0144)", 16, &max[..4]);
    header(r, "cluster-bits-0", "clusters of a byte (CVE-2014-0142's class: a divisor)", 20, &[0; 4]);
    header(r, "cluster-bits-63", "clusters of 2^63 bytes", 20, &[0, 0, 0, 63]);
    header(r, "cluster-bits-17", "clusters of another size", 20, &[0, 0, 0, 17]);
    header(r, "size-max", "a disk of 2^64 - 1 bytes (CVE-2014-0223)", 24, max);
    header(r, "size-over-l1", "a disk larger than its L1 table", 24, &(1_u64 << 40).to_be_bytes());
    header(r, "size-0", "a disk of no bytes", 24, &[0; 8]);
    header(r, "encrypted", "encryption", 32, &[0, 0, 0, 1]);
    header(r, "l1-entries-max", "4 billion L1 entries (CVE-2014-0143)", 36, &max[..4]);
    header(r, "l1-entries-0", "no L1 entries", 36, &[0; 4]);
    header(r, "l1-outside", "the L1 table outside the file", 40, &(1_u64 << 40).to_be_bytes());
    header(r, "l1-wraps", "an L1 table that wraps", 40, &(u64::MAX << 16).to_be_bytes());
    header(r, "l1-unaligned", "the L1 table inside a cluster", 40, &0x20200_u64.to_be_bytes());
    header(r, "refcounts-outside", "the refcount table outside the file", 48, &(1_u64 << 50).to_be_bytes());
    header(r, "refcounts-max", "a refcount table of 4 billion clusters (CVE-2014-0144)", 56, &max[..4]);
    header(r, "refcounts-0", "no refcount table (CVE-2014-0147's class)", 56, &[0; 4]);
    header(r, "internal-snapshots", "4 billion internal snapshots (CVE-2014-0145)", 60, &max[..4]);
    header(r, "internal-snapshot", "an internal snapshot at no place (CVE-2014-0146)", 60, &[0, 0, 0, 1]);
    header(r, "incompatible-unknown", "an unknown incompatible feature", 72, &[0x80]);
    header(r, "incompatible-data-file", "an external data file", 79, &[4]);
    header(r, "incompatible-extended-l2", "extended L2 entries", 79, &[16]);
    header(r, "incompatible-dirty", "the dirty bit", 79, &[1]);
    header(r, "incompatible-corrupt", "the mark of corruption", 79, &[2]);
    header(r, "refcount-order", "refcounts of 128 bits (CVE-2014-0147's class)", 96, &[0, 0, 0, 7]);
    header(r, "header-length", "a header of 4 GiB", 100, &max[..4]);
    header(r, "extension-length", "a header extension of 4 GiB (CVE-2014-0144)", 116, &max[..4]);
    let cluster = |number: u64| (number << 16 | 1 << 63).to_be_bytes();
    forged(
        r,
        "l1-entry-outside",
        "an L2 table outside the file",
        |parts| parts.l1,
        &(1_u64 << 40).to_be_bytes(),
    );
    forged(r, "l1-entry-unaligned", "an L2 table inside a cluster", |parts| parts.l1, &512_u64.to_be_bytes());
    forged(r, "l1-loop", "the L1 table as its own L2 table", |parts| parts.l1, &cluster(2));
    forged(
        r,
        "l2-entry-outside",
        "data outside the file (CVE-2014-0222's class)",
        |parts| parts.l2,
        &(1_u64 << 40).to_be_bytes(),
    );
    forged(r, "l2-entry-unaligned", "data inside a cluster", |parts| parts.l2, &0x50200_u64.to_be_bytes());
    forged(r, "l2-loop", "the L2 table as its own data", |parts| parts.l2, &cluster(4));
    forged(r, "l2-shared", "two clusters of the disk in one place", |parts| parts.l2 + 8, &cluster(5));
    forged(r, "l2-compressed", "a compressed cluster", |parts| parts.l2, &(3_u64 << 62).to_be_bytes());
    forged(
        r,
        "refcount-block-outside",
        "a refcount block outside the file",
        |parts| parts.refcounts,
        &(1_u64 << 50).to_be_bytes(),
    );
    forged(
        r,
        "refcount-block-loop",
        "the refcount table as its own block",
        |parts| parts.refcounts,
        &0x10000_u64.to_be_bytes(),
    );
    forged(r, "refcount-0", "a cluster in use that is free", |parts| parts.block, &[0, 0]);
    forged(r, "refcount-2", "a cluster in use twice", |parts| parts.block, &[0, 2]);
    r.make("truncated", "half of the file", |bytes, _| bytes.truncate(bytes.len() / 2));
    r.make("truncated-header", "a hundred bytes", |bytes, _| bytes.truncate(100));
}

fn snapshot(r: &mut Recipes) {
    r.make("header-changed", "the header's checksum does not fit", |bytes, _| bytes[EXTENSION + 20] ^= 1);
    r.make("root-changed", "the root's checksum does not fit", |bytes, base| {
        bytes[Parts::of(&base.bytes).root + 20] ^= 1;
    });
    r.make("page-changed", "a page's checksum does not fit", |bytes, base| {
        let page = be64(&base.bytes, Parts::of(&base.bytes).l2);
        bytes[page + 4100] ^= 1;
    });
    r.make("tail-changed", "the device tail's checksum does not fit", |bytes, base| {
        let vm = Parts::of(&base.bytes).vm;
        let tail = be32(&base.bytes, vm + 20);
        bytes[vm + 28 + tail + 20] ^= 1;
    });
    let vm = |r: &mut Recipes, name: &str, change: &'static str, at: usize, new: &[u8]| {
        forged(r, name, change, move |parts| parts.vm + at, new);
    };
    vm(r, "vm-magic", "a VM state of another magic", 0, b"XXXX");
    vm(r, "vm-page-size-0", "pages of no bytes", 4, &[0; 4]);
    vm(r, "vm-page-size-512", "pages of 512 bytes", 4, &[0, 0, 2, 0]);
    vm(r, "vm-list-behind-devices", "the RAM list behind the devices", 16, &[0xff; 4]);
    vm(r, "vm-devices-behind-eof", "the devices behind the end", 20, &[0xff; 4]);
    vm(r, "vm-eof-max", "a VM state of 4 GiB", 24, &[0xff; 4]);
    vm(r, "vm-eof-past-file", "a VM state longer than the file", 24, &(200_u32 << 20).to_be_bytes());
    let extension = |r: &mut Recipes, name: &str, change: &'static str, at: usize, new: &[u8]| {
        r.make(name, change, |bytes, _| {
            bytes[EXTENSION + 8 + at..EXTENSION + 8 + at + new.len()].copy_from_slice(new);
            put32(bytes, CHECKSUM, 0);
            let header = crc32c(&bytes[..4096]);
            put32(bytes, CHECKSUM, header);
        });
    };
    extension(r, "extension-version", "an extension of version 2", 0, &[0, 0, 0, 2]);
    extension(r, "extension-state", "an extension of unknown state", 4, &[0, 0, 0, 9]);
    extension(r, "extension-in-progress", "a save that did not end", 4, &[0; 4]);
    extension(r, "root-offset-max", "a root at 2^64 - 1", 24, &[0xff; 8]);
    extension(r, "root-length-max", "a root of 2^64 - 1 bytes", 32, &[0xff; 8]);
    extension(r, "root-length-64-mib", "a root longer than the file", 32, &(64_u64 << 20).to_be_bytes());
    let root = |r: &mut Recipes, name: &str, change: &'static str, at: usize, new: &[u8]| {
        forged(r, name, change, move |parts| parts.root + at, new);
    };
    root(r, "root-magic", "a root of another magic", 0, &[0; 4]);
    root(r, "root-version", "a root of version 2", 4, &[0, 0, 0, 2]);
    root(r, "root-uuid", "a root of another snapshot", 8, &[0; 8]);
    root(r, "root-index-count", "4 billion index pages", 96, &[0xff; 4]);
    root(r, "root-index-offset", "an index page at 2^64 - 1", 100, &[0xff; 8]);
    root(r, "root-index-length", "an index page of 4 GiB", 108, &[0xff; 4]);
    root(r, "root-block-length", "a block of nearly 2^64 bytes", 128, &(u64::MAX << 12).to_be_bytes());
    root(r, "root-block-name", "a block without a name", 120, &[0, 0]);
    forged(
        r,
        "root-table-offset",
        "a table at 2^64 - 1",
        |parts| parts.root + parts.root_bytes - 16,
        &[0xff; 8],
    );
    forged(r, "root-table-length", "a table of 4 GiB", |parts| parts.root + parts.root_bytes - 8, &[0xff; 4]);
    forged(r, "leaf-offset", "a leaf at 2^64 - 1", |parts| parts.leaf_index, &[0xff; 8]);
    forged(r, "leaf-length", "a leaf of 4 GiB", |parts| parts.leaf_index + 8, &[0xff; 4]);
}
