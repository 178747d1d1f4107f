//! A snapshot whose RAM is complete: its device tail arrives, then it is sealed.

use super::{Step, WrittenDisk, entry_of};
use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::layout::RamLayout;
use crate::qcow2::header::{SaveState, SnapshotExtension};
use crate::root::{Entry, ROOT_LIMIT_BYTES, Region, Root};
use crate::size::to_usize;
use crate::types::{ALIGNMENT_BYTES, Identity};
use crate::vm_state::{Form, VmHeader, VmState};

/// What is written a second time may take whole allocation units of the file system (XFS: 128 KiB,
/// `cowextsize`) for each of its few writes.
const BALLAST_SLACK_BYTES: u64 = 1 << 20;

/// A snapshot whose RAM is complete, with space for its device tail:
/// [`SnapshotWriter::reserve`](crate::SnapshotWriter::reserve) makes it.
#[derive(Debug)]
pub struct Reserved {
    pub(super) disk: WrittenDisk,
    pub(super) identity: Identity,
    pub(super) vm: VmState,
    pub(super) form: Form,
    pub(super) layout: RamLayout,
    pub(super) index_pages: Vec<Entry>,
    pub(super) nonzero_pages: u64,
    pub(super) root_capacity: u64,
    pub(super) tail_capacity: u64,
}

impl Reserved {
    /// Makes room for a device tail of `tail_capacity` bytes; no steps if there is room already.
    ///
    /// # Errors
    ///
    /// `Limit` if leader and tail do not fit before the extension.
    pub fn grow_tail(&mut self, tail_capacity: u64) -> Result<Vec<Step>, ImageError> {
        if tail_capacity <= self.tail_capacity {
            return Ok(Vec::new());
        }
        let needs = self.area_bytes(tail_capacity)?;
        let had = self.area_bytes(self.tail_capacity)?;
        self.tail_capacity = tail_capacity;
        let zeros = vec![0; to_usize(needs - had)];
        let mut steps = vec![Step::Ballast(0)];
        let writes = self.disk.write(self.disk.vm_state_start() + had, &zeros)?;
        self.disk.tables.settle_refcounts();
        steps.push(Step::SetLength(self.disk.tables.file_length()));
        steps.extend(writes);
        steps.extend(self.disk.table_steps());
        // The header goes along: the L1 table may have moved.
        steps.push(self.disk.header_step());
        steps.push(self.ballast());
        steps.push(Step::Flush);
        Ok(steps)
    }

    /// Twice what [`seal`](Self::seal) writes a second time: its writes lie in several clusters.
    pub(super) fn ballast(&self) -> Step {
        Step::Ballast(2 * (self.root_capacity + self.tail_capacity) + BALLAST_SLACK_BYTES)
    }

    /// Steps 5 and 6 of the protocol: the stream was whole, and this is its device tail.
    ///
    /// # Errors
    ///
    /// `Limit` if the tail is longer than what was reserved.
    pub fn seal(mut self, tail: &[u8]) -> Result<(Sealed, Vec<Step>), ImageError> {
        check_limit("device tail", tail.len(), self.tail_capacity)?;
        let (start, base) = (self.disk.vm_state_start(), self.disk.extension_start());
        let vm_header = self.vm_header(tail.len() as u64).encode();
        let root = self.root(tail, &vm_header).encode();
        check_limit("snapshot root", root.len(), self.root_capacity.min(ROOT_LIMIT_BYTES))?;
        let mut area = self.area(tail, tail.len() as u64)?;
        // What is before the tail has been written by `reserve`.
        let tail_start = area.len() - tail.len();
        let from = tail_start - tail_start % to_usize(ALIGNMENT_BYTES);
        self.disk.set_extension(SnapshotExtension {
            state: SaveState::Complete,
            uuid: self.identity.uuid,
            root_offset: base,
            root_length: root.len() as u64,
            root_checksum: crc32c(&root),
            ram_at: self.disk.ram_at(),
        });
        let mut steps = vec![Step::Ballast(0)];
        steps.extend(self.disk.write(start + from as u64, &area[from..])?);
        steps.extend(self.disk.write(base, &root)?);
        steps.push(self.disk.header_step());
        steps.push(Step::Flush);
        area[..vm_header.len()].copy_from_slice(&vm_header);
        area.truncate(to_usize(ALIGNMENT_BYTES));
        steps.extend(self.disk.write(start, &area)?);
        steps.push(Step::Flush);
        Ok((Sealed { disk: self.disk, identity: self.identity }, steps))
    }

