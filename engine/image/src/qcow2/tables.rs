//! L1, L2 and refcount tables in memory.

use super::header::Header;
use crate::error::ImageError;
use crate::feature::Feature;
use crate::linear::Linear;
use crate::size::to_usize;
use crate::types::{GuestOffset, HostOffset};
use std::collections::{BTreeMap, VecDeque};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;

/// A table of be64 as it is in the file.
#[derive(Debug)]
pub(crate) struct RawTable {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

impl RawTable {
    pub(crate) fn entry(&self, number: usize) -> u64 {
        u64::from_be_bytes(self.bytes.as_chunks().0[number])
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = u64> {
        self.bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes)
    }
}

/// A table of be64 in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) at: u64,
    pub(crate) entries: Vec<u64>,
    pub(crate) changed: bool,
}

impl Table {
    pub(crate) fn new(at: u64, entries: usize) -> Self {
        Self { at, entries: vec![0; entries], changed: true }
    }

    pub(crate) fn parse(at: u64, bytes: &[u8]) -> Self {
        let (entries, _) = bytes.as_chunks();
        Self { at, entries: entries.iter().copied().map(u64::from_be_bytes).collect(), changed: false }
    }

    /// The table's bytes, filled up to whole clusters.
    pub(crate) fn encode(&self, cluster_bytes: u64) -> Vec<u8> {
        let length = size_of_val(self.entries.as_slice()) as u64;
        let mut out = vec![0; to_usize(length.next_multiple_of(cluster_bytes))];
        for (place, entry) in out.as_chunks_mut().0.iter_mut().zip(&self.entries) {
            *place = entry.to_be_bytes();
        }
        out
    }
}

/// What an L2 entry says about a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// It has no place, and reads as zeros.
    Hole,
    /// A place in the file; it may be reserved only, and read as zeros.
    At { host: u64, reads_as_zero: bool },
}

/// Parses an L2 entry.
pub(crate) fn mapping(
    entry: u64,
    at: u64,
    cluster_bytes: u64,
    file_length: u64,
) -> Result<Mapping, ImageError> {
    if entry & COMPRESSED != 0 {
        return Err(ImageError::Foreign(Feature::CompressedClusters));
    }
    let host = entry & OFFSET_MASK;
    if host == 0 {
        return Ok(Mapping::Hole);
    }
    if !host.is_multiple_of(cluster_bytes) || host >= file_length {
        let what =
            format!("entry {entry:#x} points outside the file ({file_length} bytes) or into a cluster");
        return Err(ImageError::Damaged { structure: "L2 table", at, what });
    }
    Ok(Mapping::At { host, reads_as_zero: entry & READS_AS_ZERO != 0 })
}

/// What an L2 entry says but for the flag that every entry of an own, uncompressed cluster has: the cluster's
/// place, if it says nothing else.
pub(crate) fn plain_place(entry: u64) -> u64 {
    entry & !COPIED
}

/// Parses an L1 entry: where the L2 table lies.
pub(crate) fn l2_place(
    entry: u64,
    at: u64,
    cluster_bytes: u64,
    file_length: u64,
) -> Result<Option<u64>, ImageError> {
    let host = entry & OFFSET_MASK;
    if host == 0 {
        return Ok(None);
    }
    if !host.is_multiple_of(cluster_bytes)
        || host.checked_add(cluster_bytes).is_none_or(|end| end > file_length)
    {
        let what =
            format!("entry {entry:#x} points outside the file ({file_length} bytes) or into a cluster");
        return Err(ImageError::Damaged { structure: "L1 table", at, what });
    }
    Ok(Some(host))
}

/// A refcount in its block; `width_bits` is 1 to 64.
pub(crate) fn refcount(block: &[u8], index: usize, order: u32) -> u64 {
    let bits = 1usize << order;
    if bits < 8 {
        let byte = block[index * bits / 8];
        return u64::from(byte >> (index * bits % 8)) & ((1 << bits) - 1);
    }
    let bytes = bits / 8;
    block[index * bytes..(index + 1) * bytes].iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn set_refcount(block: &mut [u8], index: usize, order: u32, value: u8) {
    let bits = 1usize << order;
    if bits < 8 {
        let shift = index * bits % 8;
        let byte = &mut block[index * bits / 8];
        *byte = *byte & !(((1u8 << bits) - 1) << shift) | value << shift;
        return;
    }
    let bytes = bits / 8;
    block[index * bytes..(index + 1) * bytes].fill(0);
    block[(index + 1) * bytes - 1] = value;
}

/// A refcount block in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefcountBlock {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) changed: bool,
}

