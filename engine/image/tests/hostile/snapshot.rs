//! What is ours: the header extension, the VM-state header, the root and the page index.

use super::{SNAPSHOT, Value::*, cases, check};

/// The header extension.
mod extensions {
    use super::*;

    cases! {
        an_extension_of_4_gib: "header extension" @ 4, Be32(u32::MAX) =>
            "damaged qcow2 header at offset 0x138: header extensions of more than 4096 bytes";
        an_extension_of_another_length: "header extension" @ 4, Be32(40) =>
            "damaged qcow2 header at offset 0x138: snapshot extension of 40 bytes, version 1, state 1";
        an_extension_of_another_version: "header extension" @ 8, Be32(2) =>
            "damaged qcow2 header at offset 0x138: snapshot extension of 56 bytes, version 2, state 1";
        an_extension_of_an_unknown_state: "header extension" @ 12, Be32(2) =>
            "damaged qcow2 header at offset 0x138: snapshot extension of 56 bytes, version 1, state 2";
        an_extension_of_an_interrupted_save: "header extension" @ 12, Be32(0) =>
            "an interrupted save",
            "not a complete snapshot: a save was interrupted";
        a_root_behind_2_to_the_64: "header extension" @ 32, Be64(u64::MAX) => SNAPSHOT,
            "snapshot guest offset 0xffffffffffffffff, expected a place in the virtual disk or behind it";
        a_root_far_behind_the_disk: "header extension" @ 32, Be64(1 << 62) => SNAPSHOT,
            "snapshot root at guest offset 0x4000000000000000: checksum 0x7f70d7a0, expected 0x03c346c1";
        a_root_in_the_ram: "header extension" @ 32, Be64(0) => SNAPSHOT,
            "snapshot root at guest offset 0x0: checksum 0xfc9179db, expected 0x03c346c1";
        a_root_of_16_eib: "header extension" @ 40, Be64(u64::MAX) => SNAPSHOT,
            "snapshot root is 18446744073709551615 bytes long, the limit is 851968";
        a_root_of_64_mib: "header extension" @ 40, Be64(64 << 20) => SNAPSHOT,
            "snapshot root is 67108864 bytes long, the limit is 851968";
        a_root_of_no_bytes: "header extension" @ 40, Be64(0) => SNAPSHOT,
            "snapshot root at guest offset 0x30000000: checksum 0x00000000, expected 0x03c346c1";
        another_uuid_in_the_header: "header extension" @ 16, Be64(0) => SNAPSHOT,
            "not a complete snapshot: header and root have different UUIDs";
        another_program_has_written: "header" @ 88, Be64(0) => SNAPSHOT,
            "changed by another program, or damaged: the feature bit that says unchanged is not set";
    }
}

/// The header of the VM state.
mod vm_state_headers {
    use super::*;

    cases! {
        no_vm_state_header: "VM-state header" @ 0, Be32(0) => SNAPSHOT,
            "not a complete snapshot: it has no VM-state header: a save was interrupted, or its tables are damaged";
        pages_of_8_kib: "VM-state header" @ 4, Be32(8192) => SNAPSHOT,
            "not a complete snapshot: VM-state header and root have different page sizes";
        pages_of_no_bytes: "VM-state header" @ 4, Be32(0) => SNAPSHOT,
            "snapshot page size 0x0, expected a power of two, 1 KiB to 64 KiB";
        pages_of_512_bytes: "VM-state header" @ 4, Be32(512) => SNAPSHOT,
            "snapshot page size 0x200, expected a power of two, 1 KiB to 64 KiB";
        the_ram_list_behind_the_devices: "VM-state header" @ 16, Be32(u32::MAX) => SNAPSHOT,
            "snapshot header's eof offset 0x238a, expected offsets in order, inside the VM-state area";
        devices_before_the_ram_list: "VM-state header" @ 20, Be32(0) => SNAPSHOT,
            "snapshot header's eof offset 0x238a, expected offsets in order, inside the VM-state area";
        the_end_before_the_devices: "VM-state header" @ 24, Be32(0) => SNAPSHOT,
            "snapshot header's eof offset 0x0, expected offsets in order, inside the VM-state area";
        a_vm_state_of_4_gib: "VM-state header" @ 24, Be32(u32::MAX) => SNAPSHOT,
            "snapshot header's eof offset 0xffffffff, expected offsets in order, inside the VM-state area";
        a_vm_state_longer_than_the_file: "VM-state header" @ 24, Be32(200 << 20) => SNAPSHOT,
            "snapshot header's eof offset 0xc800000, expected offsets in order, inside the VM-state area";
        a_device_tail_cut_off: "VM-state header" @ 24, Sub32(1) => SNAPSHOT,
            "not a complete snapshot: VM-state header and root have different lengths";
        the_other_form_s_magic: "VM-state header" @ 0, Bytes(b"STV2") => SNAPSHOT,
            "snapshot header's eof offset 0x270630100000002, expected offsets in order, inside the VM-state area";
    }
}

