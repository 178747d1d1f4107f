//! A QCOW2 image with an internal snapshot, as `savevm` makes it: header, snapshot table, the
//! snapshot's L1 and L2 tables, the VM state, refcount table and block, in a cluster of 64 KiB
//! each.

use migration_stream::{
    BlockList, Configuration, RamBlock, SectionId, put_configuration, put_end_of_section, put_file_header,
    put_ram_blocks, put_section_end, put_zero_page,
};

use super::{Kind, Recipes, base::Base};

const CLUSTER_BYTES: usize = 65536;
/// The same, and so where the second one begins.
const CLUSTER: u64 = CLUSTER_BYTES as u64;
/// What an L1 entry covers.
const SPAN: u64 = CLUSTER / 8 * CLUSTER;
/// Entries of an L1 table of one cluster.
const L1_ENTRIES: u32 = 8192;

fn vm_state() -> Vec<u8> {
    let mut base = Base::new("state");
    base.put_with(put_file_header).put_with(|out| {
        put_configuration(out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    });
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 4096,
        host_page_size: None,
        guest_physical_address: None,
    };
    base.section(false, 2, b"ram", 4).put_with(|out| put_ram_blocks(out, &BlockList { blocks: vec![block] }));
    base.put_with(put_end_of_section).footer(2);
    base.put_with(|out| put_section_end(out, SectionId(2)));
    base.put_with(|out| put_zero_page(out, Some(b"pc.ram"), 0)).put_with(put_end_of_section).footer(2);
    base.timer_and_end();
    base.bytes
}

/// Fills up to the next cluster.
fn pad(base: &mut Base) {
    let end = base.bytes.len().next_multiple_of(CLUSTER_BYTES);
    base.bytes.resize(end, 0);
}

fn base() -> Base {
    let state = vm_state();
    let mut base = Base::new("savevm");
    base.put(b"QFI\xfb").put(&3_u32.to_be_bytes()).put(&[0; 12]).put(&16_u32.to_be_bytes());
    // No disk, no encryption, no L1 table of its own; the refcount table.
    base.put(&[0; 24]).put(&(5 * CLUSTER).to_be_bytes()).put(&1_u32.to_be_bytes());
    base.put(&1_u32.to_be_bytes()).mark("table-offset").put(&CLUSTER.to_be_bytes());
    base.mark("incompatible").put(&[0; 24]);
    base.put(&4_u32.to_be_bytes()).put(&104_u32.to_be_bytes());
    pad(&mut base);
    base.mark("l1-offset").put(&(2 * CLUSTER).to_be_bytes()).mark("l1-entries").put(&1_u32.to_be_bytes());
    base.put(&[0, 1, 0, 4]).put(&[0; 20]).put(&16_u32.to_be_bytes());
    base.mark("size").put(&(state.len() as u64).to_be_bytes()).put(&[0; 8]).put(b"1save");
    pad(&mut base);
    base.mark("l1").put(&(3 * CLUSTER).to_be_bytes());
    pad(&mut base);
    base.mark("l2").put(&(4 * CLUSTER).to_be_bytes());
    pad(&mut base);
    base.mark("state").put(&state);
    pad(&mut base);
    base.put(&(6 * CLUSTER).to_be_bytes());
    pad(&mut base);
    base.put(&[0, 1].repeat(7));
    pad(&mut base);
    base
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Image, base());
    r.set("table-outside", "the snapshot table behind the file", ("table-offset", 0), &[1]);
    r.set("l1-outside", "the snapshot's L1 table behind the file", ("l1-offset", 0), &[1]);
    r.set(
        "l1-max",
        "a snapshot's L1 table of 2^32 - 1 entries (CVE-2014-0143's class)",
        ("l1-entries", 0),
        &[0xff; 4],
    );
    r.set("state-max", "VM state of 2^64 - 1 bytes", ("size", 0), &[0xff; 8]);
    r.set(
        "state-reach",
        "VM state of a byte more than its L1 table reaches",
        ("size", 0),
        &(SPAN + 1).to_be_bytes(),
    );
    let holes = |bytes: &mut Vec<u8>, base: &Base| {
        bytes[base.at("l1-entries")..][..4].copy_from_slice(&L1_ENTRIES.to_be_bytes());
        bytes[base.at("size")..][..8].copy_from_slice(&(u64::from(L1_ENTRIES) * SPAN).to_be_bytes());
    };
    r.make("state-holes", "VM state of 4 TiB, nearly all of it holes", holes);
    r.make("state-holes-damaged", "the same, and a machine name of 4 GiB", |bytes, base| {
        holes(bytes, base);
        bytes[base.at("state") + 9..][..4].copy_from_slice(&[0xff; 4]);
    });
    r.set("l2-outside", "an L2 table behind the file", ("l1", 0), &[0, 1]);
    r.set("state-compressed", "VM state in compressed clusters", ("l2", 0), &[0x40]);
    r.set("state-hole", "no cluster for the VM state", ("l2", 0), &[0; 8]);
    r.set("state-outside", "a data cluster behind the file", ("l2", 0), &[0, 1]);
    r.set("state-unaligned", "a data cluster that begins inside of one", ("l2", 6), &[2]);
    r.set("l2-unaligned", "an L2 table that begins inside of a cluster", ("l1", 6), &[2]);
    let not_closed = |bytes: &mut Vec<u8>, base: &Base| bytes[base.at("incompatible") + 7] |= 1;
    r.make("lazy", "lazy refcounts, and not closed: nothing else is wrong", not_closed);
    for (name, change, at, new) in [
        ("lazy-l2-outside", "lazy refcounts, and an L2 table behind the file", ("l1", 8), [0, 1]),
        ("lazy-l2-unaligned", "lazy refcounts, and an L2 table inside of a cluster", ("l1", 14), [2, 0]),
        ("lazy-data-outside", "lazy refcounts, and a data cluster behind the file", ("l2", 8), [0, 1]),
        ("lazy-data-unaligned", "lazy refcounts, and data inside of a cluster", ("l2", 14), [2, 0]),
    ] {
        // The VM state does not need these entries: only a look at the tables finds them.
        r.make(name, change, |bytes, base| {
            not_closed(bytes, base);
            bytes[base.at("l1-entries")..][..4].copy_from_slice(&2_u32.to_be_bytes());
            let at = base.at(at.0) + at.1;
            bytes[at..at + 2].copy_from_slice(&new);
        });
    }
    r
}
