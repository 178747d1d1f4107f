//! Reads a snapshot that an [`Opener`](crate::Opener) has opened, and believes nothing that has not
//! been verified.

use crate::checksum::crc32c;
use crate::disk::{Disk, Extent};
use crate::error::ImageError;
use crate::inbox::{Inbox, Lookup, ready};
use crate::index::{LEAF_LIMIT_BYTES, LEAF_PAGES, Leaf};
use crate::layout::{PresentPage, RamLayout};
use crate::qcow2::header::SnapshotExtension;
use crate::root::{ENTRY_BYTES, Entry, LEAVES_PER_INDEX_PAGE, Root};
use crate::size::to_usize;
use crate::types::{GuestOffset, HostOffset};
use std::collections::BTreeMap;

/// Leaves, and pages of their index, that are kept once they have been read.
const LEAVES_KEPT: usize = 64;

/// How a snapshot is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Read it even though its checksums are gone or do not count any more.
    pub allow_unverified: bool,
}

/// Whether what was read is what was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// Everything is verified.
    Verified,
    /// Nothing can be verified; why.
    Unverified(&'static str),
}

/// A snapshot, RAM aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The preamble: file header, configuration, early devices, START sections.
    pub leader: Vec<u8>,
    /// PART and END sections of iterables other than RAM (dirty bitmaps).
    pub third: Vec<u8>,
    /// Device sections, EOF, vmdesc.
    pub tail: Vec<u8>,
    /// Its UUID, where it has one.
    pub uuid: Option<[u8; 16]>,
    /// CRC-32C of the root, which has or leads to the checksums of everything else, where it has one: another
    /// snapshot, or another state of this one, has another.
    pub root_checksum: Option<u32>,
    /// When it was made, in seconds since 1970, where that is known.
    pub created_unix_s: Option<u64>,
    /// PAGE records that the save saw.
    pub normal_pages: u64,
    /// Pages that are not zero, where that is known.
    pub nonzero_pages: Option<u64>,
    /// Whether it is verified.
    pub verification: Verification,
}

/// What the parts of a snapshot are verified against.
#[derive(Debug)]
pub(crate) enum Proof {
    /// Against the root, which is verified, and what the header says of it and of where RAM lies.
    Root(Box<Root>, SnapshotExtension),
    /// Against nothing; why.
    None(&'static str),
}

impl Proof {
    pub(crate) fn root(&self) -> Option<&Root> {
        match self {
            Self::Root(root, _) => Some(root),
            Self::None(_) => None,
        }
    }

    pub(crate) fn root_checksum(&self) -> Option<u32> {
        match self {
            Self::Root(_, extension) => Some(extension.root_checksum),
            Self::None(_) => None,
        }
    }

    pub(crate) fn verification(&self) -> Verification {
        match self {
            Self::Root(..) => Verification::Verified,
            Self::None(why) => Verification::Unverified(why),
        }
    }
}

/// Reads one snapshot: an [`Opener`](crate::Opener), or [`open_with`](Self::open_with), makes it.
///
/// The sections before and behind RAM, the index of the pages and the tables that lead to them are verified
/// here, before anything of them is returned. **Pages are not read here, and who reads them verifies them:**
/// [`map`](Self::map) says where a page lies, and [`RamLayout::verify_page`] compares its bytes with the
/// checksum that [`present`](Self::present) returned for it.
#[derive(Debug)]
pub struct SnapshotReader {
    inbox: Inbox,
    disk: Disk,
    proof: Proof,
    snapshot: Snapshot,
    layout: RamLayout,
    index_pages: BTreeMap<u64, Vec<u8>>,
    leaves: BTreeMap<u64, Leaf>,
}

impl SnapshotReader {
    pub(crate) fn new(inbox: Inbox, disk: Disk, proof: Proof, snapshot: Snapshot, layout: RamLayout) -> Self {
        Self { inbox, disk, proof, snapshot, layout, index_pages: BTreeMap::new(), leaves: BTreeMap::new() }
    }

    /// Takes what a [`Lookup::Need`] asked for.
    pub fn supply(&mut self, at: HostOffset, bytes: &[u8]) {
        self.inbox.supply(at, bytes);
    }

    /// The snapshot, RAM aside.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Where RAM lies in the virtual disk.
    #[must_use]
    pub fn layout(&self) -> &RamLayout {
        &self.layout
    }

    /// Where RAM block number `block` of a [linear](crate::Layout::Linear) image begins in the file, a
    /// multiple of 2 MiB: its byte `x` lies at `x` behind, and the file has its whole length. `None` of a
    /// dense image, of one whose checksums do not count, and for a block that there is not.
    ///
    /// The tables say so as well, or reading them ends with [`ImageError::NotLinear`]; all of them have been
    /// read after [`finish`](Self::finish). What lies in the place of a zero page is not looked at here: a
    /// hole, unless the image was damaged or written by others.
    #[must_use]
    pub fn linear_base(&self, block: usize) -> Option<HostOffset> {
        self.disk.linear()?.base(block).map(HostOffset)
    }

