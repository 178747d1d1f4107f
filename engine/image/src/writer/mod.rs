//! Writes a snapshot.
//!
//! [`SnapshotWriter`] → [`Reserved`] → [`Sealed`]: each has only what can be done then.

mod reserved;

pub use reserved::{Reserved, Sealed};

use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::geometry::Geometry;
use crate::index::PageIndex;
use crate::inspect::Container;
use crate::layout::{RAM_LIMIT_BYTES, RamLayout};
use crate::linear::{BASE_ALIGNMENT_BYTES, Layout, Linear};
use crate::qcow2::header::{Header, SaveState, SnapshotExtension};
use crate::qcow2::tables::Tables;
use crate::root::{ENTRY_BYTES, Entry, LEAVES_PER_INDEX_PAGE};
use crate::size::to_usize;
use crate::types::{ALIGNMENT_BYTES, GuestOffset, HostOffset, Identity};
use crate::vm_state::{VM_STATE_LIMIT_BYTES, VmState};
use std::sync::Arc;

/// One step of a list: everything before a flush is complete before the flush starts, and the flush before
/// what follows.
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

/// Space for a root that a longer tail can let grow, in bytes.
const ROOT_SLACK_BYTES: u64 = 64 << 10;

/// Gives the pages of one snapshot their places in one image, until RAM is complete: then
/// [`reserve`](Self::reserve) makes it a [`Reserved`], whose [`seal`](Reserved::seal) makes a [`Sealed`].
///
/// # The commit protocol
///
/// Each step completes before the next one starts; what is under way when the machine dies may be there in
/// part.
///
/// 1. [`create`](SnapshotWriter::create) or [`reuse`](SnapshotWriter::reuse): the header says "save in
///    progress", flush. After a crash from here on the image is an interrupted save.
/// 2. Pages are written to where [`host`](SnapshotWriter::host) puts them: space that reads as zeros
///    otherwise.
/// 3. [`reserve`](SnapshotWriter::reserve): tables, the sections before RAM, other iterables, index;
///    placeholders for all that is not known yet; flush. From here on nothing needs new space, except on a
///    copy-on-write file system, where what is written a second time needs it again: the
///    [`Ballast`](Step::Ballast) behind the end of the file is as large as that.
/// 4. A new file with no old one to replace is given the image's name: it holds an interrupted save until it
///    is sealed.
/// 5. [`seal`](Reserved::seal): the ballast is given back; device tail, root, and the header that says
///    "complete", flush. After a crash here there is still no VM-state header: not a complete snapshot, but
///    what an interrupted save left.
/// 6. The VM-state header, flush: the commit point. A new file that replaces a snapshot changes places with
///    it after that, which makes *that* the commit point.
///
/// A save that fails in step 5 or 6 says "save in progress" again ([`unseal`](Sealed::unseal)) where it
/// cannot remove the file: what the page cache holds would otherwise pass for a snapshot.
#[derive(Debug)]
pub struct SnapshotWriter {
    disk: WrittenDisk,
    identity: Identity,
}

impl SnapshotWriter {
    /// A writer of a new, dense file for `ram_bytes` of virtual disk, and step 1 of the protocol.
    ///
    /// # Errors
    ///
    /// `Limit` for more RAM than an image can hold.
    pub fn create(
        geometry: Geometry,
        ram_bytes: u64,
        identity: Identity,
    ) -> Result<(Self, Vec<Step>), ImageError> {
        let disk = WrittenDisk::create(geometry, ram_bytes)?;
        Ok(Self::begin(disk, identity))
    }

    /// A writer of a new, [linear](crate::Layout::Linear) file for these blocks, and step 1 of the protocol.
    ///
    /// # Errors
    ///
    /// `LinearClusters` for clusters of 2 MiB, in which two blocks can meet.
    pub fn create_linear(
        geometry: Geometry,
        layout: &RamLayout,
        identity: Identity,
    ) -> Result<(Self, Vec<Step>), ImageError> {
        let mut disk = WrittenDisk::create(geometry, layout.total_bytes())?;
        let ram_at = disk.tables.file_length().next_multiple_of(BASE_ALIGNMENT_BYTES);
        disk.tables.set_linear(Linear::new(layout, geometry, ram_at)?);
        Ok(Self::begin(disk, identity))
    }

    fn begin(mut disk: WrittenDisk, identity: Identity) -> (Self, Vec<Step>) {
        disk.set_extension(disk.in_progress(&identity));
        let mut steps = vec![Step::SetLength(disk.tables.file_length())];
        steps.extend(disk.table_steps());
        steps.push(disk.header_step());
        steps.push(Step::Flush);
        (Self { disk, identity }, steps)
    }

