//! Writes a snapshot.
//!
//! # The commit protocol
//!
//! Each step completes before the next one starts; what is under way when the machine dies may be there in part.
//!
//! 1. [`begin`](SnapshotWriter::begin): the header says "save in progress", flush. After a crash from here on the image
//!    is an interrupted save.
//! 2. Pages are written to where [`host`](SnapshotWriter::host) puts them: space that reads as zeros otherwise.
//! 3. [`reserve`](SnapshotWriter::reserve): tables, leader, third region, index; placeholders for all that is not known
//!    yet; flush. From here on nothing needs new space, except on a copy-on-write file system, where what is written a
//!    second time needs it again: the [`Ballast`](Step::Ballast) behind the end of the file is as large as that.
//! 4. A new file with no old one to replace is given the image's name: it holds an interrupted save until it is sealed.
//! 5. [`seal`](SnapshotWriter::seal): the ballast is given back; device tail, root, and the header that says "complete",
//!    flush. After a crash here there is still no VM-state header: not a complete snapshot, but what an interrupted save
//!    left.
//! 6. The VM-state header, flush: the commit point. A new file that replaces a snapshot changes places with it after that,
//!    which makes *that* the commit point.
//!
//! A save that fails in step 5 or 6 says "save in progress" again ([`unseal`](SnapshotWriter::unseal)) where it cannot
//! remove the file: what the page cache holds would otherwise pass for a snapshot.

use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::geometry::Geometry;
use crate::index::PageIndex;
use crate::inspect::Container;
use crate::layout::RamLayout;
use crate::qcow2::header::{Header, SaveState, SnapshotExtension};
use crate::qcow2::tables::Tables;
use crate::root::{Entry, LEAVES_PER_INDEX_PAGE, ROOT_LIMIT_BYTES, Region, Root};
use crate::types::{ALIGNMENT_BYTES, GuestOffset, HostOffset, Identity};
use crate::vm_state::{Form, VmHeader, VmState};
use std::sync::Arc;

/// One step of a list: everything before a flush is complete before the flush starts, and the flush before what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write these bytes, a multiple of 4096, at this multiple of 4096.
    Write {
        /// Where.
        at: HostOffset,
        /// What.
        bytes: Vec<u8>,
    },
    /// Set the file's length in bytes.
    SetLength(u64),
    /// Hold this much space of the file system behind the end of the file; 0 gives it back. In bytes.
    Ballast(u64),
    /// Make everything before durable.
    Flush,
}

/// A list of steps; long ones are made as they are needed.
pub type Steps = Box<dyn Iterator<Item = Step> + Send>;

/// What is written a second time may take whole allocation units of the file system (XFS: 128 KiB, `cowextsize`) for each
/// of its few pieces.
const BALLAST_SLACK_BYTES: u64 = 1 << 20;
/// Space for a root that a longer tail can let grow, in bytes.
const ROOT_SLACK_BYTES: u64 = 64 << 10;

/// What is placed by [`SnapshotWriter::reserve`].
#[derive(Debug)]
struct Placed {
    vm: VmState,
    form: Form,
    layout: RamLayout,
    index_pages: Vec<Entry>,
    nonzero_pages: u64,
    root_capacity: u64,
    tail_capacity: u64,
}

/// Writes one snapshot into one image.
#[derive(Debug)]
pub struct SnapshotWriter {
    tables: Tables,
    new_file: bool,
    identity: Identity,
    placed: Option<Placed>,
}

impl SnapshotWriter {
    /// A writer of a new file for `ram_bytes` of virtual disk.
    ///
    /// # Errors
    ///
    /// None today; the geometry is valid by construction.
    pub fn create(geometry: Geometry, ram_bytes: u64) -> Result<Self, ImageError> {
        let header = Header::new(geometry, ram_bytes.next_multiple_of(geometry.cluster_bytes()));
        let identity = Identity { uuid: [0; 16], created_unix_s: 0 };
        Ok(Self { tables: Tables::create(header), new_file: true, identity, placed: None })
    }

    /// A writer into an image that an [`Inspector`](crate::Inspector) found empty.
    ///
    /// # Errors
    ///
    /// `TooSmall`, with the size that is needed.
    pub fn reuse(container: Box<Container>, ram_bytes: u64) -> Result<Self, ImageError> {
        let found = container.tables.header.size;
        if found < ram_bytes {
            return Err(ImageError::TooSmall { found, needed: ram_bytes.next_multiple_of(1 << 20) });
        }
        let identity = Identity { uuid: [0; 16], created_unix_s: 0 };
        Ok(Self { tables: container.tables, new_file: false, identity, placed: None })
    }