    /// Where a range of the virtual disk lies in the file.
    ///
    /// # Errors
    ///
    /// `Damaged`, `Checksum`, `Foreign`; `Value` if it ends behind 2^64.
    pub fn map(&mut self, guest: GuestOffset, length: u64) -> Result<Lookup<Vec<Extent>>, ImageError> {
        self.disk.map(guest, length, &mut self.inbox)
    }

    /// The pages of `count` from `first` on that are not zero. Without checksums, those that have a place in
    /// the file: they may still be zero. Behind the end of RAM there are none.
    ///
    /// # Errors
    ///
    /// What is wrong with the index.
    pub fn present(&mut self, first: u64, count: u64) -> Result<Lookup<Vec<PresentPage>>, ImageError> {
        let page_size = u64::from(self.layout.page_size());
        let end = first.saturating_add(count).min(self.layout.total_bytes() / page_size);
        let mut found = Vec::new();
        if self.proof.root().is_none() {
            let bytes = end.saturating_sub(first) * page_size;
            for extent in ready!(self.map(GuestOffset(first.min(end) * page_size), bytes)?) {
                if extent.host.is_some() {
                    let start = extent.guest.0 / page_size;
                    let pages = start..start + extent.length / page_size;
                    found.extend(pages.map(|page| PresentPage { page, checksum: None }));
                }
            }
            return Ok(Lookup::Ready(found));
        }
        let mut page = first;
        while page < end {
            let number = page / LEAF_PAGES;
            let base = number * LEAF_PAGES;
            let to = end.min(base + LEAF_PAGES);
            let leaf = ready!(self.leaf(number)?);
            let pages = leaf.pages(to_usize(page - base), to_usize(to - base));
            let present = |(at, sum)| PresentPage { page: base + at as u64, checksum: Some(sum) };
            found.extend(pages.into_iter().map(present));
            page = to;
        }
        Ok(Lookup::Ready(found))
    }

    /// Verifies the QCOW2 tables that nothing needed so far. Until then a snapshot is not known to be whole.
    ///
    /// # Errors
    ///
    /// `Damaged`, `NotLinear`.
    pub fn finish(&mut self) -> Result<Lookup<()>, ImageError> {
        self.disk.finish(&mut self.inbox)
    }

    /// Asks the reader something, and gives it what it needs to answer, by `read` as in
    /// [`open_with`](Self::open_with): `reader.ask_with(read, |reader| reader.present(0, 512))`.
    ///
    /// # Errors
    ///
    /// What is wrong with the image, or what `read` returns.
    pub fn ask_with<T, E: From<ImageError>>(
        &mut self,
        mut read: impl FnMut(HostOffset, usize) -> Result<Vec<u8>, E>,
        mut question: impl FnMut(&mut Self) -> Result<Lookup<T>, ImageError>,
    ) -> Result<T, E> {
        loop {
            match question(self)? {
                Lookup::Ready(answer) => return Ok(answer),
                Lookup::Need(at, length) => self.supply(at, &read(at, length)?),
            }
        }
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
        let Some(root) = self.proof.root() else { return Ok(Lookup::Ready(Leaf::empty())) };
        let (uuid, index_page) = (root.uuid, number / LEAVES_PER_INDEX_PAGE);
        let entry = root.index_pages.get(to_usize(index_page)).copied().unwrap_or_default();
        if entry.offset == 0 {
            return Ok(Lookup::Ready(Leaf::empty()));
        }
        if !self.index_pages.contains_key(&index_page) {
            let bytes = ready!(self.read_part(entry, LEAVES_PER_INDEX_PAGE * ENTRY_BYTES as u64)?);
            check(&bytes, entry.checksum, "page index", entry.offset)?;
            if self.index_pages.len() >= LEAVES_KEPT {
                self.index_pages.clear();
            }
            self.index_pages.insert(index_page, bytes);
        }
        let place = to_usize(number % LEAVES_PER_INDEX_PAGE) * ENTRY_BYTES;
        let entry = self.index_pages[&index_page].get(place..).and_then(Entry::parse).unwrap_or_default();
        if entry.offset == 0 {
            return Ok(Lookup::Ready(Leaf::empty()));
        }
        let bytes = ready!(self.read_part(entry, LEAF_LIMIT_BYTES)?);
        check(&bytes, entry.checksum, "page checksums", entry.offset)?;
        let leaf = Leaf::decode(&bytes, number, &uuid)
            .ok_or(ImageError::NoSnapshot("a leaf of its page index is malformed"))?;
        Ok(Lookup::Ready(leaf))
    }

    /// Reads a part of the page index, which is no longer than `limit` bytes.
    fn read_part(&mut self, entry: Entry, limit: u64) -> Result<Lookup<Vec<u8>>, ImageError> {
        let found = u64::from(entry.length);
        if found > limit {
            return Err(ImageError::Limit { what: "part of the page index", found, limit });
        }
        self.disk.read(entry.offset, found, &mut self.inbox)
    }
}

pub(crate) fn check(bytes: &[u8], expected: u32, what: &'static str, at: u64) -> Result<(), ImageError> {
    let found = crc32c(bytes);
    if found != expected {
        return Err(ImageError::Checksum { what, at: GuestOffset(at), found, expected });
    }
    Ok(())
}
