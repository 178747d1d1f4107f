//! The device tail: device sections, EOF, vmdesc.

use super::devices::guessed;
use super::event::{Border, Context, DeviceSection, Event, Finding, Item, Level, Visitor};
use super::state::{StreamWalk, context};
use super::{Stop, go, io};
use migration_stream::device::{Device, Guess, Vmdesc, guess};
use migration_stream::device_tail::{Located, OnError, Piece, Walker, early, locate, oversized_vmdesc};
use migration_stream::{Error, ErrorKind, Inside, Record, TailError, VMDESC_HEADER_BYTES};

/// Reads everything that is left and walks it.
pub(super) fn walk(walk: &mut StreamWalk<'_>) -> Result<(), Stop> {
    let offset = walk.decoder.offset();
    let read = walk.feed.all();
    read.map_err(io(&walk.feed))?;
    let bytes = walk.feed.bytes();
    let footers = walk.decoder.has_footers() != Some(false);
    let context = context(&walk.decoder);
    let visitor = &mut *walk.visitor;
    let Some(located) = locate(bytes) else {
        return without_vmdesc(visitor, context, bytes, offset, footers);
    };
    let Located { eof, vmdesc } = located.clone();
    let Some(description) = Vmdesc::parse(&bytes[vmdesc.clone()]) else {
        let at = offset + vmdesc.start as u64;
        let text = TailError::NoDescription.to_string();
        go(visitor.finding(Finding::new(Level::Error, at, "vmdesc", text)))?;
        for part in guess(&bytes[..eof], footers) {
            guessed(visitor, context, offset, &bytes[..eof], part, false)?;
        }
        return trailer(visitor, context, bytes, offset, &located);
    };
    // In what came through a pipe, those before RAM could not be told apart when they came.
    let first = match walk.decoder.early_devices() {
        Some((at, bytes)) if walk.early == 0 => {
            early(&description.devices, at, bytes, None).map_or(0, |(count, _)| count)
        }
        _ => walk.early,
    };
    let devices = &description.devices[..];
    let walked = Walker { devices, first, footers, on_error: OnError::Resync }.walk(&bytes[..eof], offset);
    for finding in walked.findings {
        go(visitor.finding(finding.into()))?;
    }
    pieces(visitor, context, bytes, offset, devices, &walked.pieces)?;
    trailer(visitor, context, bytes, offset, &located)
}

/// Device sections that were cut by their description.
pub(super) fn pieces(
    visitor: &mut dyn Visitor,
    context: Context<'_>,
    bytes: &[u8],
    base: u64,
    devices: &[Device],
    pieces: &[Piece<'_>],
) -> Result<(), Stop> {
    for piece in pieces {
        let mut item = |range: std::ops::Range<usize>, event| {
            let (offset, length) = (base + range.start as u64, range.len() as u64);
            go(visitor.item(&Item { offset, length, packaged: false, event }, context))
        };
        match piece {
            Piece::Skipped(range) => {
                item(range.clone(), Event::Skipped)?;
                let text = format!("{} bytes skipped", range.len());
                let offset = base + range.start as u64;
                go(visitor.finding(Finding::new(Level::Note, offset, "", text)))?;
            }
            Piece::Device { device, header, head, body, footer, by_anchor } => {
                let described = &devices[*device];
                let section = DeviceSection {
                    header: *header,
                    header_bytes: head.len(),
                    body: &bytes[body.clone()],
                    description: Some(&described.state),
                    border: if *by_anchor { Border::NextSection } else { Border::Described },
                };
                item(head.start..body.end, Event::Device(section))?;
                if !footer.is_empty() {
                    item(footer.clone(), Event::Record(Record::Footer(header.section_id)))?;
                }
                if *by_anchor {
                    let name = crate::escape::terminal(header.idstr);
                    let path = format!("section {} \"{name}\"", header.section_id.0);
                    let (level, text) = if described.state.may_be_inexact() {
                        let text = "the vmdesc describes another length (QEMU before 10.0 does that for arrays with \
                                    NULL pointers); the next section shows where it ends";
                        (Level::Note, text)
                    } else {
                        // A destination reads no vmdesc, but it knows the length itself, and looks
                        // for the footer there.
                        let text = "the vmdesc describes another length, and one of the two is wrong: with the length \
                                    of this section a destination may refuse it; the next section shows where it ends";
                        (Level::Warning, text)
                    };
                    go(visitor.finding(Finding::new(level, base + body.start as u64, &path, text)))?;
                }
            }
        }
    }
    Ok(())
}

/// EOF and the vmdesc behind it, which reaches to the end.
pub(super) fn trailer(
    visitor: &mut dyn Visitor,
    context: Context<'_>,
    bytes: &[u8],
    base: u64,
    located: &Located,
) -> Result<(), Stop> {
    let offset = base + located.eof as u64;
    let json = &bytes[located.vmdesc.clone()];
    let event = Event::Record(Record::Eof);
    go(visitor.item(&Item { offset, length: 1, packaged: false, event }, context))?;
    let (offset, length) = (offset + 1, (VMDESC_HEADER_BYTES + json.len()) as u64);
    let event = Event::Record(Record::VmDescription(json));
    go(visitor.item(&Item { offset, length, packaged: false, event }, context))
}

/// A tail whose vmdesc is longer than is accepted: it is passed over, so device sections are cut by
/// their footers.
fn oversized(
    visitor: &mut dyn Visitor,
    context: Context<'_>,
    bytes: &[u8],
    base: u64,
    footers: bool,
    (eof, kind): (usize, ErrorKind),
) -> Result<(), Stop> {
    let at = base + eof as u64;
    go(visitor.finding(Error { offset: at + 2, path: String::new(), kind }.into()))?;
    for part in guess(&bytes[..eof], footers) {
        guessed(visitor, context, base, &bytes[..eof], part, false)?;
    }
    let event = Event::Record(Record::Eof);
    go(visitor.item(&Item { offset: at, length: 1, packaged: false, event }, context))?;
    let length = (bytes.len() - eof) as u64 - 1;
    go(visitor.item(&Item { offset: at + 1, length, packaged: false, event: Event::Skipped }, context))
}

/// A tail whose vmdesc is suppressed, or was cut off.
fn without_vmdesc(
    visitor: &mut dyn Visitor,
    context: Context<'_>,
    bytes: &[u8],
    base: u64,
    footers: bool,
) -> Result<(), Stop> {
    if let Some((eof, kind)) = oversized_vmdesc(bytes, footers) {
        return oversized(visitor, context, bytes, base, footers, (eof, kind));
    }
    let parts = guess(bytes, footers);
    let ends = matches!(parts.last(), Some(Guess::Eof(_))) || !footers && bytes.last() == Some(&0);
    let text = if ends {
        "no vmdesc (suppress-vmdesc): device sections are delimited by their footers only, and fields are unknown"
    } else {
        "device sections are delimited by their footers only, and fields are unknown"
    };
    go(visitor.finding(Finding::new(Level::Note, base, "", text)))?;
    for part in parts {
        guessed(visitor, context, base, bytes, part, false)?;
    }
    if ends {
        return Ok(());
    }
    let offset = base + bytes.len() as u64;
    let error =
        Error { offset, path: String::new(), kind: ErrorKind::Truncated { inside: Inside::DeviceTail } };
    go(visitor.finding(error.into()))
}
