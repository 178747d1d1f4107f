//! Header, L1, L2 and refcount tables.

use super::{RIGHT, SNAPSHOT, Value::*, cases, check, said, sample};

/// Headers.
mod headers {
    use super::*;

    cases! {
        no_l1_entries: "header" @ 36, Be32(0) =>
            "damaged qcow2 header at offset 0x18: disk size 1114112 does not fit 0 L1 entries";
        four_billion_l1_entries: "header" @ 36, Be32(u32::MAX) =>
            "damaged qcow2 header at offset 0x28: L1 table is 34359738360 bytes long, the limit is 33554432";
        an_l1_table_outside_the_file: "header" @ 40, Be64(1 << 40) =>
            "damaged qcow2 header at offset 0x28: L1 table at 0x10000000000 with 16 bytes, the file has 851968";
        an_l1_table_that_wraps: "header" @ 40, Be64(u64::MAX << 16) =>
            "damaged qcow2 header at offset 0x28: L1 table at 0xffffffffffff0000 with 16 bytes, the file has 851968";
        an_l1_table_at_0: "header" @ 40, Be64(0) =>
            "damaged qcow2 header at offset 0x28: L1 table at 0x0 with 16 bytes, the file has 851968";
        an_l1_table_inside_a_cluster: "header" @ 40, Be64(0x20200) =>
            "damaged qcow2 header at offset 0x28: L1 table at 0x20200 with 16 bytes, the file has 851968";
        a_disk_of_16_eib: "header" @ 24, Be64(u64::MAX) =>
            "damaged qcow2 header at offset 0x18: disk size 18446744073709551615 does not fit 2 L1 entries";
        a_disk_larger_than_its_l1_table: "header" @ 24, Be64(1 << 40) =>
            "damaged qcow2 header at offset 0x18: disk size 1099511627776 does not fit 2 L1 entries";
        a_disk_of_no_bytes: "header" @ 24, Be64(0) => SNAPSHOT,
            "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged";
        a_disk_smaller_than_the_ram: "header" @ 24, Be64(1 << 20) => SNAPSHOT,
            "not a complete snapshot: its RAM does not fit into its virtual disk";
        a_refcount_table_of_four_billion_clusters: "header" @ 56, Be32(u32::MAX) =>
            "damaged qcow2 header at offset 0x30: refcount table is 281474976645120 bytes long, the limit is 8388608";
        no_refcount_table: "header" @ 56, Be32(0) =>
            "damaged qcow2 header at offset 0x38: no refcount table";
        a_refcount_table_outside_the_file: "header" @ 48, Be64(1 << 50) =>
            "damaged qcow2 header at offset 0x30: refcount table at 0x4000000000000 with 65536 bytes, the file has 851968";
        the_l1_table_as_the_refcount_table: "header" @ 48, Copy64("header", 40) =>
            "damaged qcow2 refcount table at offset 0x20000: entry 0 is 0x8000000000040000, outside the file or inside a cluster",
            RIGHT;
        clusters_of_2_to_the_64: "header" @ 20, Be32(64) =>
            "cluster size 0 bytes, expected 64 KiB to 2 MiB";
        clusters_of_512_bytes: "header" @ 20, Be32(9) =>
            "cluster size 512 bytes, expected 64 KiB to 2 MiB";
        clusters_of_another_size: "header" @ 20, Be32(17) =>
            "damaged qcow2 header at offset 0x30: refcount table at 0x10000 with 131072 bytes, the file has 851968";
        refcounts_of_128_bits: "header" @ 96, Be32(7) =>
            "damaged qcow2 header at offset 0x60: refcount order 7, expected 0 to 6";
        refcounts_of_one_bit: "header" @ 96, Be32(0) =>
            "damaged qcow2 header at offset 0x0: its refcount is 0",
            RIGHT;
        a_header_of_an_odd_length: "header" @ 100, Be32(4095) =>
            "damaged qcow2 header at offset 0x64: header length 4095";
        a_header_of_4_gib: "header" @ 100, Be32(u32::MAX) =>
            "damaged qcow2 header at offset 0x64: header length 4294967295";
        a_header_without_extensions: "header" @ 100, Be32(4088) => SNAPSHOT,
            "changed by another program, or damaged: the header's extension is missing";
        an_extension_of_4_gib: "header" @ 116, Be32(u32::MAX) =>
            "damaged qcow2 header at offset 0x70: header extensions of more than 4096 bytes";
        an_extension_up_to_the_end_of_the_header: "header" @ 116, Be32(4096 - 120) =>
            "damaged qcow2 header at offset 0x1000: header extensions of more than 4096 bytes";
        a_format_of_a_backing_file: "header" @ 112, Be32(0xe279_2aca) =>
            "the image has a backing file; it was not made for a snapshot and is left alone";
        bitmaps: "header" @ 112, Be32(0x2385_2875) =>
            "the image has persistent bitmaps; it was not made for a snapshot and is left alone";
        a_header_of_encryption: "header" @ 112, Be32(0x0537_be77) =>
            "the image has encryption; it was not made for a snapshot and is left alone";
        a_name_of_a_data_file: "header" @ 112, Be32(0x4441_5441) =>
            "the image has an external data file; it was not made for a snapshot and is left alone";
        an_internal_snapshot: "header" @ 60, Be32(1) =>
            "the image has internal snapshots; it was not made for a snapshot and is left alone";
        an_unknown_feature: "header" @ 72, Be64(1 << 40) =>
            "unknown incompatible features 0x10000000000";
        a_backing_file: "header" @ 8, Be64(4096) =>
            "the image has a backing file; it was not made for a snapshot and is left alone";
    }
}

