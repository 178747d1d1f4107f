//! Which host page is sent next.

mod before;
mod zeros;

use super::PostcopySummary;
use super::context::Context;
use super::fetch::{Fetch, Looked, Window, look};
use super::host_pages::{HostPage, HostPages};
use super::pace::Pace;
use super::requests::Requests;
use crate::bits::Bits;
use crate::failure::Failure;
use crate::machine::{Action, IoId, Lane};
use crate::memory::OutOfMemory;
use migration_stream::protocol::ReceivedBitmap;
use snapshot_image::RamLayout;
use std::collections::VecDeque;
use std::ops::Range;

/// One background read covers up to this much RAM.
const FETCH_BYTES: u64 = 128 << 10;
/// Reads are started while buffers hold less than this.
const READ_AHEAD_BYTES: usize = 8 << 20;
/// And while there are fewer than this.
const FETCHES: usize = 64;
/// Requested pages are handed out while the driver has less than this: a peer that asks for
/// everything at once does not fill the memory.
const URGENT_BYTES: u64 = 1 << 20;
/// Requested pages that are read at once, for the same reason.
const URGENT_FETCHES: usize = 32;
/// RAM around a requested page that is sent next.
const NEIGHBOURHOOD_BYTES: u64 = 64 << 10;
/// Neighbourhoods that are kept; older ones are left to the walk.
const NEIGHBOURHOODS: usize = 16;

/// Everything between the image and the destination's memory.
#[derive(Debug)]
pub(crate) struct Serve {
    /// Where requested pages go.
    lane: Lane,
    /// Host pages that are sent, or on their way.
    claimed: Bits,
    /// Host pages that the destination has or will have without another word.
    pub(crate) sent: Bits,
    fetches: VecDeque<Fetch>,
    requests: Requests,
    near: VecDeque<Range<u64>>,
    pub(crate) pace: Pace,
    /// The walk through all of RAM.
    cursor: u64,
    total: u64,
    /// To be sent before the guest runs, zero pages too; in the order of RAM, since all of them
    /// come before it runs.
    hot: Bits,
    /// The first of these that has not been looked up.
    hot_cursor: u64,
    /// Non-zero pages that are still to be sent before the guest runs.
    share_pages: u64,
    pub(crate) nonzero_pages: u64,
    pub(crate) summary: PostcopySummary,
    /// Nothing is sent that was not requested.
    pub(crate) waits_for_requests: bool,
    /// Zero pages are sent, too, when everything else has been.
    pub(crate) sends_every_page: bool,
    /// The walk through all zero pages.
    zero_cursor: u64,
}

/// What came of looking for something to read.
enum Started {
    Yes,
    /// Nothing there; go on.
    No,
    /// Metadata is on its way.
    Wait,
}

impl Serve {
    pub(crate) fn new(pages: &HostPages, lane: Lane) -> Result<Self, OutOfMemory> {
        let total = pages.total();
        Ok(Self {
            lane,
            claimed: Bits::new(total)?,
            sent: Bits::new(total)?,
            fetches: VecDeque::new(),
            requests: Requests::new(total)?,
            near: VecDeque::new(),
            pace: Pace::default(),
            cursor: 0,
            total,
            hot: Bits::new(total)?,
            hot_cursor: 0,
            share_pages: 0,
            nonzero_pages: 0,
            summary: PostcopySummary::default(),
            waits_for_requests: false,
            sends_every_page: false,
            zero_cursor: 0,
        })
    }

    /// Looks at the window that begins at the cursor, and moves the cursor behind what was taken of it.
    fn start_window(&mut self, window: Window<'_>, with: &mut Context<'_>) -> Result<Started, Failure> {
        match look(window, with.pages, &mut self.claimed, with.image, with.pool)? {
            Looked::Need(at, length) => {
                with.output.actions.extend(with.image.read(at, length, with.pool)?);
                Ok(Started::Wait)
            }
            Looked::Nothing => {
                self.cursor = window.first.0 + window.count;
                Ok(Started::No)
            }
            Looked::Fetch { fetch, action, next } => {
                let whole = fetch.pages_left() < window.most;
                self.cursor = if whole { window.first.0 + window.count } else { next.0 };
                self.fetches.push_back(fetch);
                with.output.actions.push_back(action);
                Ok(Started::Yes)
            }
        }
    }