/// All metadata of an image that is being written. New clusters are taken at the end of the file only, for
/// there the file reads as zeros, whatever it held before; those of linear RAM have their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) header: Header,
    pub(crate) l1: Table,
    pub(crate) l2: BTreeMap<usize, Table>,
    pub(crate) refcounts: Table,
    pub(crate) refcount_blocks: BTreeMap<usize, RefcountBlock>,
    /// The first cluster behind everything in the file.
    next_cluster: u64,
    /// Clusters taken, or given up, whose refcounts are not set yet; in this order, for one may be both.
    pending: VecDeque<(u64, u8)>,
    linear: Option<Linear>,
}

impl Tables {
    /// The tables of a new image.
    pub(crate) fn create(mut header: Header) -> Self {
        let mut tables = Self {
            l1: Table::new(0, 0),
            l2: BTreeMap::new(),
            refcounts: Table::new(0, 0),
            refcount_blocks: BTreeMap::new(),
            next_cluster: 1,
            pending: VecDeque::from([(0, 1)]),
            linear: None,
            header: header.clone(),
        };
        header.l1_entries = 0;
        let entries = header.size.div_ceil(header.geometry.l1_span_bytes()).max(1);
        tables.header.l1_entries = 0;
        tables.grow_refcount_table(1);
        tables.grow_l1(to_usize(entries));
        tables
    }

    /// The tables of an existing image, which may have few of them.
    pub(crate) fn open(
        header: Header,
        l1: Table,
        l2: BTreeMap<usize, Table>,
        refcounts: Table,
        refcount_blocks: BTreeMap<usize, RefcountBlock>,
        file_length: u64,
    ) -> Self {
        let next_cluster = file_length.div_ceil(header.geometry.cluster_bytes());
        let pending = VecDeque::new();
        Self { header, l1, l2, refcounts, refcount_blocks, next_cluster, pending, linear: None }
    }

    /// RAM lies in these places from now on, which begin behind everything in the file, and what is taken
    /// from now on lies behind them.
    pub(crate) fn set_linear(&mut self, linear: Linear) {
        self.next_cluster = linear.end() / self.cluster_bytes();
        self.linear = Some(linear);
    }

    pub(crate) fn linear(&self) -> Option<&Linear> {
        self.linear.as_ref()
    }

    fn cluster_bytes(&self) -> u64 {
        self.header.geometry.cluster_bytes()
    }

    /// Length of the file in bytes, with everything that has been taken.
    pub(crate) fn file_length(&self) -> u64 {
        self.next_cluster * self.cluster_bytes()
    }

    fn take_clusters(&mut self, count: u64) -> u64 {
        let first = self.next_cluster;
        self.next_cluster += count;
        self.pending.extend((first..first + count).map(|cluster| (cluster, 1)));
        first * self.cluster_bytes()
    }

    fn give_up(&mut self, at: u64, count: u64) {
        let first = at / self.cluster_bytes();
        self.pending.extend((first..first + count).map(|cluster| (cluster, 0)));
    }

    fn grow_l1(&mut self, entries: usize) {
        if entries <= self.l1.entries.len() {
            return;
        }
        let had = self.header.l1_clusters();
        let needs = (entries as u64 * 8).div_ceil(self.cluster_bytes());
        self.l1.entries.resize(entries, 0);
        self.l1.changed = true;
        self.header.l1_entries = u32::try_from(entries).expect("the disk's size bounds its L1 table");
        if needs > had {
            let old = std::mem::replace(&mut self.l1.at, 0);
            self.l1.at = self.take_clusters(needs);
            self.header.l1_offset = self.l1.at;
            self.give_up(old, if old == 0 { 0 } else { had });
        }
    }

