//! Readers: the walk over a whole stream, from anything that can be read, or from memory.

use crate::decoder::{Decoder, Options, Step};
use crate::error::{Error, ErrorKind};
use crate::record::Record;
use crate::tail::{self, Trailer};
use polonius_the_crab::prelude::*;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;

/// The longest device tail that is kept in memory.
const TAIL_LIMIT_BYTES: usize = 256 << 20;
/// What one refill asks for at least.
const REFILL_BYTES: usize = 256 << 10;

/// What stops a reader.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream is wrong.
    #[error(transparent)]
    Stream(#[from] Error),
    /// It could not be read.
    #[error("offset {offset:#x}: {error}")]
    Io {
        /// How much had been read.
        offset: u64,
        /// Why not more.
        error: io::Error,
    },
}

/// A piece of a tail, by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Full { header: Range<usize>, body: Range<usize> },
    Footer(Range<usize>),
    Eof(usize),
    VmDescription(Range<usize>),
}

/// Cuts a tail into pieces; one opaque blob has no record, so a tail that cannot be cut is an error here.
fn pieces(tail: &[u8], offset: u64, decoder: &Decoder) -> Result<VecDeque<Piece>, Error> {
    let cut = tail::cut(tail, offset, decoder)?;
    let mut pieces = VecDeque::new();
    let footers = decoder.has_footers() != Some(false);
    match (&cut.sections, cut.finding) {
        (Some(sections), _) => {
            let mut at = 0;
            for (_, body) in sections {
                pieces.push_back(Piece::Full { header: at..body.start, body: body.clone() });
                at = body.end;
                if footers {
                    pieces.push_back(Piece::Footer(at..at + 5));
                    at += 5;
                }
            }
        }
        (None, Some(finding)) => return Err(finding),
        (None, None) => {
            // No vmdesc: everything before EOF, if anything, is one blob behind the first section's header.
            if let Some((_, blob)) = tail[..cut.eof].split_first()
                && let Ok((body, _)) = crate::section::section_header(crate::span::Span::new(blob, 0))
            {
                let start = cut.eof - body.bytes.len();
                pieces.push_back(Piece::Full { header: 0..start, body: start..cut.eof });
            }
        }
    }
    pieces.push_back(Piece::Eof(cut.eof));
    if let Trailer::Vmdesc(json) = cut.trailer {
        pieces.push_back(Piece::VmDescription(json));
    }
    Ok(pieces)
}

/// The record of a piece, with its length.
fn record_of<'a>(tail: &'a [u8], piece: &Piece) -> Option<(usize, Record<'a>)> {
    Some(match piece {
        Piece::Full { header, body } => {
            let span = crate::span::Span::new(&tail[header.start + 1..], 0);
            let (_, section) = crate::section::section_header(span).ok()?;
            (body.end - header.start, Record::Full(section, &tail[body.clone()]))
        }
        Piece::Footer(range) => {
            let id = tail.get(range.start + 1..range.end)?.try_into().ok()?;
            (5, Record::Footer(crate::section::SectionId(u32::from_be_bytes(id))))
        }
        Piece::Eof(_) => (1, Record::Eof),
        Piece::VmDescription(json) => (5 + json.len(), Record::VmDescription(&tail[json.clone()])),
    })
}

/// Reads a stream from memory. Page data is never touched.
#[derive(Debug)]
pub struct SliceReader<'a> {
    bytes: &'a [u8],
    decoder: Decoder,
    tail: Option<(usize, VecDeque<Piece>)>,
    offset: u64,
    failed: bool,
}

impl<'a> SliceReader<'a> {
    /// A reader of `bytes`, which hold the whole stream. The page size is taken from the vmdesc if nothing before it
    /// tells it and `options` do not.
    #[must_use]
    pub fn new(bytes: &'a [u8], mut options: Options) -> Self {
        if options.page_size.is_none() {
            options.page_size = tail::page_size(bytes);
        }
        Self { bytes, decoder: Decoder::new(options), tail: None, offset: 0, failed: false }
    }

    /// The walk: block list, configuration, what was detected.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The next record with its offset; `None` at the end of a complete stream.
    ///
    /// # Errors
    ///
    /// What is wrong, and where; `Truncated` if the bytes end before the stream does. After an error there is nothing
    /// more.
    pub fn next_record(&mut self) -> Result<Option<(u64, Record<'a>)>, Error> {
        if self.failed {
            return Ok(None);
        }
        let result = self.advance();
        self.failed = result.is_err();
        result
    }

