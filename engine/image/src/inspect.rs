//! Looks at an image before a save touches it: may a snapshot go here?

use crate::error::ImageError;
use crate::inbox::{Inbox, Lookup, ready};
use crate::qcow2::header::{HEADER_BYTES, Header, SaveState};
use crate::qcow2::tables::{Mapping, RefcountBlock, Table, Tables, l2_place, mapping, refcount};
use crate::types::{Geometry, GuestOffset, HostOffset};
use crate::vm_state::{VM_HEADER_LIMIT_BYTES, VmHeader};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// How much of a mapped cluster is looked at at once.
const SCAN_BYTES: u64 = 1 << 20;

/// An image that holds nothing yet.
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
    Snapshot(Geometry, Option<[u8; 16]>),
    /// What an interrupted save left.
    Interrupted(Geometry),
}

/// What an inspection needs, or brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspect {
    /// Read these bytes and [`supply`](Inspector::supply) them.
    Need(HostOffset, usize),
    /// Find the next data at this offset or behind, and [`supply_data`](Inspector::supply_data) it.
    NextData(HostOffset),
    /// That is it.
    Done(Inspection),
}

/// Inspects one image.
#[derive(Debug)]
pub struct Inspector {
    file_length: u64,
    inbox: Inbox,
    header: Option<Header>,
    l1: Option<Table>,
    l2: BTreeMap<usize, Table>,
    refcounts: Option<Table>,
    refcount_blocks: BTreeMap<usize, RefcountBlock>,
    /// Mapped clusters still to be looked at: place in the file, place in the virtual disk, what of it comes next.
    to_scan: Vec<(u64, GuestOffset, u64)>,
    mapped: Option<()>,
    vm_header_checked: bool,
    data: Option<(u64, Option<Range<u64>>)>,
}

