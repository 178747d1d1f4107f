//! Host pages on their way from the disk: read together, sent one by one.

use super::context::Context;
use super::host_pages::{HostPage, HostPages};
use crate::bits::Bits;
use crate::failure::Failure;
use crate::machine::{Action, IoId, Lane};
use crate::pool::{BufferId, Pool};
use crate::revert::emit::verify;
use crate::revert::metadata::Image;
use crate::revert::plan::pieces;
use crate::revert::ring::SlicePage;
use crate::revert::wrong;
use crate::size::to_usize;
use snapshot_image::{HostOffset, Lookup, PresentPage};
use std::collections::VecDeque;

/// Host pages that one read brings.
#[derive(Debug)]
pub(crate) struct Fetch {
    block: usize,
    /// Byte offset of the buffer's start in the block.
    offset: u64,
    /// Pages that are there, with their places in the buffer.
    present: Vec<SlicePage>,
    /// What is to be sent, in order.
    pages: VecDeque<HostPage>,
    /// Of these, what the destination waits for.
    wanted: VecDeque<HostPage>,
    reading: Option<IoId>,
    pub(crate) buffer: BufferId,
}

/// What there is in a range of RAM.
#[derive(Debug)]
pub(crate) enum Looked {
    /// The image needs this part of its metadata first.
    Need(HostOffset, usize),
    /// Zero pages, or host pages that have been sent already.
    Nothing,
    /// This is to be read; it ends before `next`.
    Fetch { fetch: Fetch, action: Action, next: HostPage },
}

/// A range of host pages of one block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) first: HostPage,
    pub(crate) count: u64,
    /// Take only these.
    pub(crate) only: Option<&'a Bits>,
    /// Take no more than this many that are not zero.
    pub(crate) most: u64,
}

/// Looks for host pages with content that are not in `claimed`, and adds them there.
pub(crate) fn look(
    window: Window<'_>,
    pages: &HostPages,
    claimed: &mut Bits,
    image: &mut Image,
    pool: &mut Pool,
) -> Result<Looked, Failure> {
    let layout = image.reader.layout();
    let page_bytes = u64::from(layout.page_size());
    let (block, start) = pages.locate(window.first);
    let bytes = pages.of_block(block).bytes;
    let start_guest = layout.guest(block, start);
    let first_page = layout.page(start_guest);
    let found = match image.reader.present(first_page, window.count * (bytes / page_bytes)).map_err(wrong)? {
        Lookup::Need(at, length) => return Ok(Looked::Need(at, length)),
        Lookup::Ready(found) => found,
    };
    let host_page =
        |page: &PresentPage| HostPage(window.first.0 + (page.page - first_page) * page_bytes / bytes);
    let mut wanted: VecDeque<HostPage> = VecDeque::new();
    for page in found.iter().map(host_page) {
        let is_asked_for = window.only.is_none_or(|only| only.has(page.0));
        if wanted.back() != Some(&page) && is_asked_for && !claimed.has(page.0) {
            if wanted.len() as u64 >= window.most {
                break;
            }
            wanted.push_back(page);
        }
    }
    let (Some(&first), Some(&last)) = (wanted.front(), wanted.back()) else { return Ok(Looked::Nothing) };
    // The buffer begins with the first of them.
    let skipped = (first.0 - window.first.0) * bytes;
    let base = first_page + skipped / page_bytes;
    let present: Vec<SlicePage> = found
        .iter()
        .filter(|page| wanted.binary_search(&host_page(page)).is_ok())
        .map(|page| SlicePage { at: page.page - base, checksum: page.checksum })
        .collect();
    let guest = snapshot_image::GuestOffset(start_guest.0 + skipped);
    let pieces = match pieces(&present, page_bytes, guest, &mut image.reader).map_err(wrong)? {
        Lookup::Need(at, length) => return Ok(Looked::Need(at, length)),
        Lookup::Ready(pieces) => pieces,
    };
    let buffer = pool.take(to_usize((last.0 - first.0 + 1) * bytes))?;
    for page in &wanted {
        claimed.insert(page.0)?;
    }
    let id = image.reads.ids.next();
    let fetch = Fetch {
        block,
        offset: start + skipped,
        present,
        pages: wanted,
        wanted: VecDeque::new(),
        reading: Some(id),
        buffer,
    };
    Ok(Looked::Fetch { fetch, action: Action::Read { id, buffer, pieces }, next: HostPage(last.0 + 1) })
}

impl Fetch {
    /// The read has ended; false if it is not this one's.
    pub(crate) fn done(&mut self, id: IoId) -> bool {
        self.reading.take_if(|reading| *reading == id).is_some()
    }

    /// Its bytes are there.
    pub(crate) fn is_read(&self) -> bool {
        self.reading.is_none()
    }

    /// Everything has been handed out.
    pub(crate) fn is_sent(&self) -> bool {
        self.pages.is_empty()
    }

    /// Host pages that are still to be handed out.
    pub(crate) fn pages_left(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Target pages with content.
    pub(crate) fn present_pages(&self) -> u64 {
        self.present.len() as u64
    }

    /// Where it begins: block and byte offset.
    pub(crate) fn place(&self) -> (usize, u64) {
        (self.block, self.offset)
    }

    /// The destination waits for this page; false if it is not here.
    pub(crate) fn want(&mut self, page: HostPage) -> bool {
        let here = self.pages.binary_search(&page).is_ok();
        if here && !self.wanted.contains(&page) {
            self.wanted.push_back(page);
        }
        here
    }

    /// The destination waits for one of these pages.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Takes the next page that is waited for.
    pub(crate) fn next_wanted(&mut self) -> Option<HostPage> {
        let page = self.wanted.pop_front()?;
        if let Ok(at) = self.pages.binary_search(&page) {
            self.pages.remove(at);
        }
        Some(page)
    }

    /// Takes the next page in order.
    pub(crate) fn next_page(&mut self) -> Option<HostPage> {
        let page = self.pages.pop_front()?;
        self.wanted.retain(|wanted| *wanted != page);
        Some(page)
    }

    /// Hands out a host page, verified.
    pub(crate) fn put(&self, page: HostPage, lane: Lane, with: &mut Context<'_>) -> Result<(), Failure> {
        let (pages, layout) = (with.pages, with.image.reader.layout());
        let page_bytes = u64::from(layout.page_size());
        let (block, start) = pages.locate(page);
        let name = &layout.blocks()[block].name;
        let base = layout.page(layout.guest(self.block, self.offset));
        let in_host_page = pages.of_block(block).bytes / page_bytes;
        let first = (start - self.offset) / page_bytes;
        let from = self.present.partition_point(|page| page.at < first);
        let mut present = self.present[from..].iter().peekable();
        for number in 0..in_host_page {
            let found = present.next_if(|page| page.at == first + number);
            if let Some(page) = found {
                verify(page, base, self.buffer, layout, with.pool)?;
            }
            let body = found.and_then(|page| with.emitter.body(page, self.buffer, with.pool));
            with.emitter.page(lane, (block, name), start + number * page_bytes, body, with.output);
        }
        Ok(())
    }
}