/// The root and the page index. Two of these a checksum does not cover: a page whose place in the index is
/// gone is zero.
mod roots_and_leaves {
    use super::*;

    cases! {
        no_root_magic: "root" @ 0, Be32(0) => SNAPSHOT,
            "snapshot root magic 0x0, expected 0x51564d52";
        another_root_version: "root" @ 4, Be32(2) => SNAPSHOT,
            "snapshot root version 0x2, expected 1";
        another_uuid_in_the_root: "root" @ 8, Be64(0) => SNAPSHOT,
            "not a complete snapshot: header and root have different UUIDs";
        another_page_size_in_the_root: "root" @ 32, Be32(1024) => SNAPSHOT,
            "not a complete snapshot: VM-state header and root have different page sizes";
        a_leader_of_16_eib: "root" @ 60, Be64(u64::MAX) => SNAPSHOT,
            "not a complete snapshot: VM-state header and root have different lengths";
        four_billion_index_pages: "root" @ 96, Be32(u32::MAX) => SNAPSHOT,
            "not a complete snapshot: its root is malformed";
        an_index_page_behind_2_to_the_64: "root" @ 100, Be64(u64::MAX) => SNAPSHOT,
            "snapshot guest offset 0xffffffffffffffff, expected a place in the virtual disk or behind it";
        no_index_page: "root" @ 100, Be64(0) => SNAPSHOT,
            "something else";
        an_index_page_of_4_gib: "root" @ 108, Be32(u32::MAX) => SNAPSHOT,
            "part of the page index is 4294967295 bytes long, the limit is 65536";
        four_billion_blocks: "root" @ 116, Be32(u32::MAX) => SNAPSHOT,
            "not a complete snapshot: its root is malformed";
        a_block_name_of_256_bytes: "root" @ 120, Bytes(&[1, 0]) => SNAPSHOT,
            "not a complete snapshot: its root is malformed";
        a_block_name_of_no_bytes: "root" @ 120, Bytes(&[0, 0]) => SNAPSHOT,
            "not a complete snapshot: its root is malformed";
        a_block_of_16_eib: "root" @ 128, Be64(u64::MAX << 12) => SNAPSHOT,
            "RAM is 18446744073709547520 bytes long, the limit is 1125899906842624";
        a_block_of_512_tib: "root" @ 128, Be64(1 << 49) => SNAPSHOT,
            "not a complete snapshot: its root has other places for its RAM blocks";
        a_block_of_no_bytes: "root" @ 128, Be64(0) => SNAPSHOT,
            "snapshot block length 0x0, expected a multiple of the page size";
        a_block_elsewhere: "root" @ 136, Be64(1 << 20) => SNAPSHOT,
            "not a complete snapshot: its root has other places for its RAM blocks";
        a_table_behind_2_to_the_64: "root" @ -16, Be64(u64::MAX) => SNAPSHOT,
            "damaged qcow2 table of the root at offset 0xffffffffffffffff: 65536 bytes there, the file has 851968";
        a_table_outside_the_file: "root" @ -16, Be64(1 << 40) => SNAPSHOT,
            "damaged qcow2 table of the root at offset 0x10000000000: 65536 bytes there, the file has 851968";
        a_table_of_4_gib: "root" @ -8, Be32(u32::MAX) => SNAPSHOT,
            "damaged qcow2 table of the root at offset 0x30000: 4294967295 bytes there, the file has 851968";
        a_leaf_behind_2_to_the_64: "page index" @ 0, Be64(u64::MAX) => SNAPSHOT,
            "snapshot guest offset 0xffffffffffffffff, expected a place in the virtual disk or behind it";
        the_index_page_as_a_leaf: "page index" @ 0, Offset => SNAPSHOT,
            "page checksums at guest offset 0xc2000: checksum 0xbb25a722, expected 0x0dea869a";
        no_leaf: "page index" @ 0, Be64(0) => SNAPSHOT,
            "something else";
        a_leaf_of_4_gib: "page index" @ 8, Be32(u32::MAX) => SNAPSHOT,
            "part of the page index is 4294967295 bytes long, the limit is 33824";
        a_leaf_of_no_bytes: "page index" @ 8, Be32(0) => SNAPSHOT,
            "page checksums at guest offset 0x30011000: checksum 0x00000000, expected 0x0dea869a";
        a_leaf_of_another_number: "leaf" @ 0, Be64(7) => SNAPSHOT,
            "not a complete snapshot: a leaf of its page index is malformed";
        a_leaf_that_counts_four_billion_pages: "leaf" @ 8, Be32(u32::MAX) => SNAPSHOT,
            "not a complete snapshot: a leaf of its page index is malformed";
        a_leaf_with_more_pages_than_checksums: "leaf" @ 32, Be32(u32::MAX) => SNAPSHOT,
            "not a complete snapshot: a leaf of its page index is malformed";
        a_leaf_of_another_snapshot: "leaf" @ 16, Bytes(&[0; 16]) => SNAPSHOT,
            "not a complete snapshot: a leaf of its page index is malformed";
    }
}