    /// Sends what is to be sent next while the guest runs.
    pub(crate) fn advance(&mut self, with: &mut Context<'_>) -> Result<bool, Failure> {
        let mut advanced = self.take_requests(with)?;
        advanced |= self.send_wanted(with)?;
        if self.waits_for_requests {
            return Ok(advanced);
        }
        let waited_for = self.fetches.iter().any(Fetch::is_wanted);
        let batch = self.pace.batch_bytes();
        if !waited_for && with.output.unsent_bytes(Lane::Main) < batch && self.send_batch(batch, with)? {
            self.pace.sent(batch);
            advanced = true;
        }
        if !advanced && self.sends_every_page && with.output.unsent_bytes(Lane::Main) < batch {
            advanced = self.send_zeros(with)?;
        }
        if let Some(bytes) = self.pace.change_of_pile() {
            with.output.actions.push_back(Action::LimitOutput { bytes });
        }
        // What is to leave first, or is waited for, is on its way before more is read.
        if !advanced && with.pool.taken_bytes() < READ_AHEAD_BYTES && self.fetches.len() < FETCHES {
            advanced = self.start_background(with)?;
        }
        Ok(advanced)
    }

    /// The destination waits for these.
    pub(crate) fn request(&mut self, range: Range<u64>) -> Result<(), OutOfMemory> {
        self.summary.requests += 1;
        self.requests.push(range)
    }

    fn take_requests(&mut self, with: &mut Context<'_>) -> Result<bool, Failure> {
        let mut advanced = false;
        while with.output.unsent_bytes(self.lane) < URGENT_BYTES
            && let Some(page) = self.requests.pop(&self.sent)
        {
            if self.claimed.has(page.0) {
                self.pace.requested(page.0, with.pages.bytes(page));
                self.fetches.iter_mut().any(|fetch| fetch.want(page));
                continue;
            }
            if self.fetches.iter().filter(|fetch| fetch.is_wanted()).count() >= URGENT_FETCHES {
                self.requests.put_back(page);
                break;
            }
            let window = Window { first: page, count: 1, only: None, most: 1 };
            match look(window, with.pages, &mut self.claimed, with.image, with.pool)? {
                Looked::Need(at, length) => {
                    with.output.actions.extend(with.image.read(at, length, with.pool)?);
                    self.requests.put_back(page);
                    break;
                }
                Looked::Nothing => {
                    self.claimed.insert(page.0)?;
                    self.summary.requested_host_pages += 1;
                    self.send_zero(page, self.lane, with)?;
                }
                Looked::Fetch { mut fetch, action, .. } => {
                    fetch.want(page);
                    self.fetches.push_front(fetch);
                    with.output.actions.push_back(action);
                }
            }
            self.pace.requested(page.0, with.pages.bytes(page));
            self.add_neighbourhood(page, with.pages);
            advanced = true;
        }
        Ok(advanced)
    }

    fn add_neighbourhood(&mut self, page: HostPage, pages: &HostPages) {
        let (block, _) = pages.locate(page);
        let block = pages.of_block(block);
        let count = NEIGHBOURHOOD_BYTES / block.bytes;
        if count > 1 && !self.waits_for_requests {
            let start = page.0 - (page.0 - block.first) % count;
            self.near.push_front(start..(start + count).min(block.first + block.count));
            self.near.truncate(NEIGHBOURHOODS);
        }
    }

    fn send_wanted(&mut self, with: &mut Context<'_>) -> Result<bool, Failure> {
        let mut advanced = false;
        for fetch in self.fetches.iter_mut().filter(|fetch| fetch.is_read()) {
            while with.output.unsent_bytes(self.lane) < URGENT_BYTES
                && let Some(page) = fetch.next_wanted()
            {
                self.sent.insert(page.0)?;
                self.summary.requested_host_pages += 1;
                with.emitter.begin(self.lane);
                fetch.put(page, self.lane, with)?;
                with.emitter.end(self.lane, with.output);
                advanced = true;
            }
        }
        if advanced {
            self.retire(with);
        }
        Ok(advanced)
    }

