//! The VM state of an internal snapshot in a QCOW2 image (`savevm`).
//!
//! The snapshot table has an L1 table for each snapshot. The VM state lies behind the disk in that
//! table's address space, at the next multiple of what one L1 entry stands for.

use crate::error::Error;
use crate::size::to_usize;
use crate::source::{FileRange, RandomAccess, Source, SourceError};

/// QEMU's own limits.
const SNAPSHOT_LIMIT: u32 = 65536;
const L1_LIMIT_BYTES: u64 = 32 << 20;
/// Bits of an entry of a table that are an offset.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// An L2 entry is of compressed data.
pub(crate) const L2_COMPRESSED: u64 = 1 << 62;
const L2_ZERO: u64 = 1;

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalSnapshot {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// When it was made, in seconds since 1970.
    pub date_s: u32,
    /// Bytes of VM state; 0 for one of the disk alone.
    pub vm_state_bytes: u64,
    l1_offset: u64,
    l1_entries: u32,
    disk_bytes: u64,
}

/// What is needed of the image's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Qcow2 {
    cluster_bits: u32,
    disk_bytes: u64,
    snapshots: u32,
    snapshots_offset: u64,
}

/// A number in big-endian bytes.
pub(crate) fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A big-endian number of up to 4 bytes.
pub(crate) fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

impl Qcow2 {
    /// Reads the header; `None` where there are no internal snapshots.
    pub(super) fn open(name: &str, file: &FileRange) -> Result<Option<Self>, Error> {
        let mut head = [0; 72];
        file.read_at(0, &mut head).map_err(Error::io(name))?;
        let cluster_bits = be32(&head[20..24]);
        let (snapshots, snapshots_offset) = (be32(&head[60..64]), be(&head[64..72]));
        if snapshots == 0 {
            return Ok(None);
        }
        if !(9..=21).contains(&cluster_bits) || snapshots > SNAPSHOT_LIMIT {
            let why = format!("qcow2: cluster bits {cluster_bits}, {snapshots} internal snapshots");
            return Err(Error::Input { what: name.to_owned(), why });
        }
        Ok(Some(Self { cluster_bits, disk_bytes: be(&head[24..32]), snapshots, snapshots_offset }))
    }

    /// All internal snapshots.
    ///
    /// Fields of an entry: L1 offset (be64), L1 entries (be32), lengths of id and name (be16 each),
    /// date (be32, be32), guest time (be64), VM-state size (be32), length of extra data (be32);
    /// extra data (VM-state size, disk size: be64 each), id, name, padding to 8.
    pub(super) fn list(&self, name: &str, file: &FileRange) -> Result<Vec<InternalSnapshot>, Error> {
        let mut found = Vec::new();
        let mut at = self.snapshots_offset;
        for _ in 0..self.snapshots {
            if at.checked_add(40).is_none_or(|end| end > file.size_bytes()) {
                let why = format!("qcow2: the snapshot table ends behind the file, at {at:#x}");
                return Err(Error::Input { what: name.to_owned(), why });
            }
            let mut entry = [0; 40];
            file.read_at(at, &mut entry).map_err(Error::io(name))?;
            let (id_length, name_length) = (be(&entry[12..14]), be(&entry[14..16]));
            let extra_length = be(&entry[36..40]).min(1024);
            let mut rest = vec![0; to_usize(extra_length + id_length + name_length)];
            file.read_at(at + 40, &mut rest).map_err(Error::io(name))?;
            let (extra, texts) = rest.split_at(to_usize(extra_length));
            let (id, text) = texts.split_at(to_usize(id_length));
            found.push(InternalSnapshot {
                id: id.to_vec(),
                name: text.to_vec(),
                date_s: be32(&entry[16..20]),
                vm_state_bytes: extra.get(..8).map_or_else(|| be(&entry[32..36]), be),
                l1_offset: be(&entry[..8]),
                l1_entries: be32(&entry[8..12]),
                disk_bytes: extra.get(8..16).map_or(self.disk_bytes, be),
            });
            at += (40 + extra_length + id_length + name_length).next_multiple_of(8);
        }
        Ok(found)
    }