    fn grow_refcount_table(&mut self, blocks: usize) {
        let per_cluster = to_usize(self.cluster_bytes() / 8);
        let had = self.refcounts.entries.len() / per_cluster;
        let needs = blocks.div_ceil(per_cluster);
        if needs <= had {
            return;
        }
        let old = self.refcounts.at;
        self.refcounts.at = self.take_clusters(needs as u64);
        self.refcounts.entries.resize(needs * per_cluster, 0);
        self.refcounts.changed = true;
        self.header.refcount_table_offset = self.refcounts.at;
        self.header.refcount_table_clusters =
            u32::try_from(needs).expect("the file's length bounds its refcount table");
        self.give_up(old, had as u64);
    }

    /// Where the cluster at `guest` lies, taking a place for it if it has none.
    pub(crate) fn host(&mut self, guest: GuestOffset) -> Result<HostOffset, ImageError> {
        let geometry = self.header.geometry;
        let (l1_index, in_l2) =
            (to_usize(guest.0 / geometry.l1_span_bytes()), guest.0 % geometry.l1_span_bytes());
        self.grow_l1(l1_index + 1);
        if !self.l2.contains_key(&l1_index) {
            let at = self.take_clusters(1);
            self.l1.entries[l1_index] = at | COPIED;
            self.l1.changed = true;
            self.l2.insert(l1_index, Table::new(at, to_usize(geometry.l2_entries())));
        }
        let file_length = self.file_length();
        let at_entry = to_usize(in_l2 / geometry.cluster_bytes());
        let entry = self.l2[&l1_index].entries[at_entry];
        if let Mapping::At { host, reads_as_zero } =
            mapping(entry, self.l2[&l1_index].at, geometry.cluster_bytes(), file_length)?
        {
            if reads_as_zero && let Some(table) = self.l2.get_mut(&l1_index) {
                table.entries[at_entry] = host | COPIED;
                table.changed = true;
            }
            return Ok(HostOffset(host));
        }
        let host = match self.linear.as_ref().and_then(|linear| linear.host(guest.0)) {
            Some(host) => {
                self.pending.push_back((host / geometry.cluster_bytes(), 1));
                host
            }
            None => self.take_clusters(1),
        };
        if let Some(table) = self.l2.get_mut(&l1_index) {
            table.entries[at_entry] = host | COPIED;
            table.changed = true;
        }
        Ok(HostOffset(host))
    }

    /// Sets the refcount of everything taken and given up. Refcount blocks are clusters themselves, and so is
    /// a larger table: goes on until nothing new was needed.
    pub(crate) fn settle_refcounts(&mut self) {
        let geometry = self.header.geometry;
        let per_block = geometry.refcount_block_entries();
        while let Some((cluster, value)) = self.pending.pop_front() {
            let block = to_usize(cluster / per_block);
            self.grow_refcount_table(block + 1);
            if !self.refcount_blocks.contains_key(&block) {
                let at = self.take_clusters(1);
                self.refcounts.entries[block] = at;
                self.refcounts.changed = true;
                let bytes = vec![0; to_usize(geometry.cluster_bytes())];
                self.refcount_blocks.insert(block, RefcountBlock { at, bytes, changed: true });
            }
            if let Some(found) = self.refcount_blocks.get_mut(&block) {
                set_refcount(
                    &mut found.bytes,
                    to_usize(cluster % per_block),
                    geometry.refcount_order(),
                    value,
                );
                found.changed = true;
            }
        }
    }

    /// All tables with their places and bytes.
    pub(crate) fn encode(&self, changed_only: bool) -> Vec<(u64, Vec<u8>)> {
        let cluster = self.cluster_bytes();
        let tables =
            std::iter::once(&self.refcounts).chain(std::iter::once(&self.l1)).chain(self.l2.values());
        let mut out: Vec<(u64, Vec<u8>)> = tables
            .filter(|table| table.changed || !changed_only)
            .map(|table| (table.at, table.encode(cluster)))
            .collect();
        let blocks = self.refcount_blocks.values().filter(|block| block.changed || !changed_only);
        out.extend(blocks.map(|block| (block.at, block.bytes.clone())));
        out
    }

    /// Marks everything as written.
    pub(crate) fn written(&mut self) {
        self.refcounts.changed = false;
        self.l1.changed = false;
        self.l2.values_mut().for_each(|table| table.changed = false);
        self.refcount_blocks.values_mut().for_each(|block| block.changed = false);
    }
}

#[cfg(test)]
mod tests {
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
        let part =
            |at: u64| &written.iter().find(|(place, _)| *place == at).expect("a table has its place").1;
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
}
