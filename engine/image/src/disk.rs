//! The virtual disk of an image that is being read: where its bytes lie in the file.

use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::geometry::Geometry;
use crate::inbox::{Inbox, Lookup, ready};
use crate::linear::Linear;
use crate::qcow2::header::Header;
use crate::qcow2::tables::{Mapping, RawTable, Table, l2_place, mapping, plain_place};
use crate::root::{Entry, Root};
use crate::size::to_usize;
use crate::types::{GuestOffset, HostOffset};
use std::collections::BTreeMap;

/// The longest table that a root can name, in bytes: QEMU's own limit for an L1 table.
const TABLE_LIMIT_BYTES: u64 = 32 << 20;
/// L2 tables that are kept, in bytes.
const L2_KEPT_BYTES: u64 = 64 << 20;

/// A range of the virtual disk, and where it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Its start.
    pub guest: GuestOffset,
    /// Its place in the file; `None` reads as zeros.
    pub host: Option<HostOffset>,
    /// Its length in bytes.
    pub length: u64,
}

/// Follows the QCOW2 tables of an image. L2 tables are read when they are needed; those that the
/// root names are verified.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) geometry: Geometry,
    /// Size of the virtual disk in bytes.
    pub(crate) size: u64,
    l1: Table,
    /// As they are in the file: a table of a large cluster is seldom used as a whole.
    l2: BTreeMap<usize, RawTable>,
    checks: TableChecks,
    linear: Option<LinearChecks>,
}

/// What the L2 tables of a linear image have to say, and which ones have been found to say it.
#[derive(Debug)]
struct LinearChecks {
    linear: Linear,
    /// By the number of the table.
    checked: Vec<bool>,
    /// Those before this one have been, by [`Disk::finish`].
    finished: usize,
}

/// How the QCOW2 tables are verified.
#[derive(Debug)]
enum TableChecks {
    /// The image has no checksums that count.
    None,
    /// The root has not been read yet: place and checksum of each L2 table that was.
    Later(Vec<(u64, u32)>),
    /// Against what the root says.
    Now(RootTables),
}

/// The tables that the root names.
#[derive(Debug)]
struct RootTables {
    /// By their place in the file; whether each has been verified.
    tables: BTreeMap<u64, (Entry, bool)>,
    /// Those before this place have been verified by [`Disk::finish`].
    finished: u64,
}

impl Disk {
    /// The disk of the image with this header and L1 table. If `has_root`,
    /// [`set_root`](Self::set_root) follows.
    pub(crate) fn new(header: &Header, l1: Table, has_root: bool) -> Self {
        let checks = if has_root { TableChecks::Later(Vec::new()) } else { TableChecks::None };
        Self { geometry: header.geometry, size: header.size, l1, l2: BTreeMap::new(), checks, linear: None }
    }

    /// The image says that its RAM lies in these places: from now on each L2 table of RAM that is read has to
    /// say so, too.
    pub(crate) fn set_linear(&mut self, linear: Linear, file_length: u64) -> Result<(), ImageError> {
        if linear.end() > file_length {
            let what = format!("RAM ends at {:#x}, the file has {file_length} bytes", linear.end());
            return Err(ImageError::Damaged { structure: "linear layout", at: linear.end(), what });
        }
        // The VM state's tables have been used; those of RAM are to be looked at.
        let tables = self.ram_tables();
        self.l2.retain(|&index, _| index >= tables);
        self.linear = Some(LinearChecks { linear, checked: vec![false; tables], finished: 0 });
        Ok(())
    }

    /// Where RAM lies, of a linear image.
    pub(crate) fn linear(&self) -> Option<&Linear> {
        self.linear.as_ref().map(|checks| &checks.linear)
    }

    /// How many L2 tables RAM has, at most.
    fn ram_tables(&self) -> usize {
        to_usize(self.vm_state_start() / self.geometry.l1_span_bytes()).min(self.l1.entries.len())
    }

    /// Where the VM-state area begins.
    pub(crate) fn vm_state_start(&self) -> u64 {
        self.geometry.vm_state_start(self.size)
    }

    /// The root has been read: verifies the tables that led to it, and each one from now on.
    pub(crate) fn set_root(&mut self, root: &Root, file_length: u64) -> Result<(), ImageError> {
        for entry in &root.tables {
            let length = u64::from(entry.length);
            let end = entry.offset.checked_add(length);
            if length > TABLE_LIMIT_BYTES || end.is_none_or(|end| end > file_length.next_multiple_of(2 << 20))
            {
                let what = format!("{length} bytes there, the file has {file_length}");
                return Err(ImageError::Damaged { structure: "table of the root", at: entry.offset, what });
            }
        }
        let tables = root.tables.iter().map(|&entry| (entry.offset, (entry, false))).collect();
        let mut root_tables = RootTables { tables, finished: 0 };
        if let TableChecks::Later(read) = &self.checks {
            for &(at, found) in read {
                root_tables.check(at, found)?;
            }
        }
        self.checks = TableChecks::Now(root_tables);
        Ok(())
    }

    /// Where a range of the virtual disk lies in the file. Neighbours in both are one extent.
    pub(crate) fn map(
        &mut self,
        guest: GuestOffset,
        length: u64,
        inbox: &mut Inbox,
    ) -> Result<Lookup<Vec<Extent>>, ImageError> {
        let cluster = self.geometry.cluster_bytes();
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = guest.0;
        let end = at.checked_add(length).ok_or(ImageError::Value {
            what: "guest offset",
            found: at,
            expected: "a place in the virtual disk or behind it",
        })?;
        while at < end {
            let in_cluster = at % cluster;
            let length = (cluster - in_cluster).min(end - at);
            let host = ready!(self.host(at - in_cluster, inbox)?).map(|host| HostOffset(host + in_cluster));
            match extents.last_mut() {
                Some(last) if last.host.map(|place| place.0 + last.length) == host.map(|place| place.0) => {
                    last.length += length;
                }
                _ => extents.push(Extent { guest: GuestOffset(at), host, length }),
            }
            at += length;
        }
        Ok(Lookup::Ready(extents))
    }