    /// The VM state of one of them.
    pub(super) fn vm_state(
        &self,
        name: &str,
        file: FileRange,
        snapshot: &InternalSnapshot,
    ) -> Result<VmStateSource, Error> {
        let l1_bytes = u64::from(snapshot.l1_entries) * 8;
        if l1_bytes > L1_LIMIT_BYTES {
            let why = format!("qcow2: L1 table of {l1_bytes} bytes, at most {L1_LIMIT_BYTES} can be");
            return Err(Error::Input { what: name.to_owned(), why });
        }
        let span = 1u64 << (2 * self.cluster_bits - 3);
        let start = snapshot.disk_bytes.div_ceil(span).saturating_mul(span);
        let reach = (u64::from(snapshot.l1_entries) * span).saturating_sub(start);
        if snapshot.vm_state_bytes > reach {
            let why =
                format!("qcow2: VM state of {} bytes, its L1 table reaches {reach}", snapshot.vm_state_bytes);
            return Err(Error::Input { what: name.to_owned(), why });
        }
        if snapshot.l1_offset.checked_add(l1_bytes).is_none_or(|end| end > file.size_bytes()) {
            let why = format!("qcow2: the L1 table at {:#x} ends behind the file", snapshot.l1_offset);
            return Err(Error::Input { what: name.to_owned(), why });
        }
        let mut l1 = vec![0; to_usize(l1_bytes)];
        file.read_at(snapshot.l1_offset, &mut l1).map_err(Error::io(name))?;
        Ok(VmStateSource {
            file,
            cluster: 1 << self.cluster_bits,
            l1: l1.chunks(8).map(be).collect(),
            l2: None,
            start,
            length: snapshot.vm_state_bytes,
            at: 0,
        })
    }
}

/// The VM state as bytes in order.
#[derive(Debug)]
pub(super) struct VmStateSource {
    file: FileRange,
    cluster: u64,
    l1: Vec<u64>,
    l2: Option<(u64, Vec<u8>)>,
    start: u64,
    length: u64,
    at: u64,
}

impl VmStateSource {
    fn read_at(&mut self, at: u64, out: &mut [u8]) -> Result<usize, SourceError> {
        let guest = self.start.saturating_add(at);
        let l2_entries = self.cluster / 8;
        let in_cluster = guest % self.cluster;
        let left = (self.cluster - in_cluster).min(self.length - at);
        let length = to_usize(left).min(out.len());
        let out = &mut out[..length];
        let l1_index = to_usize(guest / self.cluster / l2_entries);
        let l2_offset = self.l1.get(l1_index).copied().unwrap_or(0) & OFFSET_MASK;
        if l2_offset == 0 {
            return Err(hole(at));
        }
        if self.l2.as_ref().is_none_or(|(offset, _)| *offset != l2_offset) {
            self.in_file("L2 table", l2_offset)?;
            let mut table = vec![0; to_usize(self.cluster)];
            self.file.read_at(l2_offset, &mut table)?;
            self.l2 = Some((l2_offset, table));
        }
        let place = to_usize(guest / self.cluster % l2_entries) * 8;
        let entry = self.l2.as_ref().map_or(0, |(_, table)| be(&table[place..place + 8]));
        if entry & L2_COMPRESSED != 0 {
            let text = "the VM state is in compressed clusters, which QEMU never writes";
            return Err(SourceError::Damaged(text.to_owned()));
        }
        if entry & L2_ZERO != 0 {
            out.fill(0);
        } else if entry & OFFSET_MASK == 0 {
            return Err(hole(at));
        } else {
            self.in_file("data cluster", entry & OFFSET_MASK)?;
            self.file.read_at((entry & OFFSET_MASK) + in_cluster, out)?;
        }
        Ok(length)
    }

    /// Refuses an entry that leads out of the file, or not to a cluster: what is read there would
    /// be zeros that no one saved.
    fn in_file(&self, structure: &str, offset: u64) -> Result<(), SourceError> {
        let wrong = if !offset.is_multiple_of(self.cluster) {
            "not at the start of a cluster"
        } else if offset >= self.file.size_bytes() {
            "behind the end of the file"
        } else {
            return Ok(());
        };
        Err(SourceError::Damaged(format!("VM state: {structure} at {offset:#x}, {wrong}")))
    }

    fn read_full(&mut self, mut at: u64, out: &mut [u8]) -> Result<usize, SourceError> {
        let mut done = 0;
        while done < out.len() && at < self.length {
            let bytes = self.read_at(at, &mut out[done..])?;
            done += bytes;
            at += bytes as u64;
        }
        Ok(done)
    }
}

/// QEMU writes every byte of the VM state (`qcow2_co_save_vmstate`), zeros included: a hole is a
/// table that has lost an entry.
fn hole(at: u64) -> SourceError {
    SourceError::Damaged(format!("VM state: nothing was ever written at {at:#x} of it"))
}

impl Source for VmStateSource {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        let bytes = self.read_full(self.at, out)?;
        self.at += bytes as u64;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        let bytes = bytes.min(self.length - self.at);
        self.at += bytes;
        Ok(bytes)
    }

    fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let length = most.min(self.length);
        let mut bytes = vec![0; to_usize(length)];
        self.read_full(self.length - length, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    fn left(&self) -> Option<u64> {
        Some(self.length - self.at)
    }
}
