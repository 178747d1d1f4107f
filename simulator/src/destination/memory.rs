//! The destination's RAM: what every page is worth.

use crate::checks::{Fate, Violation, no_lost_page, no_page_twice, no_wrong_page};
use crate::size::to_usize;
use migration_stream::name_text;
use std::ops::Range;

/// A target page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What the destination's own firmware left there.
    Old,
    /// As it was saved.
    Right,
    /// Thrown away: touching it means to wait for it.
    Missing,
    /// Came in postcopy, but not all of its host page has.
    Partial,
    /// Mapped from a file whose bytes are not what was saved.
    Foreign,
}

/// A RAM block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) name: Vec<u8>,
    pub(super) host_page_bytes: u64,
    /// What each target page must be in the end; `None` is zero.
    expected: Vec<Option<Vec<u8>>>,
    states: Vec<State>,
}

impl Block {
    /// Target pages.
    pub(super) fn pages(&self) -> u64 {
        self.states.len() as u64
    }
}

/// All blocks.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) page_bytes: u64,
    pub(super) blocks: Vec<Block>,
    /// The host page of which some target pages have come in postcopy, one for each channel.
    partial: [Option<(usize, u64)>; 2],
}

impl Memory {
    pub(super) fn new(page_bytes: u64) -> Self {
        Self { page_bytes, blocks: Vec::new(), partial: [None; 2] }
    }

    pub(super) fn add(&mut self, name: Vec<u8>, host_page_bytes: u64, expected: Vec<Option<Vec<u8>>>) {
        let states = vec![State::Old; expected.len()];
        self.blocks.push(Block { name, host_page_bytes, expected, states });
    }

    /// The pages of a block are what its file holds.
    pub(super) fn map(&mut self, block: usize, bytes: &[u8]) {
        let block = &mut self.blocks[block];
        let pages = bytes.chunks(to_usize(self.page_bytes)).zip(&block.expected).zip(&mut block.states);
        for ((page, saved), state) in pages {
            let is_zero = page.iter().all(|&byte| byte == 0);
            let right = saved.as_deref().map_or(is_zero, |saved| saved == page);
            *state = if right { State::Right } else { State::Foreign };
        }
    }

    /// Someone has written there, before the stream.
    pub(super) fn copy(&mut self, block: usize, bytes: &Range<u64>) {
        let pages = bytes.start / self.page_bytes..bytes.end.div_ceil(self.page_bytes);
        self.blocks[block].states[to_usize(pages.start)..to_usize(pages.end)].fill(State::Old);
    }

    pub(super) fn find(&self, name: &[u8]) -> Result<usize, Violation> {
        let found = self.blocks.iter().position(|block| block.name == name);
        found.ok_or_else(|| Violation::protocol(format!("unknown block \"{}\"", name_text(name))))
    }

    fn place(&self, block: usize, offset: u64) -> Result<usize, Violation> {
        let page = to_usize(offset / self.page_bytes);
        if !offset.is_multiple_of(self.page_bytes) || page >= self.blocks[block].states.len() {
            return Err(self.violation(block, offset, "outside the block, or unaligned"));
        }
        Ok(page)
    }

    /// Names a place.
    pub(super) fn name(&self, block: usize, offset: u64) -> String {
        format!("block \"{}\" offset {offset:#x}", name_text(&self.blocks[block].name))
    }

    fn violation(&self, block: usize, offset: u64, what: &str) -> Violation {
        Violation::protocol(format!("{}: {what}", self.name(block, offset)))
    }

    fn check(&self, block: usize, page: usize, offset: u64, content: Option<&[u8]>) -> Result<(), Violation> {
        let saved = self.blocks[block].expected[page].as_deref();
        no_wrong_page(saved, content, &self.name(block, offset))
    }

    /// The page is zero in the snapshot.
    pub(super) fn is_zero(&self, block: usize, offset: u64) -> bool {
        let pages = to_usize(self.blocks[block].host_page_bytes / self.page_bytes);
        let first = to_usize(offset / self.page_bytes);
        self.blocks[block].expected.iter().skip(first).take(pages).all(Option::is_none)
    }