    /// Cluster size in bytes.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.tables.header.geometry.cluster_bytes()
    }

    /// Step 1 of the protocol.
    pub fn begin(&mut self, identity: Identity) -> Vec<Step> {
        self.identity = identity;
        self.tables.header.set_untouched(true);
        self.tables.header.extension = Some(self.in_progress());
        let mut steps = Vec::new();
        if self.new_file {
            self.tables.settle_refcounts();
            steps.push(Step::SetLength(self.tables.file_length()));
            steps.extend(self.table_steps());
        }
        steps.push(self.header_step());
        steps.push(Step::Flush);
        steps
    }

    fn in_progress(&self) -> SnapshotExtension {
        SnapshotExtension {
            state: SaveState::InProgress,
            uuid: self.identity.uuid,
            root_offset: 0,
            root_length: 0,
            root_checksum: 0,
        }
    }

    fn header_step(&self) -> Step {
        Step::Write { at: HostOffset(0), bytes: self.tables.header.encode() }
    }

    fn table_steps(&mut self) -> Vec<Step> {
        let steps =
            self.tables.encode(true).into_iter().map(|(at, bytes)| Step::Write { at: HostOffset(at), bytes });
        let steps = steps.collect();
        self.tables.written();
        steps
    }

    /// Where the RAM cluster at `guest` (a multiple of the cluster size) lies; a place is taken on first use.
    ///
    /// # Errors
    ///
    /// `Damaged` for a table that became inconsistent: a bug, or memory that fails.
    pub fn host(&mut self, guest: GuestOffset) -> Result<HostOffset, ImageError> {
        self.tables.host(guest)
    }

    /// Step 3 of the protocol: RAM is complete.
    ///
    /// # Errors
    ///
    /// `Limit` if leader and tail do not fit before the extension.
    pub fn reserve(
        &mut self,
        vm: VmState,
        layout: &RamLayout,
        pages: &Arc<PageIndex>,
        tail_capacity: u64,
    ) -> Result<Steps, ImageError> {
        // Which form it is depends on the tail's length only through 32 bits, of which this leaves enough.
        let form = vm.form(layout.page_size(), 1 << 31);
        let base = self.extension_start();
        let uuid = self.identity.uuid;
        let tables_guess = 16 * (self.tables.l2.len() + self.tables.refcount_blocks.len() + 64);
        let names: usize = layout.blocks().iter().map(|block| block.name.len() + 26).sum();
        let index_count = pages.leaf_count().div_ceil(LEAVES_PER_INDEX_PAGE);
        let root_capacity = (256 + names as u64 + tables_guess as u64 + 16 * index_count + ROOT_SLACK_BYTES)
            .next_multiple_of(ALIGNMENT_BYTES);
        let mut at = base + root_capacity;
        let mut leaves = Vec::new();
        let mut index_bytes: Vec<Vec<u8>> = vec![Vec::new(); usize::try_from(index_count).unwrap_or(0)];
        for (number, length) in pages.occupied() {
            let checksum = crc32c(&pages.encode_leaf(number, &uuid));
            let entry = Entry { offset: at, length: u32::try_from(length).unwrap_or(u32::MAX), checksum };
            let page = &mut index_bytes[usize::try_from(number / LEAVES_PER_INDEX_PAGE).unwrap_or(0)];
            let place =
                usize::try_from(number % LEAVES_PER_INDEX_PAGE).unwrap_or(0) * crate::root::ENTRY_BYTES;
            page.resize(place, 0);
            entry.put(page);
            leaves.push((number, at));
            at += (length as u64).next_multiple_of(ALIGNMENT_BYTES);
        }
        let mut writes = Vec::new();
        let mut index_pages = Vec::new();
        for page in index_bytes {
            let length = u32::try_from(page.len()).unwrap_or(u32::MAX);
            if page.is_empty() {
                index_pages.push(Entry::default());
                continue;
            }
            index_pages.push(Entry { offset: at, length, checksum: crc32c(&page) });
            let end = at + (page.len() as u64).next_multiple_of(ALIGNMENT_BYTES);
            writes.push((at, page));
            at = end;
        }
        let nonzero_pages = pages.nonzero_pages();
        let placed = Placed {
            vm,
            form,
            layout: layout.clone(),
            index_pages,
            nonzero_pages,
            root_capacity,
            tail_capacity,
        };
        let area = placed.area(&[], tail_capacity);
        self.check_area(area.len() as u64)?;
        self.placed = Some(placed);
        let mut steps = self.write_guest(self.vm_state_start(), &area)?;
        steps.extend(self.write_guest(base, &vec![0; usize::try_from(root_capacity).unwrap_or(0)])?);
        for (at, bytes) in writes {
            steps.extend(self.write_guest(at, &bytes)?);
        }
        // Leaves can be many; their bytes are made one by one, but their places are taken now.
        let mut leaf_places = Vec::new();
        for (number, at) in leaves {
            let length = pages.encode_leaf(number, &uuid).len();
            leaf_places.push((number, self.places(at, length)?));
        }
        self.tables.settle_refcounts();
        let mut first = vec![Step::SetLength(self.tables.file_length())];
        first.append(&mut steps);
        first.extend(self.table_steps());
        let ballast = self.ballast();
        let pages = Arc::clone(pages);
        let leaf_steps = leaf_places.into_iter().flat_map(move |(number, places)| {
            let bytes = pages.encode_leaf(number, &uuid);
            split(&places, &bytes)
        });
        Ok(Box::new(first.into_iter().chain(leaf_steps).chain([ballast, Step::Flush])))
    }

    /// The device tail is longer than what was reserved.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve).
    ///
    /// # Panics
    ///
    /// Before `reserve`.
    pub fn grow_tail(&mut self, tail_capacity: u64) -> Result<Vec<Step>, ImageError> {
        let start = self.vm_state_start();
        let placed = self.placed.as_mut().expect("reserve comes before grow_tail");
        let had = placed.area_bytes(placed.tail_capacity);
        placed.tail_capacity = tail_capacity;
        let needs = placed.area_bytes(tail_capacity);
        self.check_area(needs)?;
        let zeros = vec![0; usize::try_from(needs - had).unwrap_or(0)];
        let mut steps = self.write_guest(start + had, &zeros)?;
        self.tables.settle_refcounts();
        steps.splice(0..0, [Step::Ballast(0), Step::SetLength(self.tables.file_length())]);
        steps.extend(self.table_steps());
        // The header goes along: the L1 table may have moved.
        steps.push(self.header_step());
        steps.push(self.ballast());
        steps.push(Step::Flush);
        Ok(steps)
    }

    /// What [`seal`](Self::seal) writes a second time, twice over: its pieces lie in several clusters.
    fn ballast(&self) -> Step {
        let rewritten = self.placed.as_ref().map_or(0, |placed| placed.root_capacity + placed.tail_capacity);
        Step::Ballast(2 * rewritten + BALLAST_SLACK_BYTES)
    }

    /// Takes back what [`seal`](Self::seal) said: the image holds an interrupted save again.
    pub fn unseal(&mut self) -> Vec<Step> {
        self.tables.header.set_untouched(true);
        self.tables.header.extension = Some(self.in_progress());
        vec![self.header_step(), Step::Flush]
    }

    /// Steps 5 and 6 of the protocol: the stream was whole.
    ///
    /// # Errors
    ///
    /// `Limit` if the tail is longer than what was reserved.
    ///
    /// # Panics
    ///
    /// Before `reserve`.
    pub fn seal(&mut self, tail: &[u8]) -> Result<Vec<Step>, ImageError> {
        let start = self.vm_state_start();
        let base = self.extension_start();
        let tables = self.tables.encode(false);
        let tables = tables.iter().map(|(at, bytes)| Entry {
            offset: *at,
            length: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            checksum: crc32c(bytes),
        });
        let tables = tables.collect();
        let placed = self.placed.as_ref().expect("reserve comes before seal");
        if tail.len() as u64 > placed.tail_capacity {
            let (found, limit) = (tail.len() as u64, placed.tail_capacity);
            return Err(ImageError::Limit { what: "device tail in bytes", found, limit });
        }
        let vm_header = placed.vm_header(tail.len() as u64).encode();
        let root = placed.root(&self.identity, tail, &vm_header, tables).encode();
        if root.len() as u64 > placed.root_capacity.min(ROOT_LIMIT_BYTES) {
            let (found, limit) = (root.len() as u64, placed.root_capacity);
            return Err(ImageError::Limit { what: "root in bytes", found, limit });
        }
        let mut area = placed.area(tail, tail.len() as u64);
        let tail_start = area.len() - tail.len();
        let from = tail_start - tail_start % usize::try_from(ALIGNMENT_BYTES).unwrap_or(1);
        self.tables.header.set_untouched(true);
        self.tables.header.extension = Some(SnapshotExtension {
            state: SaveState::Complete,
            uuid: self.identity.uuid,
            root_offset: base,
            root_length: root.len() as u64,
            root_checksum: crc32c(&root),
        });
        let mut steps = vec![Step::Ballast(0)];
        steps.extend(self.write_guest(start + from as u64, &area[from..])?);
        steps.extend(self.write_guest(base, &root)?);
        steps.push(self.header_step());
        steps.push(Step::Flush);
        area[..vm_header.len()].copy_from_slice(&vm_header);
        area.truncate(usize::try_from(ALIGNMENT_BYTES).unwrap_or(1));
        steps.extend(self.write_guest(start, &area)?);
        steps.push(Step::Flush);
        Ok(steps)
    }

    fn vm_state_start(&self) -> u64 {
        self.tables.header.vm_state_start()
    }

    fn extension_start(&self) -> u64 {
        self.vm_state_start() + self.tables.header.geometry.l1_span_bytes() / 2
    }

    fn check_area(&self, bytes: u64) -> Result<(), ImageError> {
        let limit = self.tables.header.geometry.l1_span_bytes() / 2;
        if bytes > limit {
            return Err(ImageError::Limit { what: "VM state in bytes", found: bytes, limit });
        }
        Ok(())
    }

    /// The places in the file of `length` bytes at `guest`, cluster by cluster, in whole blocks.
    fn places(&mut self, guest: u64, length: usize) -> Result<Vec<(HostOffset, usize)>, ImageError> {
        let cluster = self.cluster_size();
        let mut places = Vec::new();
        let end = guest + (length as u64).next_multiple_of(ALIGNMENT_BYTES);
        let mut at = guest;
        while at < end {
            let in_cluster = at % cluster;
            let piece = (cluster - in_cluster).min(end - at);
            let host = self.tables.host(GuestOffset(at - in_cluster))?;
            places.push((HostOffset(host.0 + in_cluster), usize::try_from(piece).unwrap_or(0)));
            at += piece;
        }
        Ok(places)
    }

    fn write_guest(&mut self, guest: u64, bytes: &[u8]) -> Result<Vec<Step>, ImageError> {
        Ok(split(&self.places(guest, bytes.len())?, bytes))
    }
}