    /// Bytes of the VM-state area with a tail of `tail` bytes.
    fn area_bytes(&self, tail: u64) -> Result<u64, ImageError> {
        let before = self.form.header_bytes() + (self.vm.leader.len() + self.vm.third.len()) as u64;
        let area = before.checked_add(tail).and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT_BYTES));
        // A length that cannot be is longer than any limit.
        let bytes = area.unwrap_or(u64::MAX);
        self.disk.check_area(bytes).map(|()| bytes)
    }

    /// The VM-state area without its header: zeros, preamble, other iterables, tail (or room for it).
    pub(super) fn area(&self, tail: &[u8], room: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = self.area_bytes(room)?;
        // Exactly: the leader can be the most of what a save holds, and a vector that grows doubles.
        let before = to_usize(self.form.header_bytes()) + self.vm.leader.len() + self.vm.third.len();
        let mut area = Vec::with_capacity(to_usize(bytes).max(before + tail.len()));
        area.resize(to_usize(self.form.header_bytes()), 0);
        area.extend_from_slice(&self.vm.leader);
        area.extend_from_slice(&self.vm.third);
        area.extend_from_slice(tail);
        if tail.is_empty() {
            area.resize(to_usize(bytes), 0);
        }
        Ok(area)
    }

    fn vm_header(&self, tail: u64) -> VmHeader {
        let third_offset = self.vm.leader.len() as u64;
        let device_offset = third_offset + self.vm.third.len() as u64;
        VmHeader {
            form: self.form,
            page_size: self.layout.page_size(),
            normal_pages: self.vm.normal_pages,
            ram_list_offset: self.vm.ram_list_offset,
            third_offset,
            device_offset,
            eof_offset: device_offset + tail,
        }
    }

    fn root(&self, tail: &[u8], vm_header: &[u8]) -> Root {
        let region = |bytes: &[u8]| Region { length: bytes.len() as u64, checksum: crc32c(bytes) };
        let blocks = self.layout.blocks().iter().enumerate();
        let tables = self.disk.tables.encode(false);
        Root {
            uuid: self.identity.uuid,
            created_unix_s: self.identity.created_unix_s,
            page_size: self.layout.page_size(),
            normal_pages: self.vm.normal_pages,
            nonzero_pages: self.nonzero_pages,
            vm_header_checksum: crc32c(vm_header),
            regions: [region(&self.vm.leader), region(&self.vm.third), region(tail)],
            index_pages: self.index_pages.clone(),
            blocks: blocks.map(|(at, block)| (block.clone(), self.layout.guest(at, 0).0)).collect(),
            tables: tables.iter().map(|(at, bytes)| entry_of(*at, bytes)).collect(),
        }
    }
}

fn check_limit(what: &'static str, length: usize, limit: u64) -> Result<(), ImageError> {
    let found = length as u64;
    if found > limit {
        return Err(ImageError::Limit { what, found, limit });
    }
    Ok(())
}

/// A snapshot whose seal is being written: [`Reserved::seal`] makes it.
#[derive(Debug)]
pub struct Sealed {
    disk: WrittenDisk,
    identity: Identity,
}

impl Sealed {
    /// Makes the image an interrupted save again, whatever of the seal has been written.
    #[must_use]
    pub fn unseal(mut self) -> Vec<Step> {
        self.disk.set_extension(self.disk.in_progress(&self.identity));
        vec![self.disk.header_step(), Step::Flush]
    }
}