    /// Where the cluster at `guest` lies in the file, if it has a place there.
    fn host(&mut self, guest: u64, inbox: &mut Inbox) -> Result<Lookup<Option<u64>>, ImageError> {
        let (span, cluster) = (self.geometry.l1_span_bytes(), self.geometry.cluster_bytes());
        let Some(table) = ready!(self.l2(to_usize(guest / span), inbox)?) else {
            return Ok(Lookup::Ready(None));
        };
        let (at, entry) = (table.at, table.entry(to_usize(guest % span / cluster)));
        match mapping(entry, at, cluster, inbox.file_length())? {
            Mapping::At { host, reads_as_zero: false } => Ok(Lookup::Ready(Some(host))),
            _ => Ok(Lookup::Ready(None)),
        }
    }

    /// L2 table number `index`, if there is one.
    fn l2(&mut self, index: usize, inbox: &mut Inbox) -> Result<Lookup<Option<&RawTable>>, ImageError> {
        if !self.l2.contains_key(&index) {
            let cluster = self.geometry.cluster_bytes();
            let entry = self.l1.entries.get(index).copied().unwrap_or(0);
            let whole_clusters = inbox.file_length().next_multiple_of(cluster);
            let Some(at) = l2_place(entry, self.l1.at, cluster, whole_clusters)? else {
                return Ok(Lookup::Ready(None));
            };
            let bytes = ready!(inbox.take(at, cluster));
            match &mut self.checks {
                TableChecks::None => {}
                TableChecks::Later(read) => read.push((at, crc32c(&bytes))),
                TableChecks::Now(root) => root.check(at, crc32c(&bytes))?,
            }
            if (self.l2.len() as u64 + 1) * cluster > L2_KEPT_BYTES {
                self.l2.clear();
            }
            let table = RawTable { at, bytes };
            self.check_linear(index, &table)?;
            self.l2.insert(index, table);
        }
        Ok(Lookup::Ready(self.l2.get(&index)))
    }

    /// L2 table number `index` of a linear image has nothing but the places that follow from the layout: a
    /// guest that is mapped from the file sees what a reader of the tables sees.
    fn check_linear(&mut self, index: usize, table: &RawTable) -> Result<(), ImageError> {
        let Some(checks) = &mut self.linear else { return Ok(()) };
        let Some(checked) = checks.checked.get_mut(index) else { return Ok(()) };
        let start = index as u64 * self.geometry.l1_span_bytes();
        for (number, entry) in table.entries().enumerate().filter(|&(_, entry)| entry != 0) {
            let guest = start + number as u64 * self.geometry.cluster_bytes();
            checks.linear.check(guest, plain_place(entry))?;
        }
        *checked = true;
        Ok(())
    }

    /// Verifies those L2 tables of a linear image's RAM that were not needed so far.
    fn finish_linear(&mut self, inbox: &mut Inbox) -> Result<Lookup<()>, ImageError> {
        while let Some(LinearChecks { checked, finished, .. }) = &mut self.linear
            && let Some(&is_checked) = checked.get(*finished)
        {
            let index = *finished;
            if is_checked {
                *finished += 1;
            } else if ready!(self.l2(index, inbox)?).is_none()
                && let Some(checks) = &mut self.linear
            {
                checks.finished += 1;
            }
        }
        Ok(Lookup::Ready(()))
    }

    /// Reads a range of the virtual disk.
    pub(crate) fn read(
        &mut self,
        guest: u64,
        length: u64,
        inbox: &mut Inbox,
    ) -> Result<Lookup<Vec<u8>>, ImageError> {
        let extents = ready!(self.map(GuestOffset(guest), length, inbox)?);
        let places: Vec<_> =
            extents.iter().map(|extent| (extent.host.map(|host| host.0), extent.length)).collect();
        Ok(inbox.take_all(&places))
    }

    /// Verifies the tables of the root that were not needed so far.
    pub(crate) fn finish(&mut self, inbox: &mut Inbox) -> Result<Lookup<()>, ImageError> {
        ready!(self.finish_linear(inbox)?);
        let TableChecks::Now(root) = &mut self.checks else { return Ok(Lookup::Ready(())) };
        while let Some((&at, &(entry, checked))) = root.tables.range(root.finished..).next() {
            if !checked {
                let bytes = ready!(inbox.take(at, u64::from(entry.length)));
                root.check(at, crc32c(&bytes))?;
            }
            root.finished = at + 1;
        }
        Ok(Lookup::Ready(()))
    }
}

impl RootTables {
    /// The table at `at` was read, and has this checksum.
    fn check(&mut self, at: u64, found: u32) -> Result<(), ImageError> {
        let damaged = |what: String| ImageError::Damaged { structure: "table", at, what };
        let (entry, checked) =
            self.tables.get_mut(&at).ok_or_else(|| damaged("the snapshot has none there".into()))?;
        if entry.checksum != found {
            return Err(damaged(format!("checksum {found:#010x}, expected {:#010x}", entry.checksum)));
        }
        *checked = true;
        Ok(())
    }
}