    /// A writer into an image that an [`Inspector`](crate::Inspector) found empty, and step 1 of the
    /// protocol.
    ///
    /// # Errors
    ///
    /// `TooSmall`, with the size that is needed.
    pub fn reuse(
        container: Box<Container>,
        ram_bytes: u64,
        identity: Identity,
    ) -> Result<(Self, Vec<Step>), ImageError> {
        let found = container.tables.header.size;
        if found < ram_bytes {
            return Err(ImageError::TooSmall { found, needed: ram_bytes.next_multiple_of(1 << 20) });
        }
        let mut disk = WrittenDisk { tables: container.tables };
        disk.set_extension(disk.in_progress(&identity));
        let steps = vec![disk.header_step(), Step::Flush];
        Ok((Self { disk, identity }, steps))
    }

    /// Cluster size in bytes.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.disk.cluster_size()
    }

    /// Where the RAM cluster at `guest` (a multiple of the cluster size) lies in a linear image,
    /// whether it is in use or not; `None` in a dense one.
    #[must_use]
    pub fn linear_host(&self, guest: GuestOffset) -> Option<HostOffset> {
        self.disk.tables.linear()?.host(guest.0).map(HostOffset)
    }

    /// How RAM lies in the file. In a linear image nothing is written for pages that are zero.
    #[must_use]
    pub fn layout(&self) -> Layout {
        if self.disk.tables.linear().is_some() { Layout::Linear } else { Layout::Dense }
    }

    /// Where the RAM cluster at `guest` (a multiple of the cluster size) lies; a place is taken on first use.
    ///
    /// # Errors
    ///
    /// `Value` for a cluster behind the RAM; `Damaged` for a table that became inconsistent: a bug, or memory
    /// that fails.
    pub fn host(&mut self, guest: GuestOffset) -> Result<HostOffset, ImageError> {
        if guest.0 >= self.disk.vm_state_start() {
            let expected = "a place in the virtual disk";
            return Err(ImageError::Value { what: "guest offset", found: guest.0, expected });
        }
        self.disk.tables.host(guest)
    }

    /// Step 3 of the protocol: RAM is complete.
    ///
    /// # Errors
    ///
    /// `Limit` if leader and tail do not fit before the extension.
    pub fn reserve(
        mut self,
        vm: VmState,
        layout: &RamLayout,
        pages: &Arc<PageIndex>,
        tail_capacity: u64,
    ) -> Result<(Reserved, Steps), ImageError> {
        let disk = &mut self.disk;
        let base = disk.extension_start();
        let uuid = self.identity.uuid;
        let root_capacity = root_capacity(&disk.tables, layout, pages);
        let index = IndexPlaces::new(pages, &uuid, base + root_capacity);
        // Which form it is depends on the tail's length only through 32 bits, of which this leaves enough.
        let form = vm.form(layout.page_size(), 1 << 31);
        let mut reserved = Reserved {
            vm,
            form,
            layout: layout.clone(),
            index_pages: index.pages.iter().map(|(entry, _)| *entry).collect(),
            nonzero_pages: pages.nonzero_pages(),
            root_capacity,
            tail_capacity,
            disk: self.disk,
            identity: self.identity,
        };
        let area = reserved.area(&[], tail_capacity)?;
        let disk = &mut reserved.disk;
        let mut writes = disk.write(disk.vm_state_start(), &area)?;
        drop(area);
        writes.extend(split(&disk.places(base, to_usize(root_capacity))?, &[]));
        for (entry, bytes) in index.pages.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            writes.extend(disk.write(entry.offset, bytes)?);
        }
        // Leaves can be many; their bytes are made one by one, but their places are taken now.
        let mut leaf_places = Vec::new();
        for (number, at, length) in index.leaves {
            leaf_places.push((number, disk.places(at, length)?));
        }
        disk.tables.settle_refcounts();
        let mut first = vec![Step::SetLength(disk.tables.file_length())];
        first.append(&mut writes);
        first.extend(disk.table_steps());
        let pages = Arc::clone(pages);
        let leaf_steps = leaf_places.into_iter().flat_map(move |(number, places)| {
            let bytes = pages.encode_leaf(number, &uuid);
            split(&places, &bytes)
        });
        let last = [reserved.ballast(), Step::Flush];
        Ok((reserved, Box::new(first.into_iter().chain(leaf_steps).chain(last))))
    }
}

/// Room for the root of this snapshot, whose tables can still become more.
fn root_capacity(tables: &Tables, layout: &RamLayout, pages: &PageIndex) -> u64 {
    let tables = ENTRY_BYTES * (tables.l2.len() + tables.refcount_blocks.len() + 64);
    let names: usize = layout.blocks().iter().map(|block| block.name.len() + 26).sum();
    let index = ENTRY_BYTES as u64 * pages.leaf_count().div_ceil(LEAVES_PER_INDEX_PAGE);
    (256 + names as u64 + tables as u64 + index + ROOT_SLACK_BYTES).next_multiple_of(ALIGNMENT_BYTES)
}

