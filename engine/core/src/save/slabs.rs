//! Pages gathered into slabs before they are written.
//!
//! QEMU sends pages one by one, in any order and any number of times; a disk wants few and large
//! writes. A *slab* is a range of the virtual disk of one cluster, at least [`MIN_SLAB_BYTES`].
//! Pages collect in a slab's buffer; a full slab is written at once, others when room is needed.
//! Slabs are open where QEMU's walk through RAM is; pages from elsewhere wait in the [`Stage`]
//! until the walk reaches their slab, or until they are many. What a slab wrote can be read back:
//! an XBZRLE delta needs the page before it, and pages smaller than a disk block share theirs with
//! neighbours.

use super::could_not;
use super::stage::Stage;
use crate::failure::Failure;
use crate::ids::Ids;
use crate::machine::{Action, IoId, Piece};
use crate::memory::OutOfMemory;
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use crate::size::to_usize;
use snapshot_image::{GuestOffset, HostOffset, ImageError, Layout, PageIndex, SnapshotWriter};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Slabs are at least this large: measured, coalescing to 1 MiB matters more to a save than anything else.
const MIN_SLAB_BYTES: u64 = 1 << 20;
/// Gaps of zero pages up to this size are written rather than split a write in two, except in a linear image,
/// where what is zero is a hole.
const GAP_BYTES: usize = 64 << 10;

/// A slab with this many pages waiting is opened.
const OPENING_PAGES: usize = 64;
/// This part of the memory is for open slabs and those on their way to the disk, the rest for single pages.
const SLAB_PART: usize = 4;

/// One bit per page of a slab.
#[derive(Debug)]
struct PageSet {
    words: Box<[u64]>,
    count: usize,
}

impl PageSet {
    fn new(pages: usize) -> Self {
        Self { words: vec![0; pages.div_ceil(64)].into(), count: 0 }
    }

    fn contains(&self, page: usize) -> bool {
        self.words[page / 64] >> (page % 64) & 1 == 1
    }

    fn insert(&mut self, page: usize) {
        let bit = 1 << (page % 64);
        self.count += usize::from(self.words[page / 64] & bit == 0);
        self.words[page / 64] |= bit;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Pages may be put in.
    Open,
    /// Waits for, or is in, a write; its buffer is the disk's.
    Writing,
    /// Waits for, or is in, a read of what it wrote earlier into the second buffer.
    Loading(BufferId),
}

#[derive(Debug)]
struct Slab {
    buffer: BufferId,
    /// Pages whose content is in the buffer.
    valid: PageSet,
    state: State,
    /// The rest of the slab was read back: it is whole without having been sent whole.
    loaded: bool,
    last_use: u64,
}

/// A place for one page in a slab's buffer, or a reason to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Put the page here, then call [`Slabs::stored`].
    Ready(BufferId, Range<usize>),
    /// Ask again after the next completion.
    Wait,
}

/// The slabs in memory, and which ones are on disk.
#[derive(Debug)]
pub(crate) struct Slabs {
    slab_bytes: u64,
    page_bytes: usize,
    cluster_bytes: u64,
    layout: Layout,
    limit: usize,
    cached: BTreeMap<u64, Slab>,
    stage: Stage,
    /// Where the source's walk was seen last.
    walk: GuestOffset,
    /// Everything is to go to disk.
    flushing: bool,
    on_disk: Vec<u64>,
    queue: VecDeque<u64>,
    in_flight: BTreeMap<IoId, u64>,
    clock: u64,
}

impl Slabs {
    /// Slabs for the clusters of this writer, in about `memory_bytes`.
    pub(crate) fn new(page_bytes: u32, writer: &SnapshotWriter, memory_bytes: usize) -> Self {
        let cluster_bytes = writer.cluster_size();
        let slab_bytes = cluster_bytes.max(MIN_SLAB_BYTES);
        Self {
            slab_bytes,
            page_bytes: page_bytes as usize,
            cluster_bytes,
            layout: writer.layout(),
            limit: to_usize((memory_bytes / SLAB_PART) as u64 / slab_bytes).max(4),
            cached: BTreeMap::new(),
            stage: Stage::new(page_bytes as usize, memory_bytes - memory_bytes / SLAB_PART),
            walk: GuestOffset(0),
            flushing: false,
            on_disk: Vec::new(),
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            clock: 0,
        }
    }

