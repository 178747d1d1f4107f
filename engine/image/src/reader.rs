//! Reads a snapshot, and believes nothing that has not been verified.

use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::inbox::{Inbox, Lookup, ready};
use crate::index::{LEAF_LIMIT_BYTES, LEAF_PAGES, Leaf};
use crate::layout::{ImageBlock, RamLayout};
use crate::qcow2::header::{HEADER_BYTES, Header, SaveState, SnapshotExtension};
use crate::qcow2::tables::{Mapping, RawTable, Table, l2_place, mapping};
use crate::root::{ENTRY_BYTES, Entry, LEAVES_PER_INDEX_PAGE, ROOT_LIMIT_BYTES, Root};
use crate::types::{GuestOffset, HostOffset};
use crate::vm_state::{VM_HEADER_LIMIT_BYTES, VmHeader};
use std::collections::BTreeMap;

/// Leader and tail together cannot be longer: they are held in memory.
const VM_STATE_LIMIT_BYTES: u64 = 1 << 30;
/// Leaves, and pages of their index, that are kept once they have been read.
const LEAVES_KEPT: usize = 64;
/// The longest table that a root can name, in bytes: QEMU's own limit for an L1 table.
const TABLE_LIMIT_BYTES: u64 = 32 << 20;
/// L2 tables that are kept, in bytes.
const L2_KEPT_BYTES: u64 = 64 << 20;

/// How a snapshot is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Read it even though its checksums are gone or do not count any more.
    pub allow_unverified: bool,
}

/// Whether what was read is what was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// Everything is checked.
    Verified,
    /// Nothing can be checked; why.
    Unverified(&'static str),
}

/// A snapshot, RAM aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Header, configuration, early devices, START sections.
    pub leader: Vec<u8>,
    /// PART and END sections of iterables other than RAM.
    pub third: Vec<u8>,
    /// Device sections, EOF, vmdesc.
    pub tail: Vec<u8>,
    /// Its UUID, where it has one.
    pub uuid: Option<[u8; 16]>,
    /// When it was made, in seconds since 1970, where that is known.
    pub created_unix_s: Option<u64>,
    /// PAGE records that the save saw.
    pub normal_pages: u64,
    /// Pages that are not zero, where that is known.
    pub nonzero_pages: Option<u64>,
    /// Whether it is checked.
    pub verification: Verification,
}

/// What opening needs, or that it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// Read these bytes and [`supply`](SnapshotReader::supply) them.
    Need(HostOffset, usize),
    /// Done.
    Ready,
}

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

/// A page that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentPage {
    /// Its number.
    pub page: u64,
    /// Its checksum, where there are any.
    pub checksum: Option<u32>,
}

/// Reads one snapshot.
#[derive(Debug)]
pub struct SnapshotReader {
    file_length: u64,
    options: ReadOptions,
    inbox: Inbox,
    header: Option<Header>,
    l1: Option<Table>,
    /// As they are in the file: a table of a large cluster is seldom used as a whole.
    l2: BTreeMap<usize, RawTable>,
    /// Checksums of L2 tables that were read before the root was.
    unchecked: Vec<(u64, u32)>,
    /// Set when the image's checksums count.
    extension: Option<SnapshotExtension>,
    unverified: Option<&'static str>,
    vm_header: Option<(VmHeader, u32)>,
    root: Option<Root>,
    tables: BTreeMap<u64, (Entry, bool)>,
    /// Tables before this place have been checked at the end.
    finished: u64,
    regions: Vec<Vec<u8>>,
    snapshot: Option<(Snapshot, RamLayout)>,
    index_pages: BTreeMap<u64, Vec<u8>>,
    leaves: BTreeMap<u64, Leaf>,
}

impl SnapshotReader {
    /// A reader of a file of this many bytes.
    #[must_use]
    pub fn new(file_length: u64, options: ReadOptions) -> Self {
        Self {
            file_length,
            options,
            inbox: Inbox::default(),
            header: None,
            l1: None,
            l2: BTreeMap::new(),
            unchecked: Vec::new(),
            extension: None,
            unverified: None,
            vm_header: None,
            root: None,
            tables: BTreeMap::new(),
            finished: 0,
            regions: Vec::new(),
            snapshot: None,
            index_pages: BTreeMap::new(),
            leaves: BTreeMap::new(),
        }
    }

