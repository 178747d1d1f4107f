//! Puts page records into the image.

use super::leader::Leader;
use super::slabs::{Place, Slabs};
use crate::failure::Failure;
use crate::ids::Ids;
use crate::machine::{Action, IoId};
use crate::memory::OutOfMemory;
use crate::pool::{BufferId, Pool};
use crate::size::to_usize;
use crate::zero::is_zero;
use migration_stream::{Error, ErrorKind, Page, PageContent, compressed, xbzrle};
use snapshot_image::{
    ImageError, PageIndex, PresentPage, RamLayout, Reserved, SnapshotWriter, Steps, VmState, crc32c,
};
use std::ops::Range;
use std::sync::Arc;

const FIRST_CAPACITY: usize = 512 << 10;
/// Root, index pages, and the rest.
const MORE_BYTES: usize = 1 << 20;

/// What a record says of its page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    /// The page itself.
    Page,
    /// A delta against the page's present content.
    Xbzrle,
    /// One zlib stream.
    Compressed,
}

/// One page record; its data is a range of the input buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageUpdate {
    pub(crate) block: usize,
    /// Byte offset in the block.
    pub(crate) offset: u64,
    pub(crate) content: Content,
    pub(crate) data: Range<usize>,
    /// Where the record is in the stream.
    pub(crate) at: u64,
}

impl PageUpdate {
    /// The update by a record that is at offset `at` of the stream, and ends at `end` of the input buffer.
    pub(crate) fn new(page: &Page<'_>, end: usize, at: u64) -> Self {
        let content = match page.content {
            PageContent::Zero => Content::Zero,
            PageContent::Raw(_) => Content::Page,
            PageContent::Xbzrle(_) => Content::Xbzrle,
            PageContent::Zlib(_) => Content::Compressed,
        };
        let data = end - page.content.bytes().len()..end;
        Self { block: page.block, offset: page.offset, content, data, at }
    }
}

/// The RAM part of a save.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) writer: SnapshotWriter,
    pub(crate) layout: RamLayout,
    pub(crate) index: PageIndex,
    slabs: Slabs,
    /// PAGE records seen, repeats counted.
    pub(crate) normal_pages: u64,
}

impl Store {
    pub(crate) fn new(writer: SnapshotWriter, layout: RamLayout, memory_bytes: usize) -> Self {
        let page_size = layout.page_size();
        Self {
            slabs: Slabs::new(page_size, &writer, memory_bytes),
            index: PageIndex::new(),
            writer,
            layout,
            normal_pages: 0,
        }
    }

    /// Applies a record whose data lies in `input`; false: not yet, ask again after the next completion.
    pub(crate) fn apply(
        &mut self,
        update: &PageUpdate,
        input: BufferId,
        pool: &mut Pool,
    ) -> Result<bool, Failure> {
        let guest = self.layout.guest(update.block, update.offset);
        let page = self.layout.page(guest);
        let was_there = self.index.get(page);
        let is_zero_page = match update.content {
            Content::Zero => true,
            Content::Page => is_zero(&pool.bytes(input)[update.data.clone()]),
            Content::Xbzrle | Content::Compressed => false,
        };
        if is_zero_page && was_there.is_none() {
            // It is zero already, in memory and on disk: new space of the image reads as zeros.
            return Ok(true);
        }
        if !self.index.can_hold(page) {
            return Err(OutOfMemory::new("the checksums of pages", 4 << 10).into());
        }
        let needs_content = update.content == Content::Xbzrle && was_there.is_some();
        let Place::Ready(buffer, range) = self.slabs.place(pool, guest, needs_content)? else {
            return Ok(false);
        };
        let (from, to) = pool.pair(input, buffer);
        let (data, to) = (&from[update.data.clone()], &mut to[range]);
        match update.content {
            Content::Zero => to.fill(0),
            Content::Page => to.copy_from_slice(data),
            Content::Compressed => compressed::inflate(data, to).map_err(|kind| at(update, kind))?,
            Content::Xbzrle => {
                match was_there {
                    Some(_) => {
                        let present = PresentPage { page, checksum: was_there };
                        self.layout.verify_page(&present, to).map_err(super::could_not)?;
                    }
                    None => to.fill(0),
                }
                xbzrle::decode(data, to).map_err(|kind| at(update, kind))?;
            }
        }
        if is_zero_page || is_zero(to) {
            self.index.clear(page);
        } else {
            self.index.set(page, crc32c(to));
        }
        self.slabs.stored(guest);
        Ok(true)
    }

    /// Memory that the VM state's place and the image's tables take while they are written, at the most.
    pub(crate) fn reserve_bytes(&self, leader: &Leader) -> usize {
        let tables = to_usize(self.layout.total_bytes() / self.writer.cluster_size());
        // Written as one area, and cut into writes; an entry of 8 bytes a cluster, and what refers
        // to a leaf of checksums.
        2 * (leader.length() + FIRST_CAPACITY) + tables.saturating_mul(16) + MORE_BYTES
    }

    /// RAM is complete: reserves space for the VM state.
    pub(crate) fn reserve(self, vm_state: VmState) -> Result<(Reserved, Steps), ImageError> {
        let pages = Arc::new(self.index);
        self.writer.reserve(vm_state, &self.layout, &pages, super::tail::FIRST_CAPACITY_BYTES)
    }

    /// Begins to send everything to disk.
    pub(crate) fn flush(&mut self) {
        self.slabs.flush();
    }

    /// Everything has been written (not: made durable).
    pub(crate) fn is_idle(&self) -> bool {
        self.slabs.is_idle()
    }

    /// Nothing more is to be written.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        self.slabs.abandon(pool);
    }

    /// The next disk operation.
    pub(crate) fn poll(&mut self, pool: &mut Pool, ids: &mut Ids) -> Result<Option<Action>, Failure> {
        self.slabs.poll(pool, &mut self.writer, &self.index, ids)
    }

    /// Records a completion, good or bad; false if the operation is not one of these.
    pub(crate) fn done(&mut self, id: IoId, pool: &mut Pool) -> bool {
        self.slabs.done(id, pool)
    }
}

fn at(update: &PageUpdate, kind: ErrorKind) -> Error {
    Error { offset: update.at, path: "page record".to_owned(), kind }
}
