//! What is ours: the header extension, the VM-state header, the root and the page index.

use super::{ROOT_LENGTH, ROOT_OFFSET, SNAPSHOT, check, refused};

#[test]
fn hostile_extensions_are_refused() {
    refused(
        |file, _| file.put_be32(316, u32::MAX),
        "damaged qcow2 header at offset 0x138: header extensions of more than 4096 bytes",
    );
    refused(
        |file, _| file.put_be32(316, 40),
        "damaged qcow2 header at offset 0x138: snapshot extension of 40 bytes, version 1, state 1",
    );
    refused(
        |file, _| file.put_be32(320, 2),
        "damaged qcow2 header at offset 0x138: snapshot extension of 56 bytes, version 2, state 1",
    );
    refused(
        |file, _| file.put_be32(324, 2),
        "damaged qcow2 header at offset 0x138: snapshot extension of 56 bytes, version 1, state 2",
    );
    check(
        |file, _| file.put_be32(324, 0),
        "an interrupted save",
        "not a complete snapshot: a save was interrupted",
    );
    check(
        |file, _| file.put_be64(ROOT_OFFSET, u64::MAX),
        SNAPSHOT,
        "snapshot guest offset 0xffffffffffffffff, expected a place in the virtual disk or behind it",
    );
    check(
        |file, _| file.put_be64(ROOT_OFFSET, 1 << 62),
        SNAPSHOT,
        "snapshot root at guest offset 0x4000000000000000: checksum 0x7f70d7a0, expected 0x03c346c1",
    );
    check(
        |file, _| file.put_be64(ROOT_OFFSET, 0),
        SNAPSHOT,
        "snapshot root at guest offset 0x0: checksum 0xfc9179db, expected 0x03c346c1",
    );
    check(
        |file, _| file.put_be64(ROOT_LENGTH, u64::MAX),
        SNAPSHOT,
        "root in bytes 18446744073709551615, at most 851968 can be",
    );
    check(
        |file, _| file.put_be64(ROOT_LENGTH, 64 << 20),
        SNAPSHOT,
        "root in bytes 67108864, at most 851968 can be",
    );
    check(
        |file, _| file.put_be64(ROOT_LENGTH, 0),
        SNAPSHOT,
        "snapshot root at guest offset 0x30000000: checksum 0x00000000, expected 0x03c346c1",
    );
    check(
        |file, _| file.put_be64(328, 0),
        SNAPSHOT,
        "not a complete snapshot: header and root have different UUIDs",
    );
    check(
        |file, _| file.put_be64(88, 0),
        SNAPSHOT,
        "changed by another program, or damaged: the feature bit that says unchanged is not set (--unverified reads it without checks)",
    );
}

#[test]
fn hostile_vm_state_headers_are_refused() {
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at, 0)
        },
        SNAPSHOT,
        "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 4, 8192)
        },
        SNAPSHOT,
        "not a complete snapshot: VM-state header and root have different page sizes",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 4, 0)
        },
        SNAPSHOT,
        "snapshot page size 0x0, expected a power of two, 1 KiB to 64 KiB",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 4, 512)
        },
        SNAPSHOT,
        "snapshot page size 0x200, expected a power of two, 1 KiB to 64 KiB",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 16, u32::MAX)
        },
        SNAPSHOT,
        "snapshot header's eof offset 0x238a, expected offsets in order, inside the VM-state area",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 20, 0)
        },
        SNAPSHOT,
        "snapshot header's eof offset 0x238a, expected offsets in order, inside the VM-state area",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 24, 0)
        },
        SNAPSHOT,
        "snapshot header's eof offset 0x0, expected offsets in order, inside the VM-state area",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 24, u32::MAX)
        },
        SNAPSHOT,
        "snapshot header's eof offset 0xffffffff, expected offsets in order, inside the VM-state area",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 24, 200 << 20)
        },
        SNAPSHOT,
        "snapshot header's eof offset 0xc800000, expected offsets in order, inside the VM-state area",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.put_be32(at + 24, file.be32(at + 24) - 1)
        },
        SNAPSHOT,
        "not a complete snapshot: VM-state header and root have different lengths",
    );
    check(
        |file, places| {
            let at = places.get("VM-state header").at;
            file.write(at, b"STV2")
        },
        SNAPSHOT,
        "snapshot header's eof offset 0x270630100000002, expected offsets in order, inside the VM-state area",
    );
}