    /// Takes what was asked for.
    pub fn supply(&mut self, at: HostOffset, bytes: &[u8]) {
        self.inbox.supply(at, bytes);
    }

    /// Opens the snapshot: everything but RAM is read and verified.
    ///
    /// # Errors
    ///
    /// What is wrong with the image.
    pub fn poll(&mut self) -> Result<Open, ImageError> {
        match self.open()? {
            Lookup::Need(at, length) => Ok(Open::Need(at, length)),
            Lookup::Ready(()) => Ok(Open::Ready),
        }
    }

    /// The snapshot, once it is open.
    ///
    /// # Panics
    ///
    /// Before [`poll`](Self::poll) said `Ready`.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot.as_ref().expect("the snapshot is open").0
    }

    /// Where RAM lies, once it is open.
    ///
    /// # Panics
    ///
    /// Before [`poll`](Self::poll) said `Ready`.
    #[must_use]
    pub fn layout(&self) -> &RamLayout {
        &self.snapshot.as_ref().expect("the snapshot is open").1
    }

    fn open(&mut self) -> Result<Lookup<()>, ImageError> {
        if self.snapshot.is_some() {
            return Ok(Lookup::Ready(()));
        }
        if self.header.is_none() {
            let bytes = ready!(self.inbox.take(0, HEADER_BYTES as u64));
            let header = Header::parse(&bytes, self.file_length)?;
            self.check_trust(&header)?;
            self.header = Some(header);
        }
        let header = self.header.clone().ok_or(ImageError::NoSnapshot("it has no header"))?;
        if self.l1.is_none() {
            let bytes = ready!(self.inbox.take(header.l1_at().0, u64::from(header.l1_entries) * 8));
            self.l1 = Some(Table::parse(header.l1_offset, &bytes));
        }
        let start = header.vm_state_start();
        if self.vm_header.is_none() {
            let bytes = ready!(self.read_guest(start, VM_HEADER_LIMIT_BYTES as u64)?);
            // What is longer than the file is made of holes, which a save does not leave here.
            let area = header.geometry.l1_span_bytes().min(VM_STATE_LIMIT_BYTES).min(self.file_length);
            // The image's header says complete one flush before this one is there.
            let missing = match self.extension {
                Some(_) => "it has no VM-state header: a save was interrupted, or its tables are damaged",
                None => "it has no VM-state header",
            };
            let parsed = VmHeader::parse(&bytes, area)?.ok_or(ImageError::NoSnapshot(missing))?;
            let length = usize::try_from(parsed.form.header_bytes()).unwrap_or(0);
            self.vm_header = Some((parsed, crc32c(&bytes[..length])));
        }
        let (vm_header, vm_header_checksum) =
            self.vm_header.ok_or(ImageError::NoSnapshot("it has no VM state"))?;
        if self.root.is_none()
            && let Some(extension) = self.extension
        {
            let bytes = ready!(self.read_guest(extension.root_offset, extension.root_length)?);
            check(&bytes, extension.root_checksum, "snapshot root", extension.root_offset)?;
            let root = Root::parse(&bytes)?;
            if root.uuid != extension.uuid {
                return Err(ImageError::NoSnapshot("header and root have different UUIDs"));
            }
            self.check_tables_of(&root)?;
            self.tables = root.tables.iter().map(|&entry| (entry.offset, (entry, false))).collect();
            self.root = Some(root);
            if vm_header_checksum != self.root.as_ref().map_or(0, |root| root.vm_header_checksum) {
                let expected = self.root.as_ref().map_or(0, |root| root.vm_header_checksum);
                let (what, at) = ("VM-state header", GuestOffset(start));
                return Err(ImageError::Checksum { what, at, found: vm_header_checksum, expected });
            }
            for (at, found) in std::mem::take(&mut self.unchecked) {
                self.check_table(at, found)?;
            }
        }
        let body = start + vm_header.form.header_bytes();
        let places = [
            ("leader", 0, vm_header.third_offset),
            ("third region", vm_header.third_offset, vm_header.device_offset),
            ("device tail", vm_header.device_offset, vm_header.eof_offset),
        ];
        while let Some(&(what, from, to)) = places.get(self.regions.len()) {
            let bytes = ready!(self.read_guest(body + from, to - from)?);
            if let Some(root) = &self.root {
                let region = root.regions[self.regions.len()];
                if region.length != to - from {
                    return Err(ImageError::NoSnapshot("VM-state header and root have different lengths"));
                }
                check(&bytes, region.checksum, what, body + from)?;
            }
            self.regions.push(bytes);
        }
        let layout = self.layout_of(vm_header.page_size)?;
        if layout.total_bytes() > header.size {
            return Err(ImageError::NoSnapshot("its RAM does not fit into its virtual disk"));
        }
        let mut regions = std::mem::take(&mut self.regions).into_iter();
        let mut next = || regions.next().unwrap_or_default();
        let snapshot = Snapshot {
            leader: next(),
            third: next(),
            tail: next(),
            uuid: self.root.as_ref().map(|root| root.uuid),
            created_unix_s: self.root.as_ref().map(|root| root.created_unix_s),
            normal_pages: vm_header.normal_pages,
            nonzero_pages: self.root.as_ref().map(|root| root.nonzero_pages),
            verification: self.unverified.map_or(Verification::Verified, Verification::Unverified),
        };
        self.snapshot = Some((snapshot, layout));
        Ok(Lookup::Ready(()))
    }

    /// Do the image's checksums count?
    fn check_trust(&mut self, header: &Header) -> Result<(), ImageError> {
        let doubt = match (header.extension, header.is_untouched()) {
            (Some(extension), _) if extension.state == SaveState::InProgress => {
                return Err(ImageError::NoSnapshot("a save was interrupted"));
            }
            (Some(extension), true) if header.checksum_fits => {
                let limit = ROOT_LIMIT_BYTES.min(self.file_length);
                if extension.root_length > limit {
                    let found = extension.root_length;
                    return Err(ImageError::Limit { what: "root in bytes", found, limit });
                }
                self.extension = Some(extension);
                return Ok(());
            }
            (Some(_), true) => "the header's checksum does not fit",
            (Some(_), false) => "the feature bit that says unchanged is not set",
            (None, true) => "the header's extension is missing",
            (None, false) => {
                self.unverified = Some("it was saved by a tool that makes no checksums");
                return Ok(());
            }
        };
        if !self.options.allow_unverified {
            return Err(ImageError::Unverifiable(doubt));
        }
        self.unverified = Some(doubt);
        Ok(())
    }

    fn layout_of(&self, page_size: u32) -> Result<RamLayout, ImageError> {
        if let Some(root) = &self.root {
            if root.page_size != page_size {
                return Err(ImageError::NoSnapshot("VM-state header and root have different page sizes"));
            }
            let layout =
                RamLayout::new(root.blocks.iter().map(|(block, _)| block.clone()).collect(), page_size)?;
            let same = root.blocks.iter().enumerate().all(|(at, (_, start))| layout.guest(at, 0).0 == *start);
            return if same { Ok(layout) } else { Err(ImageError::NoSnapshot("its blocks lie elsewhere")) };
        }
        let options = migration_stream::Options { page_size: Some(page_size), ..Default::default() };
        let mut decoder = migration_stream::Decoder::new(options);
        let mut rest = self.regions.first().map_or(&[][..], |leader| &leader[..]);
        while decoder.blocks().is_empty() {
            match decoder.step(rest).map_err(ImageError::Leader)? {
                migration_stream::Step::Record { len, .. } => rest = &rest[len..],
                migration_stream::Step::Incomplete { .. } => {
                    return Err(ImageError::NoSnapshot("its leader has no block list"));
                }
            }
        }
        let blocks = decoder.blocks().iter().map(|block| ImageBlock {
            name: block.idstr.clone(),
            used_length: block.used_length,
            host_page_size: block.host_page_size,
        });
        RamLayout::new(blocks.collect(), page_size)
    }

    /// Where a range of the virtual disk lies in the file.
    ///
    /// # Errors
    ///
    /// `Damaged`, `Checksum`, `Foreign`.
    pub fn map(&mut self, guest: GuestOffset, length: u64) -> Result<Lookup<Vec<Extent>>, ImageError> {
        let geometry = self.header.as_ref().ok_or(ImageError::NoSnapshot("it is not open"))?.geometry;
        let cluster = geometry.cluster_bytes();
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = guest.0;
        let end = at.checked_add(length).ok_or(ImageError::Value {
            what: "guest offset",
            found: at,
            expected: "a place in the virtual disk or behind it",
        })?;
        while at < end {
            let piece = (cluster - at % cluster).min(end - at);
            let index = usize::try_from(at / geometry.l1_span_bytes()).unwrap_or(usize::MAX);
            let host = if ready!(self.load_l2(index)?) {
                let table = &self.l2[&index];
                let at_entry = usize::try_from(at % geometry.l1_span_bytes() / cluster).unwrap_or(0);
                match mapping(table.entry(at_entry), table.at, cluster, self.file_length)? {
                    Mapping::At { host, reads_as_zero: false } => Some(HostOffset(host + at % cluster)),
                    _ => None,
                }
            } else {
                None
            };
            match extents.last_mut() {
                Some(last) if last.host.map(|place| place.0 + last.length) == host.map(|place| place.0) => {
                    last.length += piece;
                }
                _ => extents.push(Extent { guest: GuestOffset(at), host, length: piece }),
            }
            at += piece;
        }
        Ok(Lookup::Ready(extents))
    }

    /// Has L2 table number `index` read; false if there is none.
    fn load_l2(&mut self, index: usize) -> Result<Lookup<bool>, ImageError> {
        if self.l2.contains_key(&index) {
            return Ok(Lookup::Ready(true));
        }
        let (Some(header), Some(l1)) = (&self.header, &self.l1) else { return Ok(Lookup::Ready(false)) };
        let cluster = header.geometry.cluster_bytes();
        let entry = l1.entries.get(index).copied().unwrap_or(0);
        let Some(at) = l2_place(entry, l1.at, cluster, self.file_length.next_multiple_of(cluster))? else {
            return Ok(Lookup::Ready(false));
        };
        let bytes = ready!(self.inbox.take(at, cluster));
        let found = crc32c(&bytes);
        if self.root.is_some() {
            self.check_table(at, found)?;
        } else if self.extension.is_some() {
            self.unchecked.push((at, found));
        }
        if (self.l2.len() as u64 + 1) * cluster > L2_KEPT_BYTES {
            self.l2.clear();
        }
        self.l2.insert(index, RawTable { at, bytes });
        Ok(Lookup::Ready(true))
    }

    /// The tables that `root` names lie in the file.
    fn check_tables_of(&self, root: &Root) -> Result<(), ImageError> {
        for entry in &root.tables {
            let length = u64::from(entry.length);
            let end = entry.offset.checked_add(length);
            if length > TABLE_LIMIT_BYTES
                || end.is_none_or(|end| end > self.file_length.next_multiple_of(2 << 20))
            {
                let what = format!("{length} bytes there, the file has {}", self.file_length);
                return Err(ImageError::Damaged { structure: "table of the root", at: entry.offset, what });
            }
        }
        Ok(())
    }

    fn check_table(&mut self, at: u64, found: u32) -> Result<(), ImageError> {
        let damaged = |what: String| ImageError::Damaged { structure: "table", at, what };
        let (entry, checked) =
            self.tables.get_mut(&at).ok_or_else(|| damaged("the snapshot has none there".into()))?;
        if entry.checksum != found {
            return Err(damaged(format!("checksum {found:#010x}, expected {:#010x}", entry.checksum)));
        }
        *checked = true;
        Ok(())
    }

    fn read_guest(&mut self, guest: u64, length: u64) -> Result<Lookup<Vec<u8>>, ImageError> {
        let extents = ready!(self.map(GuestOffset(guest), length)?);
        let places: Vec<_> =
            extents.iter().map(|extent| (extent.host.map(|host| host.0), extent.length)).collect();
        Ok(self.inbox.take_all(&places))
    }

    /// Reads a piece of the page index, which is no longer than `limit` bytes.
    fn read_piece(&mut self, entry: Entry, limit: u64) -> Result<Lookup<Vec<u8>>, ImageError> {
        let found = u64::from(entry.length);
        if found > limit {
            return Err(ImageError::Limit { what: "piece of the page index in bytes", found, limit });
        }
        self.read_guest(entry.offset, found)
    }

    /// The pages of `count` from `first` on that are not zero. Without checksums, those that have a place in the file:
    /// they may still be zero.
    ///
    /// # Errors
    ///
    /// What is wrong with the index.
    pub fn present(&mut self, first: u64, count: u64) -> Result<Lookup<Vec<PresentPage>>, ImageError> {
        let mut found = Vec::new();
        let (mut page, end) = (first, first + count);
        if self.root.is_none() {
            let page_size = u64::from(self.layout().page_size());
            for extent in ready!(self.map(GuestOffset(first * page_size), count * page_size)?) {
                if extent.host.is_some() {
                    let start = extent.guest.0 / page_size;
                    let pages = start..start + extent.length / page_size;
                    found.extend(pages.map(|page| PresentPage { page, checksum: None }));
                }
            }
            return Ok(Lookup::Ready(found));
        }
        while page < end {
            let number = page / LEAF_PAGES;
            let base = number * LEAF_PAGES;
            let to = end.min(base + LEAF_PAGES);
            let leaf = ready!(self.leaf(number)?);
            let in_leaf = |page: u64| usize::try_from(page - base).unwrap_or(0);
            let pages = leaf.pages(in_leaf(page), in_leaf(to));
            found.extend(
                pages
                    .into_iter()
                    .map(|(at, sum)| PresentPage { page: base + at as u64, checksum: Some(sum) }),
            );
            page = to;
        }
        Ok(Lookup::Ready(found))
    }

    fn leaf(&mut self, number: u64) -> Result<Lookup<&Leaf>, ImageError> {
        if !self.leaves.contains_key(&number) {
            let leaf = ready!(self.read_leaf(number)?);
            if self.leaves.len() >= LEAVES_KEPT {
                self.leaves.clear();
            }
            self.leaves.insert(number, leaf);
        }
        Ok(Lookup::Ready(&self.leaves[&number]))
    }

    fn read_leaf(&mut self, number: u64) -> Result<Lookup<Leaf>, ImageError> {
        let Some(root) = &self.root else { return Ok(Lookup::Ready(Leaf::empty())) };
        let (uuid, index_page) = (root.uuid, number / LEAVES_PER_INDEX_PAGE);
        let entry = usize::try_from(index_page)
            .ok()
            .and_then(|at| root.index_pages.get(at))
            .copied()
            .unwrap_or_default();
        if entry.offset == 0 {
            return Ok(Lookup::Ready(Leaf::empty()));
        }
        if !self.index_pages.contains_key(&index_page) {
            let bytes = ready!(self.read_piece(entry, LEAVES_PER_INDEX_PAGE * ENTRY_BYTES as u64)?);
            check(&bytes, entry.checksum, "page index", entry.offset)?;
            if self.index_pages.len() >= LEAVES_KEPT {
                self.index_pages.clear();
            }
            self.index_pages.insert(index_page, bytes);
        }
        let place = usize::try_from(number % LEAVES_PER_INDEX_PAGE).unwrap_or(0) * ENTRY_BYTES;
        let entry = self.index_pages[&index_page].get(place..).and_then(Entry::parse).unwrap_or_default();
        if entry.offset == 0 {
            return Ok(Lookup::Ready(Leaf::empty()));
        }
        let bytes = ready!(self.read_piece(entry, LEAF_LIMIT_BYTES)?);
        check(&bytes, entry.checksum, "page checksums", entry.offset)?;
        let leaf = Leaf::decode(&bytes, number, &uuid)
            .ok_or(ImageError::NoSnapshot("a leaf of its page index is malformed"))?;
        Ok(Lookup::Ready(leaf))
    }

    /// Verifies the QCOW2 tables that reading did not come across, before a destination is told that all is well.
    ///
    /// # Errors
    ///
    /// `Damaged`.
    pub fn finish(&mut self) -> Result<Open, ImageError> {
        while let Some((&at, &(entry, checked))) = self.tables.range(self.finished..).next() {
            if !checked {
                match self.inbox.take(at, u64::from(entry.length)) {
                    Lookup::Need(at, length) => return Ok(Open::Need(at, length)),
                    Lookup::Ready(bytes) => self.check_table(at, crc32c(&bytes))?,
                }
            }
            self.finished = at + 1;
        }
        Ok(Open::Ready)
    }
}

fn check(bytes: &[u8], expected: u32, what: &'static str, at: u64) -> Result<(), ImageError> {
    let found = crc32c(bytes);
    if found != expected {
        return Err(ImageError::Checksum { what, at: GuestOffset(at), found, expected });
    }
    Ok(())
}
