//! Readers: the walk over a whole stream, from anything that can be read, or from memory.

#[cfg(feature = "std")]
mod detached;
mod pieces;
#[cfg(feature = "std")]
mod stream;

use crate::decoder::{Decoder, Options, Step};
use crate::device_tail;
use crate::error::Error;
use crate::page_size::PageSize;
use crate::ram::block::RamBlock;
use crate::record::Record;
use crate::width::to_usize;
use pieces::Pieces;
#[cfg(feature = "std")]
pub use stream::{ReadError, StreamReader};

/// A record, and what is known of the stream where it is. `'reader` is the time until the next
/// [`advance`](SliceReader::advance), `'bytes` that of the bytes which the record borrows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'reader, 'bytes> {
    /// Offset of the record in the stream.
    pub offset: u64,
    /// The record.
    pub record: Record<'bytes>,
    /// The block list, to which pages refer; empty before it arrived.
    pub blocks: &'reader [RamBlock],
    /// Target page size.
    pub page_size: PageSize,
}

#[inline]
fn entry<'reader, 'bytes>(
    offset: u64,
    record: Record<'bytes>,
    decoder: &'reader Decoder,
) -> Entry<'reader, 'bytes> {
    Entry { offset, record, blocks: decoder.blocks(), page_size: decoder.page_size() }
}

/// Reads a stream from memory. Page data is never touched.
#[derive(Debug)]
pub struct SliceReader<'a> {
    bytes: &'a [u8],
    decoder: Decoder,
    tail: Option<(&'a [u8], Pieces)>,
    done: bool,
}

impl<'a> SliceReader<'a> {
    /// A reader of `bytes`, which hold the whole stream. The page size is that of the vmdesc if neither
    /// `options` nor the configuration section have it.
    #[must_use]
    pub fn new(bytes: &'a [u8], mut options: Options) -> Self {
        if options.page_size.is_none() {
            options.page_size = device_tail::page_size(bytes);
        }
        Self { bytes, decoder: Decoder::new(options), tail: None, done: false }
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
    /// What is wrong, and where; `Truncated` if the bytes end before the stream does. After an error there is
    /// nothing more.
    #[inline]
    pub fn advance(&mut self) -> Result<Option<Entry<'_, 'a>>, Error> {
        // A record is made where it stays: nearly all are pages, and a copy costs as much as reading one.
        let at = self.decoder.offset();
        if !self.done && self.tail.is_none() {
            let rest = &self.bytes[to_usize(at).min(self.bytes.len())..];
            if let Some(page) = self.decoder.plain_page(rest) {
                return Ok(Some(entry(at, Record::Page(page), &self.decoder)));
            }
        }
        self.advance_in_general()
    }

    fn advance_in_general(&mut self) -> Result<Option<Entry<'_, 'a>>, Error> {
        if self.done {
            return Ok(None);
        }
        let found = self.find();
        self.done = !matches!(found, Ok(Some(_)));
        Ok(found?.map(|(offset, record)| entry(offset, record, &self.decoder)))
    }

    fn find(&mut self) -> Result<Option<(u64, Record<'a>)>, Error> {
        if let Some((tail, pieces)) = &mut self.tail {
            return Ok(pieces.next(tail));
        }
        let at = self.decoder.offset();
        let start = to_usize(at).min(self.bytes.len());
        let rest = &self.bytes[start..];
        match self.decoder.step(rest)? {
            Step::Incomplete { .. } => self.decoder.finish(rest).map(|()| None),
            Step::Record { record: Record::DeviceTail, .. } => {
                self.tail = Some((rest, Pieces::cut(rest, at, &self.decoder)?));
                self.find()
            }
            Step::Record { record, .. } => Ok(Some((at, record))),
        }
    }
}
