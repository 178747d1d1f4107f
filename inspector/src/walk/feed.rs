//! A window on a source: what has arrived and was not taken yet.

use crate::input::Source;
use std::io;
use std::ops::Range;

/// What one refill asks for: it stays in the processor's cache.
const REFILL_BYTES: usize = 256 << 10;
/// The longest record that is waited for: device sections before RAM, a package, a device tail.
const WINDOW_LIMIT_BYTES: usize = 256 << 20;

/// Called with what was read so far, and how much there is in all where that is known.
pub type Progress = Box<dyn FnMut(u64, Option<u64>)>;

/// The window.
pub(super) struct Feed {
    source: Box<dyn Source>,
    buffer: Vec<u8>,
    held: Range<usize>,
    /// Offset in the input of the first held byte.
    offset: u64,
    start: u64,
    progress: Option<Progress>,
}

impl Feed {
    pub(super) fn new(source: Box<dyn Source>, start: u64, progress: Option<Progress>) -> Self {
        Self { source, buffer: vec![0; REFILL_BYTES], held: 0..0, offset: start, start, progress }
    }

    /// What has arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.held.clone()]
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.held.start += bytes;
        self.offset += bytes as u64;
    }

    /// Reads on until at least `needed` bytes are held; false if the input ends before.
    pub(super) fn fill(&mut self, needed: usize) -> io::Result<bool> {
        while self.held.len() < needed {
            if !self.more()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads on; false at the end of the input.
    pub(super) fn more(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        // What is declared is not allocated before it arrives: the buffer at most doubles.
        if self.held.end == self.buffer.len() {
            if self.buffer.len() >= WINDOW_LIMIT_BYTES {
                let text = format!("more than {WINDOW_LIMIT_BYTES} bytes belong together");
                return Err(io::Error::other(text));
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.source.read(&mut self.buffer[self.held.end..])?;
        self.held.end += read;
        if let Some(progress) = &mut self.progress {
            let done = self.offset - self.start + self.held.len() as u64;
            progress(done, self.source.length());
        }
        Ok(read > 0)
    }

    /// Reads everything that is left.
    pub(super) fn all(&mut self) -> io::Result<()> {
        while self.more()? {}
        Ok(())
    }

    /// Passes over bytes; returns how many there were.
    pub(super) fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let held = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.held.len());
        self.consume(held);
        let left = bytes - held as u64;
        let skipped = if left > 0 { self.source.skip(left)? } else { 0 };
        self.offset += skipped;
        Ok(held as u64 + skipped)
    }

    /// Reads everything that is left but keeps only the last `keep` bytes of it.
    pub(super) fn keep_last(&mut self, keep: usize) -> io::Result<()> {
        loop {
            let surplus = self.held.len().saturating_sub(keep);
            self.consume(surplus);
            if !self.more()? {
                return Ok(());
            }
        }
    }

    pub(super) fn last(&mut self, most: u64) -> io::Result<Option<Vec<u8>>> {
        self.source.last(most)
    }
}
