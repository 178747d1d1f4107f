//! The reader over anything that can be read.

use super::detached::Detached;
use super::pieces::Pieces;
use super::{Entry, entry};
use crate::decoder::{Decoder, Options, Step};
use crate::error::{Error, ErrorKind};
use crate::prelude::*;
use crate::ram::block::RamBlock;
use crate::record::Record;
use core::ops::Range;
use std::io::{self, Read};

/// The longest device tail that is kept in memory.
const TAIL_LIMIT_BYTES: usize = 256 << 20;
/// What one refill asks for at least.
const REFILL_BYTES: usize = 256 << 10;

/// What stops a [`StreamReader`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream is wrong.
    #[error(transparent)]
    Stream(#[from] Error),
    /// It could not be read.
    #[error("offset {offset:#x}: the stream cannot be read")]
    Io {
        /// How much had been read.
        offset: u64,
        /// Why not more.
        source: io::Error,
    },
}

/// Reads a stream from anything that can be read, in constant memory up to the device tail.
#[derive(Debug)]
pub struct StreamReader<R> {
    source: R,
    decoder: Decoder,
    buffer: Vec<u8>,
    held: Range<usize>,
    tail: Option<Pieces>,
    done: bool,
}

impl<R: Read> StreamReader<R> {
    /// A reader of `source`.
    #[must_use]
    pub fn new(source: R, options: Options) -> Self {
        let (decoder, buffer) = (Decoder::new(options), vec![0; REFILL_BYTES]);
        Self { source, decoder, buffer, held: 0..0, tail: None, done: false }
    }

    /// The walk: configuration, block list, and what was detected.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The block list; empty before it arrived.
    #[must_use]
    pub fn blocks(&self) -> &[RamBlock] {
        self.decoder.blocks()
    }

    /// Reads the next record; `None` at the end of a complete stream.
    ///
    /// # Errors
    ///
    /// What is wrong, and where; `Truncated` if the source ends before the stream does. After an error there
    /// is nothing more.
    pub fn advance(&mut self) -> Result<Option<Entry<'_, '_>>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let found = self.find();
        self.done = !matches!(found, Ok(Some(_)));
        let attach = |found: Detached| entry(found.offset, found.attach(&self.buffer), &self.decoder);
        Ok(found?.map(attach))
    }

    fn find(&mut self) -> Result<Option<Detached>, ReadError> {
        loop {
            if let Some(pieces) = &mut self.tail {
                let next = pieces.next(&self.buffer[self.held.clone()]);
                return Ok(next.map(|(at, record)| Detached::new(at, record, &self.buffer)));
            }
            let at = self.decoder.offset();
            match self.decoder.step(&self.buffer[self.held.clone()])? {
                Step::Record { record: Record::DeviceTail, .. } => self.read_tail()?,
                Step::Record { len, record } => {
                    let found = Detached::new(at, record, &self.buffer);
                    self.held.start += len;
                    return Ok(Some(found));
                }
                Step::Incomplete { .. } => {
                    if !self.refill_or_finish()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Reads on; false at the source's end, if the stream ends there, too.
    fn refill_or_finish(&mut self) -> Result<bool, ReadError> {
        // At most one partial record is moved, and the rest of the buffer is there for the read.
        self.make_room();
        if self.read()? == 0 {
            self.decoder.finish(&self.buffer[self.held.clone()])?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads to the end of the source, and cuts what arrived.
    fn read_tail(&mut self) -> Result<(), ReadError> {
        let offset = self.decoder.offset();
        loop {
            self.make_room();
            if self.held.end > TAIL_LIMIT_BYTES {
                let (found, limit) = (self.held.end as u64, TAIL_LIMIT_BYTES as u64);
                let kind = ErrorKind::Limit { what: "length of the device tail", found, limit };
                return Err(Error { offset, path: String::new(), kind }.into());
            }
            if self.read()? == 0 {
                break;
            }
        }
        self.tail = Some(Pieces::cut(&self.buffer[self.held.clone()], offset, &self.decoder)?);
        Ok(())
    }

    /// Moves what is held to the start of the buffer. What is declared is not allocated before it arrives:
    /// the buffer at most doubles.
    fn make_room(&mut self) {
        if self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        if self.held.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    fn read(&mut self) -> Result<usize, ReadError> {
        loop {
            match self.source.read(&mut self.buffer[self.held.end..]) {
                Ok(bytes) => {
                    self.held.end += bytes;
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.decoder.offset() + self.held.len() as u64;
                    return Err(ReadError::Io { offset, source });
                }
            }
        }
    }
}