    fn slab_len(&self) -> usize {
        // A slab is a few MiB at the most.
        to_usize(self.slab_bytes)
    }

    fn is_on_disk(&self, slab: u64) -> bool {
        self.on_disk.get(to_usize(slab / 64)).is_some_and(|word| word >> (slab % 64) & 1 == 1)
    }

    fn set_on_disk(&mut self, slab: u64) {
        let at = to_usize(slab / 64);
        if at >= self.on_disk.len() {
            self.on_disk.resize(at + 1, 0);
        }
        self.on_disk[at] |= 1 << (slab % 64);
    }

    /// Where the page at `guest` goes. With `content`, the place holds the page's present content.
    pub(crate) fn place(
        &mut self,
        pool: &mut Pool,
        guest: GuestOffset,
        content: bool,
    ) -> Result<Place, OutOfMemory> {
        let number = guest.0 / self.slab_bytes;
        let start = to_usize(guest.0 % self.slab_bytes);
        let range = start..start + self.page_bytes;
        let page = start / self.page_bytes;
        self.clock += 1;
        if let Some((buffer, range)) = self.stage.find(number, page) {
            return Ok(Place::Ready(buffer, range));
        }
        let small_pages = self.page_bytes < BUFFER_ALIGNMENT_BYTES;
        let needs_slab = content || small_pages;
        let on_walk = self.walk.0.abs_diff(guest.0) <= self.slab_bytes;
        let many = self.stage.count(number) + 1 >= OPENING_PAGES;
        let may_open = needs_slab || on_walk || many;
        if !self.cached.contains_key(&number) && may_open && !self.open(pool, number)? {
            return Ok(Place::Wait);
        }
        let on_disk = self.is_on_disk(number);
        let (clock, length) = (self.clock, self.slab_len());
        let slab = match self.cached.get_mut(&number) {
            Some(slab) if slab.state == State::Open => slab,
            Some(_) if needs_slab => return Ok(Place::Wait),
            _ => return self.place_alone(pool, number, page),
        };
        slab.last_use = clock;
        if on_walk || many {
            self.walk = guest;
        }
        if !slab.valid.contains(page) {
            if on_disk && (content || small_pages) {
                slab.state = State::Loading(pool.take(length)?);
                self.queue.push_back(number);
                return Ok(Place::Wait);
            }
            if content {
                pool.bytes_mut(slab.buffer)[range.clone()].fill(0);
            }
        }
        Ok(Place::Ready(slab.buffer, range))
    }

    /// A place for a page that has no open slab. Where there is none left, the slab with the most
    /// waiting pages goes.
    fn place_alone(&mut self, pool: &mut Pool, number: u64, page: usize) -> Result<Place, OutOfMemory> {
        if let Some((buffer, range)) = self.stage.add(pool, number, page)? {
            return Ok(Place::Ready(buffer, range));
        }
        let Some(fullest) = self.stage.fullest().find(|slab| !self.cached.contains_key(slab)) else {
            return Ok(Place::Wait);
        };
        if !self.open(pool, fullest)? {
            return Ok(Place::Wait);
        }
        self.request_write(fullest);
        Ok(match self.stage.add(pool, number, page)? {
            Some((buffer, range)) => Place::Ready(buffer, range),
            None => Place::Wait,
        })
    }

    /// Opens a slab, with the pages that wait for it, if there is room; else, and when room gets
    /// short, sends the longest unused one to disk.
    fn open(&mut self, pool: &mut Pool, number: u64) -> Result<bool, OutOfMemory> {
        let open = self.cached.values().filter(|slab| slab.state == State::Open).count();
        if open > self.limit / 2
            && let Some((&oldest, _)) = self
                .cached
                .iter()
                .filter(|(_, slab)| slab.state == State::Open)
                .min_by_key(|(_, slab)| slab.last_use)
        {
            self.request_write(oldest);
        }
        if self.cached.len() >= self.limit {
            return Ok(false);
        }
        let buffer = pool.take(self.slab_len())?;
        let mut valid = PageSet::new(self.slab_len() / self.page_bytes);
        for page in self.stage.move_to(pool, number, buffer) {
            valid.insert(page);
        }
        let slab = Slab { buffer, valid, state: State::Open, loaded: false, last_use: self.clock };
        self.cached.insert(number, slab);
        Ok(true)
    }