#[test]
fn hostile_roots_and_leaves_are_refused() {
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be32(at, 0)
        },
        SNAPSHOT,
        "snapshot root magic 0x0, expected 0x51564d52",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be32(at + 4, 2)
        },
        SNAPSHOT,
        "snapshot root version 0x2, expected 1",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 8, 0)
        },
        SNAPSHOT,
        "not a complete snapshot: header and root have different UUIDs",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be32(at + 32, 1024)
        },
        SNAPSHOT,
        "not a complete snapshot: VM-state header and root have different page sizes",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 60, u64::MAX)
        },
        SNAPSHOT,
        "not a complete snapshot: VM-state header and root have different lengths",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be32(at + 96, u32::MAX)
        },
        SNAPSHOT,
        "not a complete snapshot: its root is malformed",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 100, u64::MAX)
        },
        SNAPSHOT,
        "snapshot guest offset 0xffffffffffffffff, expected a place in the virtual disk or behind it",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 100, 0)
        },
        SNAPSHOT,
        "something else",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be32(at + 108, u32::MAX)
        },
        SNAPSHOT,
        "piece of the page index in bytes 4294967295, at most 65536 can be",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be32(at + 116, u32::MAX)
        },
        SNAPSHOT,
        "not a complete snapshot: its root is malformed",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.write(at + 120, &[1, 0])
        },
        SNAPSHOT,
        "not a complete snapshot: its root is malformed",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.write(at + 120, &[0, 0])
        },
        SNAPSHOT,
        "not a complete snapshot: its root is malformed",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 128, u64::MAX << 12)
        },
        SNAPSHOT,
        "RAM size in bytes 18446744073709547520, at most 1125899906842624 can be",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 128, 1 << 49)
        },
        SNAPSHOT,
        "not a complete snapshot: its blocks lie elsewhere",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 128, 0)
        },
        SNAPSHOT,
        "snapshot block length 0x0, expected a multiple of the page size",
    );
    check(
        |file, places| {
            let at = places.get("root").at;
            file.put_be64(at + 136, 1 << 20)
        },
        SNAPSHOT,
        "not a complete snapshot: its blocks lie elsewhere",
    );
    check(
        |file, places| {
            let root = places.get("root");
            let end = root.at + root.length;
            file.put_be64(end - 16, u64::MAX)
        },
        SNAPSHOT,
        "damaged qcow2 table of the root at offset 0xffffffffffffffff: 65536 bytes there, the file has 851968",
    );
    check(
        |file, places| {
            let root = places.get("root");
            let end = root.at + root.length;
            file.put_be64(end - 16, 1 << 40)
        },
        SNAPSHOT,
        "damaged qcow2 table of the root at offset 0x10000000000: 65536 bytes there, the file has 851968",
    );
    check(
        |file, places| {
            let root = places.get("root");
            let end = root.at + root.length;
            file.put_be32(end - 8, u32::MAX)
        },
        SNAPSHOT,
        "damaged qcow2 table of the root at offset 0x30000: 4294967295 bytes there, the file has 851968",
    );
    check(
        |file, places| {
            let at = places.get("page index").at;
            file.put_be64(at, u64::MAX)
        },
        SNAPSHOT,
        "snapshot guest offset 0xffffffffffffffff, expected a place in the virtual disk or behind it",
    );
    check(
        |file, places| {
            let at = places.get("page index").at;
            file.put_be64(at, at)
        },
        SNAPSHOT,
        "page checksums at guest offset 0xc2000: checksum 0xbb25a722, expected 0x0dea869a",
    );
    check(
        |file, places| {
            let at = places.get("page index").at;
            file.put_be64(at, 0)
        },
        SNAPSHOT,
        "something else",
    );
    check(
        |file, places| {
            let at = places.get("page index").at;
            file.put_be32(at + 8, u32::MAX)
        },
        SNAPSHOT,
        "piece of the page index in bytes 4294967295, at most 33824 can be",
    );
    check(
        |file, places| {
            let at = places.get("page index").at;
            file.put_be32(at + 8, 0)
        },
        SNAPSHOT,
        "page checksums at guest offset 0x30011000: checksum 0x00000000, expected 0x0dea869a",
    );
    check(
        |file, places| {
            let at = places.get("leaf").at;
            file.put_be64(at, 7)
        },
        SNAPSHOT,
        "not a complete snapshot: a leaf of its page index is malformed",
    );
    check(
        |file, places| {
            let at = places.get("leaf").at;
            file.put_be32(at + 8, u32::MAX)
        },
        SNAPSHOT,
        "not a complete snapshot: a leaf of its page index is malformed",
    );
    check(
        |file, places| {
            let at = places.get("leaf").at;
            file.put_be32(at + 32, u32::MAX)
        },
        SNAPSHOT,
        "not a complete snapshot: a leaf of its page index is malformed",
    );
    check(
        |file, places| {
            let at = places.get("leaf").at;
            file.write(at + 16, &[0; 16])
        },
        SNAPSHOT,
        "not a complete snapshot: a leaf of its page index is malformed",
    );
}
