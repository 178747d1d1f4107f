//! Header, L1, L2 and refcount tables.

use super::{RIGHT, SNAPSHOT, check, refused};

#[test]
fn hostile_headers_are_refused() {
    refused(
        |file, _| file.put_be32(36, 0),
        "damaged qcow2 header at offset 0x18: disk size 1114112 does not fit 0 L1 entries",
    );
    refused(
        |file, _| file.put_be32(36, u32::MAX),
        "damaged qcow2 header at offset 0x28: L1 table of 34359738360 bytes, at most 33554432 can be",
    );
    refused(
        |file, _| file.put_be64(40, 1 << 40),
        "damaged qcow2 header at offset 0x28: L1 table at 0x10000000000 with 16 bytes, the file has 851968",
    );
    refused(
        |file, _| file.put_be64(40, u64::MAX << 16),
        "damaged qcow2 header at offset 0x28: L1 table at 0xffffffffffff0000 with 16 bytes, the file has 851968",
    );
    refused(
        |file, _| file.put_be64(40, 0),
        "damaged qcow2 header at offset 0x28: L1 table at 0x0 with 16 bytes, the file has 851968",
    );
    refused(
        |file, _| file.put_be64(40, 0x20200),
        "damaged qcow2 header at offset 0x28: L1 table at 0x20200 with 16 bytes, the file has 851968",
    );
    refused(
        |file, _| file.put_be64(24, u64::MAX),
        "damaged qcow2 header at offset 0x18: disk size 18446744073709551615 does not fit 2 L1 entries",
    );
    refused(
        |file, _| file.put_be64(24, 1 << 40),
        "damaged qcow2 header at offset 0x18: disk size 1099511627776 does not fit 2 L1 entries",
    );
    check(
        |file, _| file.put_be64(24, 0),
        SNAPSHOT,
        "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged",
    );
    check(
        |file, _| file.put_be64(24, 1 << 20),
        SNAPSHOT,
        "not a complete snapshot: its RAM does not fit into its virtual disk",
    );
    refused(
        |file, _| file.put_be32(56, u32::MAX),
        "damaged qcow2 header at offset 0x30: refcount table of 281474976645120 bytes, at most 8388608 can be",
    );
    refused(|file, _| file.put_be32(56, 0), "damaged qcow2 header at offset 0x38: no refcount table");
    refused(
        |file, _| file.put_be64(48, 1 << 50),
        "damaged qcow2 header at offset 0x30: refcount table at 0x4000000000000 with 65536 bytes, the file has 851968",
    );
    check(
        |file, _| file.put_be64(48, file.be64(40)),
        "damaged qcow2 refcount table at offset 0x20000: entry 0 is 0x8000000000040000, outside the file or inside a cluster",
        RIGHT,
    );
    refused(|file, _| file.put_be32(20, 64), "cluster size 0 bytes, expected 64 KiB to 2 MiB");
    refused(|file, _| file.put_be32(20, 9), "cluster size 512 bytes, expected 64 KiB to 2 MiB");
    refused(
        |file, _| file.put_be32(20, 17),
        "damaged qcow2 header at offset 0x30: refcount table at 0x10000 with 131072 bytes, the file has 851968",
    );
    refused(
        |file, _| file.put_be32(96, 7),
        "damaged qcow2 header at offset 0x60: refcount order 7, expected 0 to 6",
    );
    check(
        |file, _| file.put_be32(96, 0),
        "damaged qcow2 header at offset 0x0: its refcount is 0 (qemu-img check -r all)",
        RIGHT,
    );
    refused(|file, _| file.put_be32(100, 4095), "damaged qcow2 header at offset 0x64: header length 4095");
    refused(
        |file, _| file.put_be32(100, u32::MAX),
        "damaged qcow2 header at offset 0x64: header length 4294967295",
    );
    check(
        |file, _| file.put_be32(100, 4088),
        SNAPSHOT,
        "changed by another program, or damaged: the header's extension is missing (--unverified reads it without checks)",
    );
    refused(
        |file, _| file.put_be32(116, u32::MAX),
        "damaged qcow2 header at offset 0x70: header extensions of more than 4096 bytes",
    );
    refused(
        |file, _| file.put_be32(116, 4096 - 120),
        "damaged qcow2 header at offset 0x1000: header extensions of more than 4096 bytes",
    );
    refused(
        |file, _| file.put_be32(112, 0xe279_2aca),
        "the image has a backing file; it was not made for a snapshot and is left alone",
    );
    refused(
        |file, _| file.put_be32(112, 0x2385_2875),
        "the image has persistent bitmaps; it was not made for a snapshot and is left alone",
    );
    refused(
        |file, _| file.put_be32(112, 0x0537_be77),
        "the image has encryption; it was not made for a snapshot and is left alone",
    );
    refused(
        |file, _| file.put_be32(112, 0x4441_5441),
        "the image has an external data file; it was not made for a snapshot and is left alone",
    );
    for (magic, name) in [
        (b"Libv", " (a libvirt save file)"),
        (b"KDMV", " (vmdk)"),
        (b"vhdx", " (vhdx)"),
        (b"QEVM", " (a migration stream)"),
    ] {
        let (content, mut file, _) = super::sample();
        file.write(0, magic);
        let why = format!(
            "not a qcow2 image: magic {:#010x}{name}, expected 0x514649fb",
            u32::from_be_bytes(*magic)
        );
        assert_eq!(super::said(&file, &content, false), [why.clone(), why]);
    }
    refused(
        |file, _| file.put_be32(60, 1),
        "the image has internal snapshots; it was not made for a snapshot and is left alone",
    );
    refused(|file, _| file.put_be64(72, 1 << 40), "unknown incompatible features 0x10000000000");
    refused(
        |file, _| file.put_be64(8, 4096),
        "the image has a backing file; it was not made for a snapshot and is left alone",
    );
}