    fn request_write(&mut self, number: u64) {
        if let Some(slab) = self.cached.get_mut(&number)
            && slab.state == State::Open
        {
            slab.state = State::Writing;
            self.queue.push_back(number);
        }
    }

    /// The page at `guest` has been put into its place.
    pub(crate) fn stored(&mut self, guest: GuestOffset) {
        let number = guest.0 / self.slab_bytes;
        let page = to_usize(guest.0 % self.slab_bytes) / self.page_bytes;
        let pages = self.slab_len() / self.page_bytes;
        if let Some(slab) = self.cached.get_mut(&number) {
            slab.valid.insert(page);
            if slab.valid.count == pages && !slab.loaded {
                self.request_write(number);
            }
        }
    }

    /// Sends every slab to disk; single pages follow when [`Self::poll`] finds room for theirs.
    pub(crate) fn flush(&mut self) {
        self.flushing = true;
        let open: Vec<u64> =
            self.cached.iter().filter(|(_, slab)| slab.state == State::Open).map(|(&n, _)| n).collect();
        open.into_iter().for_each(|number| self.request_write(number));
    }

    /// Nothing is in memory or under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.cached.is_empty() && self.stage.is_empty()
    }

    /// Forgets every page that is not in the hands of the disk: the save has failed.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        self.queue.clear();
        self.stage.release(pool);
        let busy: Vec<u64> = self.in_flight.values().copied().collect();
        self.cached.retain(|number, slab| {
            if busy.contains(number) {
                return true;
            }
            pool.release(slab.buffer);
            if let State::Loading(second) = slab.state {
                pool.release(second);
            }
            false
        });
    }

    /// The next disk operation that may start.
    pub(crate) fn poll(
        &mut self,
        pool: &mut Pool,
        writer: &mut SnapshotWriter,
        index: &PageIndex,
        ids: &mut Ids,
    ) -> Result<Option<Action>, Failure> {
        if self.flushing {
            while let Some(first) = self.stage.first().filter(|slab| !self.cached.contains_key(slab))
                && self.open(pool, first)?
            {
                self.request_write(first);
            }
            if self.stage.is_empty() {
                self.stage.release(pool);
            }
        }
        while let Some(number) = self.queue.pop_front() {
            let Some(slab) = self.cached.get(&number) else { continue };
            let id = ids.next();
            let action = if let State::Loading(buffer) = slab.state {
                // Every cluster of a slab on disk that was never written reads as the zeros it
                // stands for; asking for its place allocates it in a dense image, which small pages
                // and XBZRLE (old, rare) can afford.
                let place = |guest| writer.linear_host(guest).map_or_else(|| writer.host(guest), Ok);
                let pieces =
                    pieces(place, number * self.slab_bytes, self.cluster_bytes, Some(0..self.slab_len()))
                        .map_err(could_not)?;
                Action::Read { id, buffer, pieces }
            } else {
                let buffer = slab.buffer;
                let first = number * self.slab_bytes / self.page_bytes as u64;
                // Those that have not come yet among them.
                let is_zero = |page: usize| index.get(first + page as u64).is_none();
                let gaps = match self.layout {
                    Layout::Dense => Gaps::Fill(GAP_BYTES),
                    Layout::Linear if self.is_on_disk(number) => Gaps::Fill(0),
                    Layout::Linear => Gaps::Holes,
                };
                let runs = runs(&slab.valid, self.page_bytes, pool.bytes_mut(buffer), gaps, is_zero);
                if runs.is_empty() {
                    pool.release(buffer);
                    self.cached.remove(&number);
                    continue;
                }
                let place = |guest| writer.host(guest);
                let pieces =
                    pieces(place, number * self.slab_bytes, self.cluster_bytes, runs).map_err(could_not)?;
                self.set_on_disk(number);
                Action::Write { id, buffer, pieces }
            };
            self.in_flight.insert(id, number);
            return Ok(Some(action));
        }
        Ok(None)
    }

    /// Records a completion that went well; false if the operation is not one of these.
    pub(crate) fn done(&mut self, id: IoId, pool: &mut Pool) -> bool {
        let Some(number) = self.in_flight.remove(&id) else { return false };
        let page_bytes = self.page_bytes;
        let pages = self.slab_len() / page_bytes;
        if let Some(slab) = self.cached.get_mut(&number) {
            if let State::Loading(second) = slab.state {
                let (from, to) = pool.pair(second, slab.buffer);
                for page in (0..pages).filter(|&page| !slab.valid.contains(page)) {
                    let range = page * page_bytes..(page + 1) * page_bytes;
                    to[range.clone()].copy_from_slice(&from[range]);
                }
                (0..pages).for_each(|page| slab.valid.insert(page));
                pool.release(second);
                slab.state = State::Open;
                slab.loaded = true;
            } else {
                pool.release(slab.buffer);
                self.cached.remove(&number);
            }
        }
        true
    }
}