/// Where the page index goes.
struct IndexPlaces {
    /// Number, guest offset and length of each leaf that has pages.
    leaves: Vec<(u64, u64, usize)>,
    /// The index pages, with their bytes; empty ones have no place.
    pages: Vec<(Entry, Vec<u8>)>,
}

impl IndexPlaces {
    /// Leaves from guest offset `start` on, the index pages behind them.
    fn new(pages: &PageIndex, uuid: &[u8; 16], start: u64) -> Self {
        let mut at = start;
        let mut leaves = Vec::new();
        let count = pages.leaf_count().div_ceil(LEAVES_PER_INDEX_PAGE);
        let mut index_bytes: Vec<Vec<u8>> = vec![Vec::new(); to_usize(count)];
        for (number, length) in pages.occupied() {
            let entry = entry_of(at, &pages.encode_leaf(number, uuid));
            let page = &mut index_bytes[to_usize(number / LEAVES_PER_INDEX_PAGE)];
            page.resize(to_usize(number % LEAVES_PER_INDEX_PAGE) * ENTRY_BYTES, 0);
            entry.put(page);
            leaves.push((number, at, length));
            at += (length as u64).next_multiple_of(ALIGNMENT_BYTES);
        }
        let mut place = |bytes: Vec<u8>| {
            if bytes.is_empty() {
                return (Entry::default(), bytes);
            }
            let entry = entry_of(at, &bytes);
            at += (bytes.len() as u64).next_multiple_of(ALIGNMENT_BYTES);
            (entry, bytes)
        };
        let pages = index_bytes.into_iter().map(&mut place).collect();
        Self { leaves, pages }
    }
}

/// The entry of these bytes, which lie at `offset`.
fn entry_of(offset: u64, bytes: &[u8]) -> Entry {
    let length = u32::try_from(bytes.len()).expect("leaves, index pages and tables are a few MiB at most");
    Entry { offset, length, checksum: crc32c(bytes) }
}

/// The image that is being written: its tables, and writes to its virtual disk.
#[derive(Debug)]
struct WrittenDisk {
    tables: Tables,
}

impl WrittenDisk {
    /// That of a new file.
    fn create(geometry: Geometry, ram_bytes: u64) -> Result<Self, ImageError> {
        if ram_bytes > RAM_LIMIT_BYTES {
            return Err(ImageError::Limit { what: "RAM", found: ram_bytes, limit: RAM_LIMIT_BYTES });
        }
        let header = Header::new(geometry, ram_bytes.next_multiple_of(geometry.cluster_bytes()));
        let mut tables = Tables::create(header);
        tables.settle_refcounts();
        Ok(Self { tables })
    }

    /// Where linear RAM begins in the file, 0 for a dense layout.
    fn ram_at(&self) -> u64 {
        self.tables.linear().and_then(|linear| linear.base(0)).unwrap_or(0)
    }

    fn in_progress(&self, identity: &Identity) -> SnapshotExtension {
        SnapshotExtension {
            state: SaveState::InProgress,
            uuid: identity.uuid,
            root_offset: 0,
            root_length: 0,
            root_checksum: 0,
            ram_at: self.ram_at(),
        }
    }

    fn cluster_size(&self) -> u64 {
        self.tables.header.geometry.cluster_bytes()
    }

    fn vm_state_start(&self) -> u64 {
        self.tables.header.vm_state_start()
    }

    fn extension_start(&self) -> u64 {
        self.vm_state_start() + self.tables.header.geometry.l1_span_bytes() / 2
    }

    /// The VM state ends where the extension begins, and a reader has it in memory.
    fn check_area(&self, bytes: u64) -> Result<(), ImageError> {
        let limit = (self.tables.header.geometry.l1_span_bytes() / 2).min(VM_STATE_LIMIT_BYTES);
        if bytes > limit {
            return Err(ImageError::Limit { what: "VM state", found: bytes, limit });
        }
        Ok(())
    }

    fn set_extension(&mut self, extension: SnapshotExtension) {
        self.tables.header.set_untouched(true);
        self.tables.header.extension = Some(extension);
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

    /// The places in the file of `length` bytes at `guest`, cluster by cluster, in whole blocks.
    fn places(&mut self, guest: u64, length: usize) -> Result<Vec<(HostOffset, usize)>, ImageError> {
        let cluster = self.cluster_size();
        let mut places = Vec::new();
        let end = guest + (length as u64).next_multiple_of(ALIGNMENT_BYTES);
        let mut at = guest;
        while at < end {
            let in_cluster = at % cluster;
            let length = (cluster - in_cluster).min(end - at);
            let host = self.tables.host(GuestOffset(at - in_cluster))?;
            places.push((HostOffset(host.0 + in_cluster), to_usize(length)));
            at += length;
        }
        Ok(places)
    }

    fn write(&mut self, guest: u64, bytes: &[u8]) -> Result<Vec<Step>, ImageError> {
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
