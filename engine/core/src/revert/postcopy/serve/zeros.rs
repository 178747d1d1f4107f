//! Zero pages: those that are requested, and all of them where the destination needs every page.

use super::Serve;
use crate::machine::Lane;
use crate::memory::OutOfMemory;
use crate::revert::postcopy::context::Context;
use crate::revert::postcopy::host_pages::HostPage;

/// RAM of zero pages that is handed out at once: 256 records of 9 bytes, a fraction of a
/// millisecond for a destination.
const BATCH_BYTES: u64 = 1 << 20;

impl Serve {
    /// Sends a host page as zero.
    pub(super) fn send_zero(
        &mut self,
        page: HostPage,
        lane: Lane,
        with: &mut Context<'_>,
    ) -> Result<(), OutOfMemory> {
        with.emitter.begin(lane);
        self.put_zero(page, lane, with)?;
        with.emitter.end(lane, with.output);
        Ok(())
    }

    /// Sends some of the pages that are left when all others have been sent: they are zero. False
    /// if there is none now.
    pub(super) fn send_zeros(&mut self, with: &mut Context<'_>) -> Result<bool, OutOfMemory> {
        if self.cursor < self.total || !self.fetches.is_empty() || !self.requests.is_empty() {
            return Ok(false);
        }
        let Some(mut page) = self.sent.next_missing(self.zero_cursor) else { return Ok(false) };
        let mut left = BATCH_BYTES;
        with.emitter.begin(Lane::Main);
        loop {
            self.claimed.insert(page)?;
            self.put_zero(HostPage(page), Lane::Main, with)?;
            left = left.saturating_sub(with.pages.bytes(HostPage(page)));
            self.zero_cursor = page + 1;
            match self.sent.next_missing(self.zero_cursor).filter(|_| left > 0) {
                Some(next) => page = next,
                None => break,
            }
        }
        with.emitter.end(Lane::Main, with.output);
        Ok(true)
    }

    fn put_zero(&mut self, page: HostPage, lane: Lane, with: &mut Context<'_>) -> Result<(), OutOfMemory> {
        let (block, start) = with.pages.locate(page);
        let layout = with.image.reader.layout();
        let name = &layout.blocks()[block].name;
        self.sent.insert(page.0)?;
        let end = start + with.pages.of_block(block).bytes;
        for offset in (start..end).step_by(layout.page_size() as usize) {
            with.emitter.page(lane, (block, name), offset, None, with.output);
        }
        Ok(())
    }
}