#[test]
fn overlaps_loops_and_places_outside_the_file_are_refused() {
    refused(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at, 1 << 40)
        },
        "damaged qcow2 L1 table at offset 0x20000: entry 0x10000000000 points outside the file (851968 bytes) or into a cluster",
    );
    refused(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at, 512)
        },
        "damaged qcow2 L1 table at offset 0x20000: entry 0x200 points outside the file (851968 bytes) or into a cluster",
    );
    check(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at, at)
        },
        "damaged qcow2 L2 table at offset 0x20000: it shares a cluster with another structure",
        "ram block \"pc.ram\" offset 0x0: page checksum 0x12fcf688, expected 0xbea53438",
    );
    check(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at, file.be64(at + 8))
        },
        "damaged qcow2 L2 table at offset 0x90000: it shares a cluster with another structure",
        "ram block \"pc.ram\" offset 0x0: page checksum 0xcfb1788e, expected 0xbea53438",
    );
    check(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at, 0)
        },
        SNAPSHOT,
        "ram block \"pc.ram\" offset 0x0: page checksum 0x98f94189, expected 0xbea53438",
    );
    check(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at + 8, 0)
        },
        "the image holds data at guest offset 0x0 that is no snapshot; it is left alone",
        "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged",
    );
    check(
        |file, places| {
            let at = places.get("L1 table").at;
            file.put_be64(at, places.get("refcount block").at)
        },
        "damaged qcow2 L2 table at offset 0x30000: it shares a cluster with another structure",
        "damaged qcow2 L2 table at offset 0x30000: entry 0x1000100010001 points outside the file (851968 bytes) or into a cluster",
    );
    refused(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, 1 << 40)
        },
        "damaged qcow2 L2 table at offset 0x40000: entry 0x10000000000 points outside the file (851968 bytes) or into a cluster",
    );
    refused(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, file.be64(at) + 512)
        },
        "damaged qcow2 L2 table at offset 0x40000: entry 0x8000000000050200 points outside the file (851968 bytes) or into a cluster",
    );
    check(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, at)
        },
        "damaged qcow2 data cluster at offset 0x40000: it shares a cluster with another structure",
        "ram block \"pc.ram\" offset 0x0: page checksum 0xa2e08748, expected 0xbea53438",
    );
    refused(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, u64::MAX)
        },
        "the image has compressed clusters; it was not made for a snapshot and is left alone",
    );
    refused(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, 3 << 62)
        },
        "the image has compressed clusters; it was not made for a snapshot and is left alone",
    );
    check(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at + 8, file.be64(at))
        },
        "damaged qcow2 data cluster at offset 0x50000: it shares a cluster with another structure",
        "ram block \"pc.ram\" offset 0x11000: page checksum 0xf8513bab, expected 0xa5b9812b",
    );
    check(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, 1 << 63)
        },
        SNAPSHOT,
        "ram block \"pc.ram\" offset 0x0: page checksum 0x98f94189, expected 0xbea53438",
    );
    check(
        |file, places| {
            let at = places.get("L2 table").at;
            file.put_be64(at, file.be64(at) | 1)
        },
        SNAPSHOT,
        "ram block \"pc.ram\" offset 0x0: page checksum 0x98f94189, expected 0xbea53438",
    );
}

#[test]
fn hostile_refcounts_are_refused_by_a_save() {
    check(
        |file, places| {
            let at = places.get("refcount table").at;
            file.put_be64(at, 0)
        },
        "damaged qcow2 header at offset 0x0: its refcount is 0 (qemu-img check -r all)",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount table").at;
            file.put_be64(at, 1 << 50)
        },
        "damaged qcow2 refcount table at offset 0x10000: entry 0 is 0x4000000000000, outside the file or inside a cluster",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount table").at;
            file.put_be64(at, 512)
        },
        "damaged qcow2 refcount table at offset 0x10000: entry 0 is 0x200, outside the file or inside a cluster",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount table").at;
            file.put_be64(at, at)
        },
        "damaged qcow2 header at offset 0x0: its refcount is 0 (qemu-img check -r all)",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount table").at;
            file.put_be64(at + 8, file.be64(at))
        },
        "damaged qcow2 refcount block at offset 0x30000: it shares a cluster with another structure",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount block").at;
            file.write(at, &[0, 0])
        },
        "damaged qcow2 header at offset 0x0: its refcount is 0 (qemu-img check -r all)",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount block").at;
            file.write(at, &[0, 2])
        },
        "the image has shared clusters (an internal snapshot's); it was not made for a snapshot and is left alone",
        RIGHT,
    );
    check(
        |file, places| {
            let at = places.get("refcount block").at;
            file.write(at, &[255; 64])
        },
        "the image has shared clusters (an internal snapshot's); it was not made for a snapshot and is left alone",
        RIGHT,
    );
}

#[test]
fn an_l1_table_of_zeros_does_not_make_free_space_of_a_snapshot() {
    let elsewhere: super::Change = |file, _| file.put_be64(40, 0x60000);
    check(
        elsewhere,
        SNAPSHOT,
        "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged",
    );
}