/// What is to be done with pages that are zero.
#[derive(Debug, Clone, Copy)]
enum Gaps {
    /// Those between two runs are written if they have no more bytes than this; so are those that were not
    /// zero before, and may be on disk.
    Fill(usize),
    /// None was written before, and none is written now.
    Holes,
}

/// The byte ranges of a slab's buffer to be written: the valid pages, and those that are zero as `gaps` says.
fn runs(
    valid: &PageSet,
    page_bytes: usize,
    bytes: &mut [u8],
    gaps: Gaps,
    is_zero: impl Fn(usize) -> bool,
) -> Vec<Range<usize>> {
    let (gap_bytes, holes) = match gaps {
        Gaps::Fill(bytes) => (bytes, false),
        Gaps::Holes => (0, true),
    };
    let mut runs: Vec<Range<usize>> = Vec::new();
    let is_written = |&page: &usize| valid.contains(page) && !(holes && is_zero(page));
    for page in (0..bytes.len() / page_bytes).filter(is_written) {
        let start = page * page_bytes;
        // Pages that share a disk block are written together: each of two runs would write over the other.
        let shares_block =
            |run: &Range<usize>| (run.end - 1) / BUFFER_ALIGNMENT_BYTES == start / BUFFER_ALIGNMENT_BYTES;
        match runs.last_mut() {
            Some(run)
                if (start - run.end <= gap_bytes || shares_block(run))
                    && (run.end / page_bytes..page).all(&is_zero) =>
            {
                bytes[run.end..start].fill(0);
                run.end = start + page_bytes;
            }
            _ => runs.push(start..start + page_bytes),
        }
    }
    // The rest of a disk block belongs to pages that have not come: where one had, the slab would
    // have been read back.
    for run in &mut runs {
        let whole =
            run.start - run.start % BUFFER_ALIGNMENT_BYTES..run.end.next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        bytes[whole.start..run.start].fill(0);
        bytes[run.end..whole.end].fill(0);
        *run = whole;
    }
    runs
}

/// Maps ranges of a slab's buffer to the image file, cluster by cluster; neighbours in both become one piece.
fn pieces(
    mut place: impl FnMut(GuestOffset) -> Result<HostOffset, ImageError>,
    slab_start: u64,
    cluster_bytes: u64,
    runs: impl IntoIterator<Item = Range<usize>>,
) -> Result<Vec<Piece>, ImageError> {
    let mut pieces: Vec<Piece> = Vec::new();
    for run in runs {
        let mut start = run.start;
        while start < run.end {
            let guest = slab_start + start as u64;
            let in_cluster = guest % cluster_bytes;
            let end = run.end.min(start + to_usize(cluster_bytes - in_cluster));
            let at = HostOffset(place(GuestOffset(guest - in_cluster))?.0 + in_cluster);
            match pieces.last_mut() {
                Some(last) if last.range.end == start && last.at.0 + (last.range.len() as u64) == at.0 => {
                    last.range.end = end
                }
                _ => pieces.push(Piece { at, range: start..end }),
            }
            start = end;
        }
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests;
