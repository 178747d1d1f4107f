//! A window on a source: what has arrived and was not taken yet.

use super::window::MappedWindow;
use crate::size::to_usize;
use crate::source::{Source, SourceError};
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
    window: Window,
    /// Offset in the input of the first held byte.
    offset: u64,
    start: u64,
    progress: Option<Progress>,
}

enum Window {
    /// What was read from a pipe, or of something that is computed.
    Buffer { buffer: Vec<u8>, held: Range<usize> },
    /// A file.
    Mapped(MappedWindow),
}

impl Feed {
    pub(super) fn new(source: Box<dyn Source>, start: u64, progress: Option<Progress>) -> Self {
        let window = source
            .as_file()
            .map(MappedWindow::new)
            .map_or_else(|| Window::Buffer { buffer: vec![0; REFILL_BYTES], held: 0..0 }, Window::Mapped);
        Self { source, window, offset: start, start, progress }
    }

    /// What has arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.window {
            Window::Buffer { buffer, held } => &buffer[held.clone()],
            Window::Mapped(window) => window.bytes(),
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        match &mut self.window {
            Window::Buffer { held, .. } => held.start += bytes,
            Window::Mapped(window) => window.consume(bytes),
        }
        self.offset += bytes as u64;
    }

    /// Reads on until at least `needed` bytes are held; false if the input ends before.
    pub(super) fn fill(&mut self, needed: usize) -> Result<bool, SourceError> {
        while self.bytes().len() < needed {
            if !self.more()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads on; false at the end of the input.
    pub(super) fn more(&mut self) -> Result<bool, SourceError> {
        if self.bytes().len() >= WINDOW_LIMIT_BYTES {
            return Err(SourceError::TooLong { limit_bytes: WINDOW_LIMIT_BYTES });
        }
        let more = match &mut self.window {
            Window::Mapped(window) => window.more()?,
            Window::Buffer { buffer, held } => {
                buffer.copy_within(held.clone(), 0);
                *held = 0..held.len();
                // What is declared is not allocated before it arrives: the buffer at most doubles.
                if held.end == buffer.len() {
                    buffer.resize(buffer.len() * 2, 0);
                }
                let read = self.source.read(&mut buffer[held.end..])?;
                held.end += read;
                read > 0
            }
        };
        if let Some(progress) = &mut self.progress {
            let held = match &self.window {
                Window::Buffer { held, .. } => held.len(),
                Window::Mapped(window) => window.bytes().len(),
            };
            progress(self.offset - self.start + held as u64, self.source.length());
        }
        Ok(more)
    }

    /// Reads everything that is left.
    pub(super) fn all(&mut self) -> Result<(), SourceError> {
        while self.more()? {}
        Ok(())
    }

    /// Passes over bytes; returns how many there were.
    pub(super) fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        let held = to_usize(bytes).min(self.bytes().len());
        self.consume(held);
        let left = bytes - held as u64;
        if left == 0 {
            return Ok(bytes);
        }
        let skipped = match &mut self.window {
            Window::Buffer { .. } => self.source.skip(left)?,
            Window::Mapped(window) => window.skip(left),
        };
        self.offset += skipped;
        Ok(held as u64 + skipped)
    }

    /// How many of the bytes that come next are a hole of the file that they are in, and so zeros;
    /// 0 where that cannot be told.
    pub(super) fn hole(&self) -> Result<u64, SourceError> {
        match &self.window {
            Window::Buffer { .. } => Ok(0),
            Window::Mapped(window) => Ok(window.hole()?),
        }
    }

    /// Reads everything that is left but keeps only the last `keep` bytes of it.
    pub(super) fn keep_last(&mut self, keep: usize) -> Result<(), SourceError> {
        if let (Window::Buffer { held, .. }, Some(left)) = (&self.window, self.source.left()) {
            let all = left.saturating_add(held.len() as u64);
            self.skip(all.saturating_sub(keep as u64))?;
        }
        loop {
            let surplus = self.bytes().len().saturating_sub(keep);
            self.consume(surplus);
            if !self.more()? {
                return Ok(());
            }
        }
    }

    pub(super) fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError> {
        self.source.last(most)
    }
}