/// Writes of `bytes`, filled up with zeros, to consecutive places.
fn split(places: &[(HostOffset, usize)], bytes: &[u8]) -> Vec<Step> {
    let mut rest = bytes;
    let mut steps = Vec::with_capacity(places.len());
    for &(at, length) in places {
        let (head, tail) = rest.split_at(length.min(rest.len()));
        let mut bytes = head.to_vec();
        bytes.resize(length, 0);
        steps.push(Step::Write { at, bytes });
        rest = tail;
    }
    steps
}

impl Placed {
    fn area_bytes(&self, tail: u64) -> u64 {
        let before = self.form.header_bytes() + (self.vm.leader.len() + self.vm.third.len()) as u64;
        (before + tail).next_multiple_of(ALIGNMENT_BYTES)
    }

    /// The VM-state area with no header yet: zeros, leader, third region, tail (or room for it).
    fn area(&self, tail: &[u8], room: u64) -> Vec<u8> {
        let mut area = vec![0; usize::try_from(self.form.header_bytes()).unwrap_or(0)];
        area.extend_from_slice(&self.vm.leader);
        area.extend_from_slice(&self.vm.third);
        area.extend_from_slice(tail);
        if tail.is_empty() {
            area.resize(usize::try_from(self.area_bytes(room)).unwrap_or(area.len()), 0);
        }
        area
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

    fn root(&self, identity: &Identity, tail: &[u8], vm_header: &[u8], tables: Vec<Entry>) -> Root {
        let region = |bytes: &[u8]| Region { length: bytes.len() as u64, checksum: crc32c(bytes) };
        let blocks = self.layout.blocks().iter().enumerate();
        Root {
            uuid: identity.uuid,
            created_unix_s: identity.created_unix_s,
            page_size: self.layout.page_size(),
            normal_pages: self.vm.normal_pages,
            nonzero_pages: self.nonzero_pages,
            vm_header_checksum: crc32c(vm_header),
            regions: [region(&self.vm.leader), region(&self.vm.third), region(tail)],
            index_pages: self.index_pages.clone(),
            blocks: blocks.map(|(at, block)| (block.clone(), self.layout.guest(at, 0).0)).collect(),
            tables,
        }
    }
}
