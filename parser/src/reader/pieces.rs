//! The device tail as records: device sections, their footers, EOF and vmdesc.

use crate::decoder::Decoder;
use crate::device_tail::{self, Trailer};
use crate::error::Error;
use crate::record::Record;
use crate::section::{FOOTER_BYTES, VMDESC_HEADER_BYTES};
use alloc::collections::VecDeque;
use core::ops::Range;

/// What is left of a tail.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: VecDeque<Piece>,
    /// Offset of the next one in the stream.
    offset: u64,
}

impl Pieces {
    /// Cuts `tail`, which begins at `offset`. A tail that cannot be cut is an error here: one opaque blob has
    /// no record.
    pub(super) fn cut(tail: &[u8], offset: u64, decoder: &Decoder) -> Result<Self, Error> {
        Ok(Self { pieces: pieces(tail, offset, decoder)?, offset })
    }

    /// The next record of `tail`, the bytes that were cut, with its offset.
    pub(super) fn next<'a>(&mut self, tail: &'a [u8]) -> Option<(u64, Record<'a>)> {
        let (length, record) = record_of(tail, &self.pieces.pop_front()?)?;
        let at = self.offset;
        self.offset += length as u64;
        Some((at, record))
    }
}

/// One record of a tail, by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Full { header: Range<usize>, body: Range<usize> },
    Footer(Range<usize>),
    Eof(usize),
    VmDescription(Range<usize>),
}

fn pieces(tail: &[u8], offset: u64, decoder: &Decoder) -> Result<VecDeque<Piece>, Error> {
    let cut = device_tail::cut(tail, offset, decoder)?;
    let mut pieces = VecDeque::new();
    let footers = decoder.has_footers() != Some(false);
    match (&cut.sections, cut.finding) {
        (Some(sections), _) => {
            let mut at = 0;
            for (_, body) in sections {
                pieces.push_back(Piece::Full { header: at..body.start, body: body.clone() });
                at = body.end;
                if footers {
                    pieces.push_back(Piece::Footer(at..at + FOOTER_BYTES));
                    at += FOOTER_BYTES;
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
            (FOOTER_BYTES, Record::Footer(crate::section::SectionId(u32::from_be_bytes(id))))
        }
        Piece::Eof(_) => (1, Record::Eof),
        Piece::VmDescription(json) => {
            (VMDESC_HEADER_BYTES + json.len(), Record::VmDescription(&tail[json.clone()]))
        }
    })
}
