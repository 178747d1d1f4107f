//! The device tail: device sections, EOF, vmdesc.
//!
//! Bodies of device sections have no length. The vmdesc behind them has it, so a tail can be cut only when
//! all of it arrived. EOF is before the vmdesc, and nothing behind it.
//!
//! This module alone decides where a device section ends. [`locate`] finds EOF and vmdesc, [`Walker`] cuts
//! what is before them by the [`Vmdesc`], and goes on behind damage if it may; [`end`] and [`cut`] are for a
//! program that accepts whole tails only, as a save is.

mod locate;
mod walk;

pub use locate::{Located, expected_end, locate, oversized_vmdesc};
pub use walk::{OnError, Piece, Walked, Walker, early};

use crate::decoder::Decoder;
use crate::device::Vmdesc;
use crate::error::{Error, ErrorKind, Inside, TailError};
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::section::{FOOTER_BYTES, QEMU_VM_EOF, QEMU_VM_SECTION_FOOTER, SectionHeader, section_header};
use crate::span::{Reject, Span};
use core::ops::Range;

/// How a tail ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trailer {
    /// EOF and vmdesc: the JSON's place in the tail.
    Vmdesc(Range<usize>),
    /// EOF alone (`suppress-vmdesc=on`).
    NoVmdesc,
}

/// A tail that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail<'a> {
    /// The device sections with the places of their bodies; none where they cannot be told apart.
    pub sections: Option<Vec<(SectionHeader<'a>, Range<usize>)>>,
    /// Why they cannot.
    pub finding: Option<Error>,
    /// Where EOF is.
    pub eof: usize,
    /// How it ends.
    pub trailer: Trailer,
}

/// Where the device sections of `tail` end, which begins at stream offset `offset`, behind what `decoder` has
/// walked; and how the stream ends there. The sections themselves are not looked at.
///
/// # Errors
///
/// `Truncated` or `Tail` when the end is not there: EOF, the footer before it, the vmdesc in its full length.
pub fn end(tail: &[u8], offset: u64, decoder: &Decoder) -> Result<(usize, Trailer), Error> {
    let footers = decoder.has_footers() != Some(false);
    let wrong = |at: usize, what| Error {
        offset: offset + at as u64,
        path: String::new(),
        kind: ErrorKind::Tail(what),
    };
    let truncated = || Error {
        offset: offset + tail.len() as u64,
        path: String::new(),
        kind: ErrorKind::Truncated { inside: Inside::DeviceTail },
    };
    let Some(Located { eof, vmdesc }) = locate(tail) else {
        if let Some((eof, kind)) = oversized_vmdesc(tail, footers) {
            return Err(Error { offset: offset + eof as u64 + 2, path: String::new(), kind });
        }
        // Without a vmdesc there is nothing but the last bytes to go by.
        let eof = tail.len().checked_sub(1).filter(|&eof| tail[eof] == QEMU_VM_EOF).ok_or_else(truncated)?;
        if !ends_with_footer(&tail[..eof], footers) {
            return Err(truncated());
        }
        check_begin(&tail[..eof], offset)?;
        if let Some((_, section)) = tail[..eof].split_first() {
            match section_header(Span::new(section, offset + 1)) {
                Ok(_) => {}
                Err(nom::Err::Incomplete(_)) => return Err(truncated()),
                Err(
                    nom::Err::Error(Reject { offset, kind }) | nom::Err::Failure(Reject { offset, kind }),
                ) => {
                    return Err(Error { offset, path: String::new(), kind: *kind });
                }
            }
        }
        if decoder.early_devices().is_some() {
            return Err(wrong(eof, TailError::EarlyWithoutVmdesc));
        }
        return Ok((eof, Trailer::NoVmdesc));
    };
    if !ends_with_footer(&tail[..eof], footers) {
        return Err(wrong(eof, TailError::NoFooterBeforeEof));
    }
    check_begin(&tail[..eof], offset)?;
    Ok((eof, Trailer::Vmdesc(vmdesc)))
}

#[cfg(feature = "vmdesc")]
/// Cuts `tail`, which begins at stream offset `offset`, behind what `decoder` has walked.
///
/// # Errors
///
/// Those of [`end`]. A vmdesc that does not describe the sections is no error but a finding, except where
/// device sections before RAM depend on it.
pub fn cut<'a>(tail: &'a [u8], offset: u64, decoder: &Decoder) -> Result<Tail<'a>, Error> {
    let (eof, trailer) = end(tail, offset, decoder)?;
    let Trailer::Vmdesc(json) = trailer.clone() else {
        return Ok(Tail { sections: None, finding: None, eof, trailer });
    };
    let walked = Vmdesc::parse(&tail[json.clone()])
        .ok_or_else(|| Error {
            offset: offset + json.start as u64,
            path: String::new(),
            kind: ErrorKind::Tail(TailError::NoDescription),
        })
        .and_then(|vmdesc| sections(&tail[..eof], offset, decoder, &vmdesc));
    match walked {
        Ok(sections) => Ok(Tail { sections: Some(sections), finding: None, eof, trailer }),
        Err(error) if decoder.early_devices().is_some() => Err(error),
        Err(finding) => Ok(Tail { sections: None, finding: Some(finding), eof, trailer }),
    }
}

#[cfg(feature = "vmdesc")]
/// Cuts device sections, all of which have to be as the vmdesc describes them, those before RAM as well.
fn sections<'a>(
    bytes: &'a [u8],
    offset: u64,
    decoder: &Decoder,
    vmdesc: &Vmdesc,
) -> Result<Vec<(SectionHeader<'a>, Range<usize>)>, Error> {
    let footers = decoder.has_footers() != Some(false);
    let first = match decoder.early_devices() {
        None => 0,
        Some((offset, bytes)) => early(&vmdesc.devices, offset, bytes, Some(footers))?.0,
    };
    let walker = Walker { devices: &vmdesc.devices, first, footers, on_error: OnError::Stop };
    let mut walked = walker.walk(bytes, offset);
    if !walked.findings.is_empty() {
        return Err(walked.findings.swap_remove(0));
    }
    let section = |piece| match piece {
        Piece::Device { header, body, .. } => Some((header, body)),
        Piece::Skipped(_) => None,
    };
    Ok(walked.pieces.into_iter().filter_map(section).collect())
}

fn ends_with_footer(sections: &[u8], footers: bool) -> bool {
    sections.is_empty()
        || !footers
        || (sections.len() >= FOOTER_BYTES
            && sections[sections.len() - FOOTER_BYTES] == QEMU_VM_SECTION_FOOTER)
}

/// An EOF at the start ends the stream, whatever follows.
fn check_begin(sections: &[u8], offset: u64) -> Result<(), Error> {
    if sections.first() != Some(&QEMU_VM_EOF) {
        return Ok(());
    }
    Err(Error { offset: offset + 1, path: String::new(), kind: ErrorKind::TrailingBytes })
}

#[cfg(feature = "vmdesc")]
/// The page size in the vmdesc of a whole stream.
#[must_use]
pub(crate) fn page_size(stream: &[u8]) -> Option<PageSize> {
    PageSize::new(Vmdesc::parse(&stream[locate(stream)?.vmdesc])?.page_size?)
}

#[cfg(all(test, feature = "vmdesc"))]
mod tests;