    fn advance(&mut self) -> Result<Option<(u64, Record<'a>)>, Error> {
        if let Some((start, pieces)) = &mut self.tail {
            let tail = &self.bytes[*start..];
            let at = self.offset;
            return Ok(pieces.pop_front().and_then(|piece| record_of(tail, &piece)).map(|(len, record)| {
                self.offset += len as u64;
                (at, record)
            }));
        }
        let at = self.decoder.offset();
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = &self.bytes[start..];
        match self.decoder.step(rest)? {
            Step::Incomplete { .. } => self.decoder.finish(rest).map(|()| None),
            Step::Record { record: Record::DeviceTail, .. } => {
                self.tail = Some((start, pieces(rest, at, &self.decoder)?));
                self.offset = at;
                self.advance()
            }
            Step::Record { record, .. } => Ok(Some((at, record))),
        }
    }
}

/// Reads a stream from anything that can be read, in constant memory up to the device tail.
#[derive(Debug)]
pub struct StreamReader<R> {
    source: R,
    decoder: Decoder,
    buffer: Vec<u8>,
    held: Range<usize>,
    tail: Option<VecDeque<Piece>>,
    offset: u64,
    done: bool,
}

impl<R: Read> StreamReader<R> {
    /// A reader of `source`.
    #[must_use]
    pub fn new(source: R, options: Options) -> Self {
        Self {
            source,
            decoder: Decoder::new(options),
            buffer: vec![0; REFILL_BYTES],
            held: 0..0,
            tail: None,
            offset: 0,
            done: false,
        }
    }

    /// The walk: block list, configuration, what was detected.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The next record with its offset; `None` at the end of a complete stream.
    ///
    /// # Errors
    ///
    /// What is wrong, and where; `Truncated` if the source ends before the stream does. After an error there is nothing
    /// more.
    pub fn next_record(&mut self) -> Result<Option<(u64, Record<'_>)>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let mut this = self;
        loop {
            // The record borrows the buffer that the other branches change; the borrow checker cannot see yet that the
            // borrow ends with the return.
            let incomplete = polonius!(|this| -> Result<Option<(u64, Record<'polonius>)>, ReadError> {
                if this.tail.is_some() {
                    polonius_return!(Ok(this.next_piece()));
                }
                let at = this.decoder.offset();
                match this.decoder.step(&this.buffer[this.held.clone()]) {
                    Ok(Step::Record { record: Record::DeviceTail, .. }) => None,
                    Ok(Step::Record { len, record }) => {
                        this.held.start += len;
                        polonius_return!(Ok(Some((at, record))));
                    }
                    Ok(Step::Incomplete { .. }) => Some(()),
                    Err(error) => {
                        this.done = true;
                        polonius_return!(Err(error.into()));
                    }
                }
            });
            let more = match incomplete {
                Some(()) => this.refill_or_finish(),
                None => this.read_tail().map(|()| true),
            };
            this.done = !matches!(more, Ok(true));
            if !more? {
                return Ok(None);
            }
        }
    }

    fn next_piece(&mut self) -> Option<(u64, Record<'_>)> {
        let piece = self.tail.as_mut()?.pop_front()?;
        let at = self.offset;
        let (len, record) = record_of(&self.buffer[self.held.clone()], &piece)?;
        self.offset += len as u64;
        Some((at, record))
    }

    /// Reads on; false at the source's end, if the stream ends there, too.
    fn refill_or_finish(&mut self) -> Result<bool, ReadError> {
        // At most one partial record is moved, and the rest of the buffer is there for the read.
        self.buffer.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        // What is declared is not allocated before it arrives: the buffer at most doubles.
        if self.held.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        if self.read()? == 0 {
            self.decoder.finish(&self.buffer[self.held.clone()])?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Reads to the end of the source, and cuts what came.
    fn read_tail(&mut self) -> Result<(), ReadError> {
        let offset = self.decoder.offset();
        self.offset = offset;
        self.buffer.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        loop {
            if self.held.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            if self.held.end > TAIL_LIMIT_BYTES {
                let (found, limit) = (self.held.end as u64, TAIL_LIMIT_BYTES as u64);
                let kind = ErrorKind::Limit { what: "device tail", found, limit };
                return Err(Error { offset, path: String::new(), kind }.into());
            }
            if self.read()? == 0 {
                break;
            }
        }
        self.tail = Some(pieces(&self.buffer[self.held.clone()], offset, &self.decoder)?);
        Ok(())
    }

    fn read(&mut self) -> Result<usize, ReadError> {
        loop {
            match self.source.read(&mut self.buffer[self.held.end..]) {
                Ok(bytes) => {
                    self.held.end += bytes;
                    return Ok(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let offset = self.decoder.offset() + self.held.len() as u64;
                    return Err(ReadError::Io { offset, error });
                }
            }
        }
    }
}
