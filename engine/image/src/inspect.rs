//! Inspects an image before a save touches it: may a snapshot be written into it?

use crate::error::ImageError;
use crate::feature::Feature;
use crate::geometry::Geometry;
use crate::inbox::{Inbox, Lookup, ready};
use crate::linear::Layout;
use crate::qcow2::header::{HEADER_BYTES, Header, SaveState};
use crate::qcow2::tables::{Mapping, RefcountBlock, Table, Tables, l2_place, mapping, refcount};
use crate::size::to_usize;
use crate::types::{GuestOffset, HostOffset};
use crate::vm_state::{Form, VM_HEADER_LIMIT_BYTES, VmHeader};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Bytes of a mapped cluster that are scanned at once.
const SCAN_BYTES: u64 = 1 << 20;
/// L2 tables, and refcount blocks, of more bytes than this are not taken into memory: enough for 512 GiB that
/// are in use before the save in clusters of 64 KiB, for 8 TiB in clusters of 1 MiB.
const TABLES_LIMIT_BYTES: u64 = 64 << 20;

/// An image that holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub(crate) tables: Tables,
}

/// What an image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// Nothing: a snapshot may be written into it.
    Empty(Box<Container>),
    /// A snapshot; its UUID, where it has one.
    Snapshot(Geometry, Layout, Option<[u8; 16]>),
    /// What an interrupted save left, unchanged since.
    Interrupted(Geometry, Layout),
    /// What an interrupted save left, and another program has written to since.
    InterruptedThenWritten(Geometry, Layout),
}

/// What an inspection needs, or its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspect {
    /// Read these bytes and [`supply`](Inspector::supply) them.
    Need(HostOffset, usize),
    /// Find the next data at this offset or behind, and [`supply_data`](Inspector::supply_data) it.
    NextData(HostOffset),
    /// The result.
    Done(Inspection),
}

/// Inspects one image.
#[derive(Debug)]
pub struct Inspector {
    inbox: Inbox,
    header: Option<Header>,
    l1: Option<Table>,
    l2: BTreeMap<usize, Table>,
    refcounts: Option<Table>,
    refcount_blocks: BTreeMap<usize, RefcountBlock>,
    /// The next entries of the L1 table and the refcount table to be read.
    next_l1: usize,
    next_refcounts: usize,
    /// Mapped clusters still to be scanned, the last one first, and how many bytes of that one have been.
    to_scan: Vec<u64>,
    scanned: u64,
    mapped: bool,
    vm_header_checked: bool,
    data: Option<(u64, Option<Range<u64>>)>,
}

impl Inspector {
    /// An inspection of a file of this many bytes.
    #[must_use]
    pub fn new(file_length: u64) -> Self {
        Self {
            inbox: Inbox::new(file_length),
            header: None,
            l1: None,
            l2: BTreeMap::new(),
            refcounts: None,
            refcount_blocks: BTreeMap::new(),
            next_l1: 0,
            next_refcounts: 0,
            to_scan: Vec::new(),
            scanned: 0,
            mapped: false,
            vm_header_checked: false,
            data: None,
        }
    }

