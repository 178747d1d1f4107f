use super::*;
use crate::geometry::Geometry;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn header(refcount_order: u32, size: u64) -> Header {
    Header::new(Geometry::new(1 << 16, 1 << refcount_order).unwrap(), size)
}

/// Follows the tables from the header on, as any reader of the file does: every cluster that they name is
/// counted once, has one user, and lies in the file. Returns the clusters in use, without those of
/// refcount blocks.
fn used_clusters(tables: &Tables) -> BTreeSet<u64> {
    let (header, cluster) = (&tables.header, tables.cluster_bytes());
    let written = tables.encode(false);
    let part = |at: u64| &written.iter().find(|(place, _)| *place == at).expect("a table has its place").1;
    let mut used = BTreeSet::from([0]);
    let mut take = |at: u64, clusters: u64| {
        for number in at / cluster..at / cluster + clusters {
            assert!(at.is_multiple_of(cluster) && number < tables.next_cluster, "{at:#x}");
            assert!(used.insert(number), "cluster {number} has two users");
        }
    };
    let l1 = Table::parse(header.l1_offset, part(header.l1_offset));
    assert_eq!(l1.entries.len() as u64 * 8, header.l1_clusters() * cluster);
    take(header.l1_offset, header.l1_clusters());
    for (number, &entry) in l1.entries.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        assert!(number < header.l1_entries as usize && entry & COPIED != 0);
        let at = l2_place(entry, 0, cluster, tables.file_length()).unwrap().unwrap();
        take(at, 1);
        for entry in Table::parse(at, part(at)).entries.into_iter().filter(|&entry| entry != 0) {
            assert!(entry & COPIED != 0);
            match mapping(entry, 0, cluster, tables.file_length()).unwrap() {
                Mapping::At { host, reads_as_zero: false } => take(host, 1),
                other => panic!("{entry:#x}: {other:?}"),
            }
        }
    }
    let at = header.refcount_table_offset;
    take(at, u64::from(header.refcount_table_clusters));
    let table = Table::parse(at, part(at)).entries;
    assert_eq!(table.len() as u64 * 8, u64::from(header.refcount_table_clusters) * cluster);
    table.iter().filter(|entry| **entry != 0).for_each(|&entry| take(entry, 1));
    for number in used.iter().copied().chain(0..tables.next_cluster.min(1000)) {
        let (block, place) = (
            to_usize(number / header.geometry.refcount_block_entries()),
            to_usize(number % header.geometry.refcount_block_entries()),
        );
        let count = match table.get(block) {
            Some(&entry) if entry != 0 => refcount(part(entry), place, header.geometry.refcount_order()),
            _ => 0,
        };
        assert_eq!(count, u64::from(used.contains(&number)), "cluster {number}");
    }
    used
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever places are asked for: each has one, the same one each time, and the tables and refcounts
    /// say so.
    #[test]
    fn each_cluster_has_one_place_and_a_refcount(
        order in 0..7u32,
        size in prop::sample::select(vec![1u64, 512 << 20, (512 << 20) + 1, 3 << 40]),
        rounds in prop::collection::vec(prop::collection::vec((0..4usize, 0..3u64), 0..12), 1..3),
    ) {
        let mut tables = Tables::create(header(order, size));
        let mut places = BTreeMap::new();
        let mut used = BTreeSet::new();
        for round in rounds {
            for (span, number) in round {
                // The last of these needs an L1 table of two clusters.
                let guest = [0, 1 << 29, 3 << 40, 5 << 40][span] + (number << 16);
                let host = tables.host(GuestOffset(guest)).unwrap();
                prop_assert_eq!(*places.entry(guest).or_insert(host), host);
            }
            tables.settle_refcounts();
            used = used_clusters(&tables);
        }
        let hosts: BTreeSet<u64> = places.values().map(|host| host.0 >> 16).collect();
        prop_assert!(hosts.is_subset(&used) && hosts.len() == places.len());
        prop_assert!(u64::from(tables.header.l1_entries) >= size.div_ceil(512 << 20));
    }
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let mut tables = Tables::create(header(4, 1 << 20));
    tables.host(GuestOffset(0)).unwrap();
    tables.settle_refcounts();
    assert_eq!(tables.encode(true), tables.encode(false));
    tables.written();
    tables.host(GuestOffset(0)).unwrap();
    tables.settle_refcounts();
    assert!(tables.encode(true).is_empty());
    let l2 = tables.l2[&0].at;
    let block = tables.refcount_blocks[&0].at;
    let place = |(at, _): &(u64, Vec<u8>)| *at;
    tables.host(GuestOffset(1 << 16)).unwrap();
    tables.settle_refcounts();
    assert_eq!(tables.encode(true).iter().map(place).collect::<Vec<_>>(), [l2, block]);
    tables.written();
    let l1 = tables.l1.at;
    tables.host(GuestOffset(1 << 29)).unwrap();
    tables.settle_refcounts();
    assert_eq!(tables.encode(true).iter().map(place).collect::<Vec<_>>(), [l1, tables.l2[&1].at, block]);
}