/// Overlaps, loops, and places outside the file.
mod l1_and_l2_tables {
    use super::*;

    cases! {
        an_l2_table_outside_the_file: "L1 table" @ 0, Be64(1 << 40) =>
            "damaged qcow2 L1 table at offset 0x20000: entry 0x10000000000 points outside the file (851968 bytes) or into a cluster";
        an_l2_table_inside_a_cluster: "L1 table" @ 0, Be64(512) =>
            "damaged qcow2 L1 table at offset 0x20000: entry 0x200 points outside the file (851968 bytes) or into a cluster";
        the_l1_table_as_its_own_l2_table: "L1 table" @ 0, Offset =>
            "damaged qcow2 L2 table at offset 0x20000: it shares a cluster with another structure",
            "ram block \"pc.ram\" offset 0x0: page checksum 0x12fcf688, expected 0xbea53438";
        one_l2_table_for_ram_and_vm_state: "L1 table" @ 0, Copy64("L1 table", 8) =>
            "damaged qcow2 L2 table at offset 0x90000: it shares a cluster with another structure",
            "ram block \"pc.ram\" offset 0x0: page checksum 0xcfb1788e, expected 0xbea53438";
        no_l2_table_for_ram: "L1 table" @ 0, Be64(0) => SNAPSHOT,
            "ram block \"pc.ram\" offset 0x0: page checksum 0x98f94189, expected 0xbea53438";
        no_l2_table_for_the_vm_state: "L1 table" @ 8, Be64(0) =>
            "the image holds data at guest offset 0x0 that is no snapshot; it is left alone",
            "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged";
        a_refcount_block_as_an_l2_table: "L1 table" @ 0, OffsetOf("refcount block") =>
            "damaged qcow2 L2 table at offset 0x30000: it shares a cluster with another structure",
            "damaged qcow2 L2 table at offset 0x30000: entry 0x1000100010001 points outside the file (851968 bytes) or into a cluster";
        data_outside_the_file: "L2 table" @ 0, Be64(1 << 40) =>
            "damaged qcow2 L2 table at offset 0x40000: entry 0x10000000000 points outside the file (851968 bytes) or into a cluster";
        data_inside_a_cluster: "L2 table" @ 0, Add64(512) =>
            "damaged qcow2 L2 table at offset 0x40000: entry 0x8000000000050200 points outside the file (851968 bytes) or into a cluster";
        the_l2_table_as_its_own_data: "L2 table" @ 0, Offset =>
            "damaged qcow2 data cluster at offset 0x40000: it shares a cluster with another structure",
            "ram block \"pc.ram\" offset 0x0: page checksum 0xa2e08748, expected 0xbea53438";
        an_entry_of_all_bits: "L2 table" @ 0, Be64(u64::MAX) =>
            "the image has compressed clusters; it was not made for a snapshot and is left alone";
        a_compressed_cluster: "L2 table" @ 0, Be64(3 << 62) =>
            "the image has compressed clusters; it was not made for a snapshot and is left alone";
        one_cluster_at_two_places: "L2 table" @ 8, Copy64("L2 table", 0) =>
            "damaged qcow2 data cluster at offset 0x50000: it shares a cluster with another structure",
            "ram block \"pc.ram\" offset 0x11000: page checksum 0xf8513bab, expected 0xa5b9812b";
        no_cluster_for_a_page: "L2 table" @ 0, Be64(1 << 63) => SNAPSHOT,
            "ram block \"pc.ram\" offset 0x0: page checksum 0x98f94189, expected 0xbea53438";
        a_page_that_reads_as_zeros: "L2 table" @ 0, Add64(1) => SNAPSHOT,
            "ram block \"pc.ram\" offset 0x0: page checksum 0x98f94189, expected 0xbea53438";
    }
}