    /// The layout that the header says, once it has been read; `None` of an image without an
    /// extension of ours, which nothing but another program has made.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        let extension = self.header.as_ref()?.extension?;
        Some(Layout::of(extension.ram_at))
    }

    /// Takes what [`Inspect::Need`] asked for.
    pub fn supply(&mut self, at: HostOffset, bytes: &[u8]) {
        self.inbox.supply(at, bytes);
    }

    /// Takes what [`Inspect::NextData`] asked for: where data lies, or none up to the end of the file.
    pub fn supply_data(&mut self, data: Option<Range<u64>>) {
        if let Some((_, answer)) = &mut self.data {
            *answer = Some(data.unwrap_or(u64::MAX..u64::MAX));
        }
    }

    /// Goes on until a part of the file is needed, or the result is known.
    ///
    /// # Errors
    ///
    /// Why a snapshot must not be written here, or that the image is damaged.
    pub fn poll(&mut self) -> Result<Inspect, ImageError> {
        loop {
            match self.advance()? {
                Lookup::Need(at, length) => return Ok(Inspect::Need(at, length)),
                Lookup::Ready(Some(inspect)) => return Ok(inspect),
                Lookup::Ready(None) => {}
            }
        }
    }

    fn advance(&mut self) -> Result<Lookup<Option<Inspect>>, ImageError> {
        let Some(header) = self.header.clone() else {
            let bytes = ready!(self.inbox.take(0, HEADER_BYTES as u64));
            self.header = Some(Header::parse(&bytes, self.inbox.file_length())?);
            return Ok(Lookup::Ready(None));
        };
        let geometry = header.geometry;
        let layout = self.layout().unwrap_or_default();
        if header.extension.is_some_and(|extension| extension.state == SaveState::InProgress) {
            let found = if header.is_untouched() && header.checksum_fits {
                Inspection::Interrupted(geometry, layout)
            } else {
                Inspection::InterruptedThenWritten(geometry, layout)
            };
            return Ok(Lookup::Ready(Some(Inspect::Done(found))));
        }
        if self.l1.is_none() {
            let bytes = ready!(self.inbox.take(header.l1_offset, u64::from(header.l1_entries) * 8));
            self.l1 = Some(Table::parse(header.l1_offset, &bytes));
        }
        let cluster = geometry.cluster_bytes();
        ready!(self.load_l2_tables(cluster)?);
        if self.refcounts.is_none() {
            let length = u64::from(header.refcount_table_clusters) * cluster;
            let bytes = ready!(self.inbox.take(header.refcount_table_offset, length));
            self.refcounts = Some(Table::parse(header.refcount_table_offset, &bytes));
        }
        ready!(self.load_refcount_blocks(cluster)?);
        if !self.mapped {
            self.map_clusters(&header)?;
            self.mapped = true;
        }
        if !self.vm_header_checked {
            if let Some(at) = self.vm_header_place(&header)? {
                let bytes = ready!(self.inbox.take(at, VM_HEADER_LIMIT_BYTES as u64));
                let area = geometry.l1_span_bytes();
                let extension = header.extension;
                let found = match VmHeader::parse(&bytes, area) {
                    // The image's header says "complete" one flush before this one is written, and no other
                    // program has written to the image since.
                    Ok(None) if header.is_untouched() && header.checksum_fits => {
                        // Anything but zeros, or a root that is elsewhere: a damaged snapshot.
                        let root = header.vm_state_start() + geometry.l1_span_bytes() / 2;
                        let shortest = to_usize(Form::Stvm.header_bytes());
                        let unwritten = bytes.iter().take(shortest).all(|&byte| byte == 0);
                        extension.map(|extension| match extension.root_offset {
                            offset if offset == root && unwritten => {
                                Inspection::Interrupted(geometry, layout)
                            }
                            _ => Inspection::Snapshot(geometry, layout, Some(extension.uuid)),
                        })
                    }
                    Ok(None) => None,
                    // One that does not add up is a snapshot that went wrong, not a disk of another program.
                    _ => Some(Inspection::Snapshot(
                        geometry,
                        layout,
                        extension.map(|extension| extension.uuid),
                    )),
                };
                if let Some(found) = found {
                    return Ok(Lookup::Ready(Some(Inspect::Done(found))));
                }
            }
            self.vm_header_checked = true;
        }
        if let Some(next) = self.scan(&header)? {
            return Ok(next);
        }
        if let Some(extension) = header.extension {
            // Tables that map nothing, in a file that says it is a snapshot: it is damaged, not empty.
            let found = Inspection::Snapshot(geometry, layout, Some(extension.uuid));
            return Ok(Lookup::Ready(Some(Inspect::Done(found))));
        }
        let (Some(l1), Some(refcounts)) = (self.l1.take(), self.refcounts.take()) else {
            return Ok(Lookup::Ready(None));
        };
        let (l2, blocks) = (std::mem::take(&mut self.l2), std::mem::take(&mut self.refcount_blocks));
        let tables = Tables::open(header, l1, l2, refcounts, blocks, self.inbox.file_length());
        Ok(Lookup::Ready(Some(Inspect::Done(Inspection::Empty(Box::new(Container { tables }))))))
    }

    fn load_l2_tables(&mut self, cluster: u64) -> Result<Lookup<()>, ImageError> {
        let Some(l1) = &self.l1 else { return Ok(Lookup::Ready(())) };
        while let Some(&entry) = l1.entries.get(self.next_l1) {
            if let Some(at) =
                l2_place(entry, l1.at, cluster, self.inbox.file_length().next_multiple_of(cluster))?
            {
                check_limit("set of L2 tables", self.l2.len(), cluster)?;
                let bytes = ready!(self.inbox.take(at, cluster));
                self.l2.insert(self.next_l1, Table::parse(at, &bytes));
            }
            self.next_l1 += 1;
        }
        Ok(Lookup::Ready(()))
    }

    fn load_refcount_blocks(&mut self, cluster: u64) -> Result<Lookup<()>, ImageError> {
        let Some(refcounts) = &self.refcounts else { return Ok(Lookup::Ready(())) };
        while let Some(&at) = refcounts.entries.get(self.next_refcounts) {
            let index = self.next_refcounts;
            if at != 0 {
                if at % cluster != 0 || at >= self.inbox.file_length() {
                    let what = format!("entry {index} is {at:#x}, outside the file or inside a cluster");
                    return Err(ImageError::Damaged { structure: "refcount table", at: refcounts.at, what });
                }
                check_limit("set of refcount blocks", self.refcount_blocks.len(), cluster)?;
                let bytes = ready!(self.inbox.take(at, cluster));
                self.refcount_blocks.insert(index, RefcountBlock { at, bytes, changed: false });
            }
            self.next_refcounts += 1;
        }
        Ok(Lookup::Ready(()))
    }

    /// Every cluster in use belongs to one thing only, and its refcount says so.
    fn map_clusters(&mut self, header: &Header) -> Result<(), ImageError> {
        let cluster = header.geometry.cluster_bytes();
        let mut claims: Vec<(u64, u64, &'static str)> = vec![
            (0, 1, "header"),
            (header.l1_offset, header.l1_clusters(), "L1 table"),
            (header.refcount_table_offset, u64::from(header.refcount_table_clusters), "refcount table"),
        ];
        claims.extend(self.refcount_blocks.values().map(|block| (block.at, 1, "refcount block")));
        claims.extend(self.l2.values().map(|table| (table.at, 1, "L2 table")));
        let mut tables = BTreeSet::new();
        for (at, count, structure) in claims {
            for number in at / cluster..at / cluster + count {
                if !tables.insert(number) {
                    return Err(shared(structure, number * cluster));
                }
                self.check_refcount(header, structure, number)?;
            }
        }
        // One number for each cluster of the disk, for there can be millions: its place, and in the lowest
        // bit whether it has to be looked at.
        let mut clusters = Vec::new();
        for table in self.l2.values() {
            for &entry in &table.entries {
                if let Mapping::At { host, reads_as_zero } =
                    mapping(entry, table.at, cluster, self.inbox.file_length())?
                {
                    if tables.contains(&(host / cluster)) {
                        return Err(shared("data cluster", host));
                    }
                    self.check_refcount(header, "data cluster", host / cluster)?;
                    clusters.push(host | u64::from(!reads_as_zero));
                }
            }
        }
        // Looked at from the end of the list: ascending in the file.
        clusters.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(pair) = clusters.windows(2).find(|pair| pair[0] / cluster == pair[1] / cluster) {
            return Err(shared("data cluster", pair[1] & !1));
        }
        clusters.retain(|cluster| cluster & 1 == 1);
        clusters.iter_mut().for_each(|cluster| *cluster &= !1);
        self.to_scan = clusters;
        Ok(())
    }

    fn check_refcount(
        &self,
        header: &Header,
        structure: &'static str,
        number: u64,
    ) -> Result<(), ImageError> {
        let geometry = header.geometry;
        let per_block = geometry.refcount_block_entries();
        let block = self.refcount_blocks.get(&to_usize(number / per_block));
        let in_block = to_usize(number % per_block);
        match block.map_or(0, |block| refcount(&block.bytes, in_block, geometry.refcount_order())) {
            1 => Ok(()),
            0 => {
                let what = "its refcount is 0".to_owned();
                Err(ImageError::Damaged { structure, at: number * geometry.cluster_bytes(), what })
            }
            _ => Err(ImageError::Foreign(Feature::SharedClusters)),
        }
    }

    fn vm_header_place(&self, header: &Header) -> Result<Option<u64>, ImageError> {
        let index = to_usize(header.vm_state_start() / header.geometry.l1_span_bytes());
        let Some(table) = self.l2.get(&index) else { return Ok(None) };
        let entry = table.entries.first().copied().unwrap_or(0);
        match mapping(entry, table.at, header.geometry.cluster_bytes(), self.inbox.file_length())? {
            Mapping::At { host, reads_as_zero: false } => Ok(Some(host)),
            _ => Ok(None),
        }
    }

    /// Searches all mapped clusters for a byte that is not zero; skips holes of the file.
    fn scan(&mut self, header: &Header) -> Result<Option<Lookup<Option<Inspect>>>, ImageError> {
        let cluster = header.geometry.cluster_bytes();
        while let Some(&host) = self.to_scan.last() {
            let at = host + self.scanned;
            if self.scanned == cluster || at >= self.inbox.file_length() {
                self.to_scan.pop();
                self.scanned = 0;
                continue;
            }
            match &self.data {
                Some((_, Some(data))) if at < data.start => {
                    let hole = (data.start - host).min(cluster);
                    self.scanned = hole - hole % SCAN_BYTES.min(cluster);
                    if at < host + self.scanned {
                        continue;
                    }
                }
                Some((_, Some(data))) if at < data.end => {}
                Some((_, None)) => return Ok(None),
                _ => {
                    self.data = Some((at, None));
                    return Ok(Some(Lookup::Ready(Some(Inspect::NextData(HostOffset(at))))));
                }
            }
            let length = SCAN_BYTES.min(cluster - self.scanned);
            match self.inbox.take(at, length) {
                Lookup::Need(at, length) => return Ok(Some(Lookup::Need(at, length))),
                Lookup::Ready(bytes) => {
                    if let Some(byte) = bytes.iter().position(|&byte| byte != 0) {
                        let guest = self.guest_of(header, host) + self.scanned + byte as u64;
                        return Err(ImageError::HoldsData { at: GuestOffset(guest) });
                    }
                    self.scanned += length;
                }
            }
        }
        Ok(None)
    }

    /// Where in the virtual disk the cluster at `host` is mapped.
    fn guest_of(&self, header: &Header, host: u64) -> u64 {
        let (span, cluster) = (header.geometry.l1_span_bytes(), header.geometry.cluster_bytes());
        let is_it = |&entry: &u64| {
            mapping(entry, 0, cluster, self.inbox.file_length())
                == Ok(Mapping::At { host, reads_as_zero: false })
        };
        self.l2
            .iter()
            .find_map(|(&index, table)| {
                let entry = table.entries.iter().position(is_it)?;
                Some(index as u64 * span + entry as u64 * cluster)
            })
            .unwrap_or(0)
    }
}

fn shared(structure: &'static str, at: u64) -> ImageError {
    ImageError::Damaged { structure, at, what: "it shares a cluster with another structure".to_owned() }
}

/// Whether one more table of a cluster's size can be taken into memory.
fn check_limit(what: &'static str, loaded: usize, cluster: u64) -> Result<(), ImageError> {
    let found = (loaded as u64 + 1) * cluster;
    if found > TABLES_LIMIT_BYTES {
        return Err(ImageError::Limit { what, found, limit: TABLES_LIMIT_BYTES });
    }
    Ok(())
}