/// `preallocation=metadata` gives clusters places that read as zeros.
#[test]
fn a_place_that_was_reserved_only_is_used() {
    let mut tables = Tables::create(header(4, 1 << 20));
    tables.host(GuestOffset(0)).unwrap();
    let file_length = tables.file_length();
    let host = tables.l2[&0].entries[0] & OFFSET_MASK;
    if let Some(table) = tables.l2.get_mut(&0) {
        table.entries[0] |= READS_AS_ZERO;
    }
    tables.written();
    assert_eq!(tables.host(GuestOffset(0)).unwrap(), HostOffset(host));
    assert_eq!(tables.l2[&0].entries[0], host | COPIED);
    assert!(tables.l2[&0].changed);
    assert_eq!(tables.file_length(), file_length);
}

/// A file of 4 TiB with refcounts of 64 bits has as many refcount blocks as one cluster of their table
/// has room for.
#[test]
fn a_full_refcount_table_is_given_up_for_a_larger_one() {
    let mut tables = Tables::create(header(6, 1 << 20));
    tables.settle_refcounts();
    let (old, clusters) = (tables.refcounts.at, tables.header.refcount_table_clusters);
    assert_eq!(clusters, 1);
    let mut tables = Tables::open(
        tables.header.clone(),
        tables.l1,
        tables.l2,
        tables.refcounts,
        tables.refcount_blocks,
        (4 << 40) - 1,
    );
    assert_eq!(tables.file_length(), 4 << 40);
    assert_eq!(tables.host(GuestOffset(0)).unwrap(), HostOffset((4 << 40) + (1 << 16)));
    tables.settle_refcounts();
    assert_eq!(tables.header.refcount_table_clusters, 2);
    let used = used_clusters(&tables);
    assert!(!used.contains(&(old >> 16)) && used.contains(&((4 << 40) >> 16)));
}

#[test]
fn refcounts_have_any_width() {
    for order in 0..7 {
        let bits = 1usize << order;
        for at in 0..64 * 8 / bits {
            let mut block = vec![0xff; 64];
            set_refcount(&mut block, at, order, 0);
            for other in 0..64 * 8 / bits {
                let full = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
                assert_eq!(refcount(&block, other, order), if other == at { 0 } else { full });
            }
            set_refcount(&mut block, at, order, 1);
            assert_eq!(refcount(&block, at, order), 1, "{bits} bits, number {at}");
            set_refcount(&mut block, at, order, 1);
            assert_eq!(refcount(&block, at, order), 1, "{bits} bits, number {at}");
        }
    }
    assert_eq!(refcount(&[0, 0, 0x12, 0x34], 1, 4), 0x1234);
    assert_eq!(refcount(&[0x21, 0x43], 3, 2), 4);
}

#[test]
fn entries_name_whole_clusters_in_the_file() {
    let (cluster, length) = (0x1_0000, 0x4_0000);
    let mapped = |entry| mapping(entry, 0, cluster, length).map_err(|error| error.to_string());
    let at = |host, reads_as_zero| Ok(Mapping::At { host, reads_as_zero });
    assert_eq!(mapped(0), Ok(Mapping::Hole));
    assert_eq!(mapped(READS_AS_ZERO), Ok(Mapping::Hole));
    assert_eq!(mapped(0x3_0000 | COPIED), at(0x3_0000, false));
    assert_eq!(mapped(0x1_0000 | READS_AS_ZERO), at(0x1_0000, true));
    assert!(mapped(0x4_0000).is_err() && mapped(0x1_0200).is_err() && mapped(1 << 55).is_err());
    assert_eq!(
        mapped(0x1_0000 | COMPRESSED),
        Err(ImageError::Foreign(Feature::CompressedClusters).to_string())
    );
    // The last cluster of a file may be there in part, but not an L2 table.
    assert!(mapping(0x3_0000, 0, cluster, 0x3_0001).is_ok());
    let placed = |entry| l2_place(entry, 0, cluster, length).map_err(|error| error.to_string());
    assert_eq!(placed(COPIED), Ok(None));
    assert_eq!(placed(0x3_0000 | COPIED), Ok(Some(0x3_0000)));
    assert!(placed(0x4_0000).is_err() && placed(0x2_0200).is_err());
    assert!(l2_place(0x3_0000, 0, cluster, 0x3_ffff).is_err());
}

#[test]
fn a_table_is_filled_up_to_whole_clusters() {
    for (entries, clusters) in [(0, 0), (1, 1), (8192, 1), (8193, 2)] {
        let mut table = Table::new(0, entries);
        table.entries.fill(0x0102_0304_0506_0708);
        let bytes = table.encode(1 << 16);
        assert_eq!(bytes.len(), clusters << 16);
        let read = Table::parse(0, &bytes).entries;
        assert!(read[..entries] == table.entries && read[entries..].iter().all(|&entry| entry == 0));
    }
}