    /// Sends up to `bytes` of the first fetch that is there.
    fn send_batch(&mut self, bytes: u64, with: &mut Context<'_>) -> Result<bool, Failure> {
        let Some(fetch) = self.fetches.iter_mut().find(|fetch| fetch.is_read() && !fetch.is_sent()) else {
            return Ok(false);
        };
        let (block, _) = fetch.place();
        let mut left = bytes;
        with.emitter.begin(Lane::Main);
        while left > 0
            && let Some(page) = fetch.next_page()
        {
            self.sent.insert(page.0)?;
            fetch.put(page, Lane::Main, with)?;
            left = left.saturating_sub(with.pages.of_block(block).bytes);
        }
        with.emitter.end(Lane::Main, with.output);
        self.retire(with);
        Ok(true)
    }

    fn retire(&mut self, with: &mut Context<'_>) {
        self.fetches.retain(|fetch| {
            let sent = fetch.is_sent();
            if sent {
                with.output.release(fetch.buffer, with.pool);
            }
            !sent
        });
    }

    fn start_background(&mut self, with: &mut Context<'_>) -> Result<bool, Failure> {
        if let Some(range) = self.near.front().cloned() {
            let window = window(range, with.pages, u64::MAX);
            match look(window, with.pages, &mut self.claimed, with.image, with.pool)? {
                Looked::Need(at, length) => {
                    with.output.actions.extend(with.image.read(at, length, with.pool)?);
                    return Ok(false);
                }
                Looked::Nothing => {}
                Looked::Fetch { fetch, action, .. } => {
                    self.fetches.push_front(fetch);
                    with.output.actions.push_back(action);
                }
            }
            self.near.pop_front();
            return Ok(true);
        }
        if self.cursor >= self.total {
            return Ok(false);
        }
        let window = window(self.cursor..self.total, with.pages, u64::MAX);
        Ok(!matches!(self.start_window(window, with)?, Started::Wait))
    }

    /// The destination has these pages from the server before us.
    pub(crate) fn has_already(
        &mut self,
        block: usize,
        bitmap: &ReceivedBitmap,
        pages: &HostPages,
        layout: &RamLayout,
    ) -> Result<(), OutOfMemory> {
        let block = pages.of_block(block);
        let in_host_page = block.bytes / u64::from(layout.page_size());
        for page in 0..block.count {
            if (page * in_host_page..(page + 1) * in_host_page).all(|number| bitmap.has(number)) {
                self.claimed.insert(block.first + page)?;
                self.sent.insert(block.first + page)?;
            }
        }
        Ok(())
    }

    /// A read has ended: block and offset of what it brought; `None` if it is none of these.
    pub(crate) fn read_done(&mut self, id: IoId) -> Option<(usize, u64)> {
        self.fetches.iter_mut().find_map(|fetch| fetch.done(id).then(|| fetch.place()))
    }

    /// Every page that has to be sent has been handed out, and every request answered.
    pub(crate) fn is_complete(&self) -> Result<bool, Failure> {
        if self.cursor < self.total || !self.fetches.is_empty() || !self.requests.is_empty() {
            return Ok(false);
        }
        if self.sends_every_page && self.sent.count() < self.total {
            return Ok(false);
        }
        if self.claimed.count() != self.sent.count() {
            let (claimed, sent) = (self.claimed.count(), self.sent.count());
            return Err(Failure::PagesLost { claimed, sent });
        }
        Ok(true)
    }
}

/// The start of a range: as much of it as one read covers, in one block.
fn window(range: Range<u64>, pages: &HostPages, most: u64) -> Window<'static> {
    let first = HostPage(range.start);
    let (block, _) = pages.locate(first);
    let block = pages.of_block(block);
    let end = range.end.min(block.first + block.count);
    let count = (end - range.start).min((FETCH_BYTES / block.bytes).max(1));
    Window { first, count, only: None, most }
}