/// Only a save looks at refcounts.
mod refcounts {
    use super::*;

    cases! {
        no_refcount_block: "refcount table" @ 0, Be64(0) =>
            "damaged qcow2 header at offset 0x0: its refcount is 0",
            RIGHT;
        a_refcount_block_outside_the_file: "refcount table" @ 0, Be64(1 << 50) =>
            "damaged qcow2 refcount table at offset 0x10000: entry 0 is 0x4000000000000, outside the file or inside a cluster",
            RIGHT;
        a_refcount_block_inside_a_cluster: "refcount table" @ 0, Be64(512) =>
            "damaged qcow2 refcount table at offset 0x10000: entry 0 is 0x200, outside the file or inside a cluster",
            RIGHT;
        the_refcount_table_as_its_own_block: "refcount table" @ 0, Offset =>
            "damaged qcow2 header at offset 0x0: its refcount is 0",
            RIGHT;
        one_refcount_block_twice: "refcount table" @ 8, Copy64("refcount table", 0) =>
            "damaged qcow2 refcount block at offset 0x30000: it shares a cluster with another structure",
            RIGHT;
        a_cluster_in_use_that_is_free: "refcount block" @ 0, Bytes(&[0, 0]) =>
            "damaged qcow2 header at offset 0x0: its refcount is 0",
            RIGHT;
        a_cluster_in_use_twice: "refcount block" @ 0, Bytes(&[0, 2]) =>
            "the image has shared clusters (an internal snapshot's); it was not made for a snapshot and is left alone",
            RIGHT;
        clusters_in_use_65535_times: "refcount block" @ 0, Bytes(&[255; 64]) =>
            "the image has shared clusters (an internal snapshot's); it was not made for a snapshot and is left alone",
            RIGHT;
    }
}

cases! {
    an_l1_table_of_zeros_makes_no_free_space_of_a_snapshot: "header" @ 40, Be64(0x60000) => SNAPSHOT,
        "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged";
}

#[test]
fn another_format_is_called_by_its_name() {
    for (magic, name) in [
        (b"Libv", " (a libvirt save file)"),
        (b"KDMV", " (vmdk)"),
        (b"vhdx", " (vhdx)"),
        (b"QEVM", " (a migration stream)"),
    ] {
        let (content, mut file, _) = sample();
        file.write(0, magic);
        let why = format!(
            "not a qcow2 image: magic {:#010x}{name}, expected 0x514649fb",
            u32::from_be_bytes(*magic)
        );
        assert_eq!(said(&file, &content, false), [why.clone(), why]);
    }
}
