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
mod tests;