impl Inspector {
    /// An inspection of a file of this many bytes.
    #[must_use]
    pub fn new(file_length: u64) -> Self {
        Self {
            file_length,
            inbox: Inbox::default(),
            header: None,
            l1: None,
            l2: BTreeMap::new(),
            refcounts: None,
            refcount_blocks: BTreeMap::new(),
            to_scan: Vec::new(),
            mapped: None,
            vm_header_checked: false,
            data: None,
        }
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

    /// Goes on as far as it can.
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
            self.header = Some(Header::parse(&bytes, self.file_length)?);
            return Ok(Lookup::Ready(None));
        };
        let geometry = header.geometry;
        if header.extension.is_some_and(|extension| extension.state == SaveState::InProgress) {
            return Ok(Lookup::Ready(Some(Inspect::Done(Inspection::Interrupted(geometry)))));
        }
        if self.l1.is_none() {
            let bytes = ready!(self.inbox.take(header.l1_offset, u64::from(header.l1_entries) * 8));
            self.l1 = Some(Table::parse(header.l1_offset, &bytes));
        }
        let cluster = geometry.cluster_bytes();
        let l1 = self.l1.clone().unwrap_or_else(|| Table::new(0, 0));
        for (index, &entry) in l1.entries.iter().enumerate() {
            let Some(at) = l2_place(entry, l1.at, cluster, self.file_length.next_multiple_of(cluster))?
            else {
                continue;
            };
            if !self.l2.contains_key(&index) {
                let bytes = ready!(self.inbox.take(at, cluster));
                self.l2.insert(index, Table::parse(at, &bytes));
            }
        }
        if self.refcounts.is_none() {
            let length = u64::from(header.refcount_table_clusters) * cluster;
            let bytes = ready!(self.inbox.take(header.refcount_table_offset, length));
            self.refcounts = Some(Table::parse(header.refcount_table_offset, &bytes));
        }
        let refcounts = self.refcounts.clone().unwrap_or_else(|| Table::new(0, 0));
        for (index, &at) in refcounts.entries.iter().enumerate() {
            if at == 0 || self.refcount_blocks.contains_key(&index) {
                continue;
            }
            if at % cluster != 0 || at >= self.file_length {
                let what = format!("entry {index} is {at:#x}, outside the file or inside a cluster");
                return Err(ImageError::Damaged { structure: "refcount table", at: refcounts.at, what });
            }
            let bytes = ready!(self.inbox.take(at, cluster));
            self.refcount_blocks.insert(index, RefcountBlock { at, bytes, changed: false });
        }
        if self.mapped.is_none() {
            self.map_clusters(&header, &l1, &refcounts)?;
            self.mapped = Some(());
        }
        if !self.vm_header_checked {
            if let Some(at) = self.vm_header_place(&header)? {
                let bytes = ready!(self.inbox.take(at, VM_HEADER_LIMIT_BYTES as u64));
                let area = geometry.l1_span_bytes();
                // A header that does not add up is a snapshot that went wrong, not somebody's disk.
                if !matches!(VmHeader::parse(&bytes, area), Ok(None)) {
                    let uuid = header.extension.map(|extension| extension.uuid);
                    return Ok(Lookup::Ready(Some(Inspect::Done(Inspection::Snapshot(geometry, uuid)))));
                }
            }
            self.vm_header_checked = true;
        }
        if let Some(next) = self.scan(cluster)? {
            return Ok(next);
        }
        let (Some(l1), Some(refcounts)) = (self.l1.take(), self.refcounts.take()) else {
            return Ok(Lookup::Ready(None));
        };
        let (l2, blocks) = (std::mem::take(&mut self.l2), std::mem::take(&mut self.refcount_blocks));
        let tables = Tables::open(header, l1, l2, refcounts, blocks, self.file_length);
        Ok(Lookup::Ready(Some(Inspect::Done(Inspection::Empty(Box::new(Container { tables }))))))
    }

    /// Every cluster in use belongs to one thing only, and its refcount says so.
    fn map_clusters(&mut self, header: &Header, l1: &Table, refcounts: &Table) -> Result<(), ImageError> {
        let geometry = header.geometry;
        let cluster = geometry.cluster_bytes();
        let mut used = HashSet::new();
        let mut claims: Vec<(u64, u64, &'static str)> = vec![
            (0, 1, "header"),
            (header.l1_offset, header.l1_clusters(), "L1 table"),
            (header.refcount_table_offset, u64::from(header.refcount_table_clusters), "refcount table"),
        ];
        claims.extend(refcounts.entries.iter().filter(|&&at| at != 0).map(|&at| (at, 1, "refcount block")));
        claims.extend(self.l2.values().map(|table| (table.at, 1, "L2 table")));
        let mut to_scan = Vec::new();
        for (&index, table) in &self.l2 {
            for (at_entry, &entry) in table.entries.iter().enumerate() {
                if let Mapping::At { host, reads_as_zero } =
                    mapping(entry, table.at, cluster, self.file_length)?
                {
                    let guest = index as u64 * geometry.l1_span_bytes() + at_entry as u64 * cluster;
                    claims.push((host, 1, "data cluster"));
                    if !reads_as_zero {
                        to_scan.push((host, GuestOffset(guest), 0));
                    }
                }
            }
        }
        let _ = l1;
        for (at, count, structure) in claims {
            for number in at / cluster..at / cluster + count {
                if !used.insert(number) {
                    let what = "it shares a cluster with another structure".to_owned();
                    return Err(ImageError::Damaged { structure, at: number * cluster, what });
                }
                let per_block = geometry.refcount_block_entries();
                let block =
                    usize::try_from(number / per_block).ok().and_then(|at| self.refcount_blocks.get(&at));
                let in_block = usize::try_from(number % per_block).unwrap_or(0);
                match block.map_or(0, |block| refcount(&block.bytes, in_block, geometry.refcount_order)) {
                    1 => {}
                    0 => {
                        let what = "its refcount is 0 (qemu-img check -r all)".to_owned();
                        return Err(ImageError::Damaged { structure, at: number * cluster, what });
                    }
                    _ => return Err(ImageError::Foreign("shared clusters (an internal snapshot's)")),
                }
            }
        }
        // Looked at from the end of the list: ascending in the file.
        to_scan.sort_unstable_by(|a, b| b.cmp(a));
        self.to_scan = to_scan;
        Ok(())
    }

    fn vm_header_place(&self, header: &Header) -> Result<Option<u64>, ImageError> {
        let index =
            usize::try_from(header.vm_state_start() / header.geometry.l1_span_bytes()).unwrap_or(usize::MAX);
        let Some(table) = self.l2.get(&index) else { return Ok(None) };
        let entry = table.entries.first().copied().unwrap_or(0);
        match mapping(entry, table.at, header.geometry.cluster_bytes(), self.file_length)? {
            Mapping::At { host, reads_as_zero: false } => Ok(Some(host)),
            _ => Ok(None),
        }
    }

    /// Looks for a byte that is not zero in any mapped cluster; holes of the file are passed over.
    fn scan(&mut self, cluster: u64) -> Result<Option<Lookup<Option<Inspect>>>, ImageError> {
        while let Some(&mut (host, guest, ref mut done)) = self.to_scan.last_mut() {
            if *done == cluster || host + *done >= self.file_length {
                self.to_scan.pop();
                continue;
            }
            let at = host + *done;
            match &self.data {
                Some((_, Some(data))) if at < data.start => {
                    *done = (data.start - host).min(cluster);
                    *done -= *done % SCAN_BYTES.min(cluster);
                    if at < host + *done {
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
            let length = SCAN_BYTES.min(cluster - *done);
            match self.inbox.take(at, length) {
                Lookup::Need(at, length) => return Ok(Some(Lookup::Need(at, length))),
                Lookup::Ready(bytes) => {
                    if let Some(byte) = bytes.iter().position(|&byte| byte != 0) {
                        return Err(ImageError::HoldsData { at: GuestOffset(guest.0 + *done + byte as u64) });
                    }
                    *done += length;
                }
            }
        }
        Ok(None)
    }
}
