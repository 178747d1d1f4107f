//! Walks RAM in the order of the block list and cuts it into slices: which pages exist, and where they are.

use super::mapped::Sent;
use super::ring::{Slice, SlicePage};
use crate::ids::Ids;
use crate::machine::{Action, IoId, Piece};
use crate::memory::OutOfMemory;
use crate::pool::{BUFFER_ALIGNMENT_BYTES, Pool};
use crate::size::to_usize;
use snapshot_image::{GuestOffset, HostOffset, ImageError, Lookup, RamLayout, SnapshotReader};
use std::ops::Range;

/// The longest range of RAM that one slice covers with pages in it: what is read, verified and sent
/// stays in a processor's cache.
const SLICE_BYTES: u64 = 256 << 10;
/// The longest run of zero pages in one slice, in pages.
const ZERO_RUN_PAGES: u64 = 1 << 16;
/// Zero pages in between are read along if there are no more than this many bytes of them.
const GAP_BYTES: u64 = 32 << 10;

/// Where the walk is.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    block: usize,
    offset: u64,
}

/// The next step of the walk.
#[derive(Debug)]
pub(crate) enum Planned {
    /// A slice, with its read if it has pages.
    Slice(Slice, Option<(IoId, Action)>),
    /// The image needs this part of its metadata first.
    Need(HostOffset, usize),
    /// There is none for the slice's pages.
    NoMemory(OutOfMemory),
    /// All of RAM has been walked.
    End,
}

impl Plan {
    /// Cuts the next slice.
    pub(crate) fn next(
        &mut self,
        sent: &Sent,
        reader: &mut SnapshotReader,
        pool: &mut Pool,
        ids: &mut Ids,
    ) -> Result<Planned, ImageError> {
        let Some(end) = self.seek(sent, reader.layout()) else { return Ok(Planned::End) };
        let layout = reader.layout();
        let page_bytes = u64::from(layout.page_size());
        let guest = layout.guest(self.block, self.offset);
        let first_page = layout.page(guest);
        let left = (end - self.offset) / page_bytes;
        // Slices end at multiples of their size, so that their reads are aligned, too.
        let in_slice = (SLICE_BYTES - guest.0 % SLICE_BYTES) / page_bytes;
        let (present, pages) = match reader.present(first_page, left.min(in_slice))? {
            Lookup::Need(at, length) => return Ok(Planned::Need(at, length)),
            Lookup::Ready(present) => (present, left.min(in_slice)),
        };
        let mut slice =
            Slice { block: self.block, offset: self.offset, pages, present: Vec::new(), buffer: None };
        if present.is_empty() {
            slice.pages = self.zero_run(first_page, pages, left, reader)?;
            self.offset += slice.pages * page_bytes;
            return Ok(Planned::Slice(slice, None));
        }
        slice.present = present
            .iter()
            .map(|page| SlicePage { at: page.page - first_page, checksum: page.checksum })
            .collect();
        let pieces = match pieces(&slice.present, page_bytes, guest, reader)? {
            Lookup::Need(at, length) => return Ok(Planned::Need(at, length)),
            Lookup::Ready(pieces) => pieces,
        };
        let buffer_bytes = to_usize(pages * page_bytes).next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        let buffer = match pool.take(buffer_bytes) {
            Ok(buffer) => buffer,
            Err(error) => return Ok(Planned::NoMemory(error)),
        };
        slice.buffer = Some(buffer);
        self.offset += pages * page_bytes;
        let id = ids.next();
        Ok(Planned::Slice(slice, Some((id, Action::Read { id, buffer, pieces }))))
    }

    /// Goes to the next byte that is sent; returns where the range ends that begins there.
    fn seek(&mut self, sent: &Sent, layout: &RamLayout) -> Option<u64> {
        loop {
            let range = sent.from(self.block, self.offset, layout.blocks().get(self.block)?.used_length);
            if !range.is_empty() {
                self.offset = range.start;
                return Some(range.end);
            }
            *self = Self { block: self.block + 1, offset: 0 };
        }
    }

    /// Prolongs a run of zero pages over the following slices, as far as that is known without reading.
    fn zero_run(
        &self,
        first: u64,
        pages: u64,
        left: u64,
        reader: &mut SnapshotReader,
    ) -> Result<u64, ImageError> {
        let end = left.min(ZERO_RUN_PAGES);
        let least = pages.max(1);
        let (mut run, mut step) = (pages, least);
        while run < end {
            // Doubling the step keeps the number of look-ups small in a long run. Its end is
            // searched in single steps again.
            let more = step.min((end - run).next_multiple_of(least)).min(left - run);
            match reader.present(first + run, more)? {
                Lookup::Ready(present) if present.is_empty() => {
                    run += more;
                    step *= 2;
                }
                _ if step > least => step = least,
                _ => break,
            }
        }
        Ok(run)
    }
}

/// The reads that bring the present pages of a slice at `guest` to their places.
pub(crate) fn pieces(
    present: &[SlicePage],
    page_bytes: u64,
    guest: GuestOffset,
    reader: &mut SnapshotReader,
) -> Result<Lookup<Vec<Piece>>, ImageError> {
    let align = BUFFER_ALIGNMENT_BYTES as u64;
    let mut runs: Vec<Range<u64>> = Vec::new();
    for page in present {
        let start = page.at * page_bytes;
        let (start, end) = (start - start % align, (start + page_bytes).next_multiple_of(align));
        match runs.last_mut() {
            Some(run) if start <= run.end + GAP_BYTES => run.end = end,
            _ => runs.push(start..end),
        }
    }
    let mut pieces: Vec<Piece> = Vec::new();
    for run in runs {
        let extents = match reader.map(GuestOffset(guest.0 + run.start), run.end - run.start)? {
            Lookup::Need(at, length) => return Ok(Lookup::Need(at, length)),
            Lookup::Ready(extents) => extents,
        };
        for extent in extents {
            let Some(host) = extent.host else { continue };
            let start = to_usize(extent.guest.0 - guest.0);
            let range = start..start + to_usize(extent.length);
            match pieces.last_mut() {
                Some(last)
                    if last.range.end == range.start && last.at.0 + (last.range.len() as u64) == host.0 =>
                {
                    last.range.end = range.end;
                }
                _ => pieces.push(Piece { at: host, range }),
            }
        }
    }
    Ok(Lookup::Ready(pieces))
}
