//! What is sent before the guest runs: the hot set, and a share of all pages.

use super::{FETCHES, READ_AHEAD_BYTES, Serve, Started, window};
use crate::failure::Failure;
use crate::machine::Lane;
use crate::memory::OutOfMemory;
use crate::revert::postcopy::context::Context;
use crate::revert::postcopy::fetch::{Looked, Window, look};
use crate::revert::postcopy::host_pages::{HostPage, HostPages};
use crate::revert::postcopy::hot_set::HotSet;
use snapshot_image::{RamLayout, Snapshot};

/// Before the guest runs pages are handed out while the driver has less than this, and up to this
/// much at once. Later that is [`Pace`]'s.
const BEFORE_BYTES: u64 = 2 << 20;

impl Serve {
    /// Decides what is sent before the guest runs.
    pub(crate) fn plan_before(
        &mut self,
        percent: u8,
        hot: Option<&HotSet>,
        snapshot: &Snapshot,
        layout: &RamLayout,
        pages: &HostPages,
    ) -> Result<(), OutOfMemory> {
        self.nonzero_pages = snapshot.nonzero_pages.unwrap_or(snapshot.normal_pages);
        self.share_pages = match percent {
            100.. => u64::MAX,
            percent => {
                let (hundreds, rest) = (self.nonzero_pages / 100, self.nonzero_pages % 100);
                hundreds * u64::from(percent) + (rest * u64::from(percent)).div_ceil(100)
            }
        };
        for run in hot.iter().flat_map(|hot| &hot.runs) {
            let Some((block, known)) =
                usize::try_from(run.block).ok().and_then(|block| Some((block, layout.blocks().get(block)?)))
            else {
                continue;
            };
            let end = run.offset.saturating_add(run.length).min(known.used_length);
            if run.offset < end {
                self.hot.insert_all(pages.at(block, run.offset).0..pages.at(block, end - 1).0 + 1)?;
            }
        }
        self.hot.remove(self.before_end());
        Ok(())
    }

    /// The next page of the hot set to be looked up.
    fn next_hot(&self) -> Option<u64> {
        self.hot.next_present(self.hot_cursor)
    }

    /// Sends the next of what is to be there before the guest runs.
    pub(crate) fn before(&mut self, with: &mut Context<'_>) -> Result<bool, Failure> {
        let mut advanced = false;
        while with.output.unsent_bytes(Lane::Main) < BEFORE_BYTES && self.send_batch(BEFORE_BYTES, with)? {
            advanced = true;
        }
        while with.pool.taken_bytes() < READ_AHEAD_BYTES && self.fetches.len() < FETCHES {
            let started = match self.next_hot() {
                Some(page) => self.start_hot(page, with)?,
                None => self.start_share(with)?,
            };
            match started {
                Some(Started::Yes | Started::No) => advanced = true,
                Some(Started::Wait) | None => break,
            }
        }
        Ok(advanced)
    }

    /// All of it has been handed out.
    pub(crate) fn is_before_over(&self) -> bool {
        self.next_hot().is_none()
            && (self.share_pages == 0 || self.cursor + 1 >= self.total)
            && self.fetches.is_empty()
    }

    /// One host page is held back, for there must be a discard: the last one.
    fn before_end(&self) -> u64 {
        self.total.saturating_sub(1)
    }

    /// Looks up the hot set from `page` on.
    fn start_hot(&mut self, page: u64, with: &mut Context<'_>) -> Result<Option<Started>, Failure> {
        if with.output.unsent_bytes(Lane::Main) >= BEFORE_BYTES {
            return Ok(None);
        }
        let window =
            Window { only: Some(&self.hot), ..window(page..self.before_end(), with.pages, u64::MAX) };
        let upto = match look(window, with.pages, &mut self.claimed, with.image, with.pool)? {
            Looked::Need(at, length) => {
                with.output.actions.extend(with.image.read(at, length, with.pool)?);
                return Ok(Some(Started::Wait));
            }
            Looked::Nothing => window.first.0 + window.count,
            Looked::Fetch { fetch, action, next } => {
                self.fetches.push_back(fetch);
                with.output.actions.push_back(action);
                next.0
            }
        };
        // A zero page that is touched would be requested like any other.
        while let Some(page) = self.next_hot().filter(|&page| page < upto) {
            if self.claimed.insert(page)? {
                self.send_zero(HostPage(page), Lane::Main, with)?;
            }
            self.hot_cursor = page + 1;
        }
        self.hot_cursor = upto;
        Ok(Some(Started::Yes))
    }

    fn start_share(&mut self, with: &mut Context<'_>) -> Result<Option<Started>, Failure> {
        if self.share_pages == 0 || self.cursor >= self.before_end() {
            return Ok(None);
        }
        let (block, _) = with.pages.locate(HostPage(self.cursor));
        let in_host_page =
            (with.pages.of_block(block).bytes / u64::from(with.image.reader.layout().page_size())).max(1);
        let most = self.share_pages.div_ceil(in_host_page);
        let window = window(self.cursor..self.before_end(), with.pages, most);
        let before = self.fetches.len();
        let started = self.start_window(window, with)?;
        if let Started::Yes = started
            && self.fetches.len() > before
            && let Some(fetch) = self.fetches.back()
        {
            self.share_pages = self.share_pages.saturating_sub(fetch.present_pages());
        }
        Ok(Some(started))
    }
}