    /// A page of the precopy phase.
    pub(super) fn write(
        &mut self,
        block: usize,
        offset: u64,
        content: Option<&[u8]>,
    ) -> Result<(), Violation> {
        let page = self.place(block, offset)?;
        self.check(block, page, offset, content)?;
        self.blocks[block].states[page] = State::Right;
        Ok(())
    }

    /// A page of the postcopy phase; true if its host page is complete with it.
    pub(super) fn receive(
        &mut self,
        channel: usize,
        block: usize,
        offset: u64,
        content: Option<&[u8]>,
    ) -> Result<bool, Violation> {
        let page = self.place(block, offset)?;
        self.check(block, page, offset, content)?;
        let host_page = self.host_page(block, offset);
        if self.partial[channel].is_some_and(|partial| partial != host_page) {
            return Err(self.violation(block, offset, "comes in the middle of another host page"));
        }
        no_page_twice(self.blocks[block].states[page] == State::Missing, &self.name(block, offset))?;
        self.blocks[block].states[page] = State::Partial;
        let range = self.range(host_page);
        let states = &mut self.blocks[block].states[range];
        let complete = states.iter().all(|&state| state == State::Partial);
        if complete {
            states.fill(State::Right);
        }
        self.partial[channel] = (!complete).then_some(host_page);
        Ok(complete)
    }

    /// Block and offset of the host page around this byte.
    pub(super) fn host_page(&self, block: usize, offset: u64) -> (usize, u64) {
        (block, offset - offset % self.blocks[block].host_page_bytes)
    }

    /// Target pages of a host page.
    fn range(&self, (block, offset): (usize, u64)) -> std::ops::Range<usize> {
        let pages = |bytes: u64| to_usize(bytes / self.page_bytes);
        pages(offset)..pages(offset + self.blocks[block].host_page_bytes)
    }

    /// These pages will come again.
    pub(super) fn discard(&mut self, name: &[u8], start: u64, length: u64) -> Result<(), Violation> {
        let block = self.find(name)?;
        let bytes = self.blocks[block].host_page_bytes;
        if length == 0 || !start.is_multiple_of(bytes) || !length.is_multiple_of(bytes) {
            return Err(self.violation(block, start, "a discard that is empty or unaligned"));
        }
        for offset in (start..start + length).step_by(to_usize(self.page_bytes)) {
            let page = self.place(block, offset)?;
            self.blocks[block].states[page] = State::Missing;
        }
        Ok(())
    }

    /// Whoever touches this byte has to wait.
    pub(super) fn is_missing(&self, block: usize, offset: u64) -> bool {
        let page = to_usize(offset / self.page_bytes);
        matches!(self.blocks[block].states.get(page), Some(State::Missing | State::Partial))
    }

    /// The connection broke: what is not complete is lost.
    pub(super) fn drop_partial(&mut self) {
        self.partial = [None; 2];
        for block in &mut self.blocks {
            block
                .states
                .iter_mut()
                .filter(|state| **state == State::Partial)
                .for_each(|s| *s = State::Missing);
        }
    }

    /// Whether target page number `page` of a block has arrived.
    pub(super) fn has(&self, block: usize, page: u64) -> bool {
        let page = to_usize(page);
        matches!(self.blocks[block].states.get(page), Some(State::Right | State::Old))
    }

    /// Everything is as it was saved: what is missing is zero.
    pub(super) fn verify(&self) -> Result<(), Violation> {
        for (number, block) in self.blocks.iter().enumerate() {
            for (page, state) in block.states.iter().enumerate() {
                let place = || self.name(number, page as u64 * self.page_bytes);
                let fate = match state {
                    State::Foreign => return no_wrong_page(None, Some(&[1]), &place()),
                    State::Right => Fate::Came,
                    State::Old => Fate::Stale,
                    State::Partial => Fate::Half,
                    State::Missing => Fate::Missing,
                };
                no_lost_page(fate, block.expected[page].is_none(), place)?;
            }
        }
        Ok(())
    }
}
