//! The device tail: device sections, EOF, vmdesc.
//!
//! Bodies of device sections have no length. The vmdesc behind them tells it; so a tail can be cut only when it is all
//! there. EOF stands before the vmdesc, and nothing behind it.

use crate::decoder::{Decoder, VMDESC_LIMIT_BYTES};
use crate::error::{Error, ErrorKind, name_text};
use crate::section::{
    QEMU_VM_EOF, QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL, QEMU_VM_VMDESCRIPTION, SectionHeader,
    section_footer, section_header,
};
use crate::span::Span;
use crate::vmdesc::{DescribedDevice, VmDescription};
use std::ops::Range;

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
    /// Where EOF stands.
    pub eof: usize,
    /// How it ends.
    pub trailer: Trailer,
}

/// Cuts `tail`, which begins at stream offset `offset`, behind what `decoder` has walked.
///
/// # Errors
///
/// `Truncated` or `Tail` when the end is not there: EOF, the footer before it, the vmdesc in its full length. A vmdesc
/// that does not describe the sections is no error but a finding, except where device sections before RAM depend on it.
pub fn cut<'a>(tail: &'a [u8], offset: u64, decoder: &Decoder) -> Result<Tail<'a>, Error> {
    let footers = decoder.has_footers() != Some(false);
    let wrong = |at: usize, text: String| Error {
        offset: offset + at as u64,
        path: String::new(),
        kind: ErrorKind::Tail(text),
    };
    let truncated = || {
        let inside = "inside the device tail: no EOF with a whole vmdesc behind it, nor EOF as the last byte"
            .to_owned();
        Error {
            offset: offset + tail.len() as u64,
            path: String::new(),
            kind: ErrorKind::Truncated { inside },
        }
    };
    let Some(eof) = find_eof(tail) else {
        // Without a vmdesc there is nothing but the last bytes to go by.
        let eof = tail.len().checked_sub(1).filter(|&eof| tail[eof] == QEMU_VM_EOF).ok_or_else(truncated)?;
        if !ends_with_footer(&tail[..eof], footers) {
            return Err(truncated());
        }
        if decoder.early_devices().is_some() {
            return Err(wrong(
                eof,
                "device sections before RAM, and no vmdesc that confirms their end".to_owned(),
            ));
        }
        return Ok(Tail { sections: None, finding: None, eof, trailer: Trailer::NoVmdesc });
    };
    if !ends_with_footer(&tail[..eof], footers) {
        return Err(wrong(eof, "EOF without a section footer before it".to_owned()));
    }
    let json = eof + 6..tail.len();
    let trailer = Trailer::Vmdesc(json.clone());
    let walked = VmDescription::parse(&tail[json])
        .ok_or_else(|| wrong(eof + 6, "the vmdesc is not a description of devices".to_owned()))
        .and_then(|vmdesc| {
            let early = walk_early(decoder, &vmdesc, footers)?;
            walk(&tail[..eof], offset, &vmdesc.devices, early, footers)
        });
    match walked {
        Ok(sections) => Ok(Tail { sections: Some(sections), finding: None, eof, trailer }),
        Err(error) if decoder.early_devices().is_some() => Err(error),
        Err(finding) => Ok(Tail { sections: None, finding: Some(finding), eof, trailer }),
    }
}

/// Where the stream would end, by what has come of its tail: behind the first thing that looks like EOF and the start
/// of a vmdesc, where the section before has a footer.
#[must_use]
pub fn expected_end(tail: &[u8]) -> Option<u64> {
    // The smallest tail with a footer is longer than that.
    let mut at = 5;
    while let Some(found) = tail.get(at..)?.windows(7).position(|window| {
        window[0] == QEMU_VM_EOF && window[1] == QEMU_VM_VMDESCRIPTION && window[2] == 0 && window[6] == b'{'
    }) {
        let eof = at + found;
        let length = u32::from_be_bytes([tail[eof + 2], tail[eof + 3], tail[eof + 4], tail[eof + 5]]);
        // With a zero as its first byte the length is within its limit.
        if tail[eof - 5] == QEMU_VM_SECTION_FOOTER {
            return Some(eof as u64 + 6 + u64::from(length));
        }
        at = eof + 1;
    }
    None
}

/// The EOF before a vmdesc that reaches exactly to the end. The JSON has no control bytes, so the first match from
/// behind is the only one that can be.
fn find_eof(tail: &[u8]) -> Option<usize> {
    let shortest = tail.len().checked_sub(7)?;
    (0..=shortest).rev().take(VMDESC_LIMIT_BYTES as usize).find(|&eof| {
        let rest = &tail[eof..];
        rest[0] == QEMU_VM_EOF
            && rest[1] == QEMU_VM_VMDESCRIPTION
            && rest[6] == b'{'
            && u32::from_be_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize == rest.len() - 6
    })
}

fn ends_with_footer(sections: &[u8], footers: bool) -> bool {
    sections.is_empty()
        || !footers
        || (sections.len() >= 5 && sections[sections.len() - 5] == QEMU_VM_SECTION_FOOTER)
}

/// Confirms the device sections before RAM; returns how many of the described devices they are.
fn walk_early(decoder: &Decoder, vmdesc: &VmDescription, footers: bool) -> Result<usize, Error> {
    let Some((offset, bytes)) = decoder.early_devices() else { return Ok(0) };
    for count in 1..=vmdesc.devices.len() {
        let lengths: Option<u64> = vmdesc.devices[..count]
            .iter()
            .map(|device| {
                Some(device.payload_bytes? + 14 + device.idstr.len() as u64 + if footers { 5 } else { 0 })
            })
            .sum();
        match lengths {
            Some(length) if length < bytes.len() as u64 => {}
            Some(length) if length == bytes.len() as u64 => {
                return walk(bytes, offset, &vmdesc.devices[..count], 0, footers).map(|_| count);
            }
            _ => break,
        }
    }
    let text = "the vmdesc does not confirm where the device sections before RAM end".to_owned();
    Err(Error { offset, path: String::new(), kind: ErrorKind::Tail(text) })
}

/// Walks device sections by their description, from device `first` on.
fn walk<'a>(
    bytes: &'a [u8],
    offset: u64,
    devices: &[DescribedDevice],
    first: usize,
    footers: bool,
) -> Result<Vec<(SectionHeader<'a>, Range<usize>)>, Error> {
    let mut sections = Vec::with_capacity(devices.len() - first);
    let mut at = 0;
    for (number, device) in devices.iter().enumerate().skip(first) {
        let path = format!("device {number} \"{}\"", name_text(&device.idstr));
        let wrong = |at: usize, text: &str| Error {
            offset: offset + at as u64,
            path: path.clone(),
            kind: ErrorKind::Tail(text.to_owned()),
        };
        let header = Span::new(&bytes[at..], offset + at as u64);
        if header.bytes.first() != Some(&QEMU_VM_SECTION_FULL) {
            return Err(wrong(at, "no device section where the vmdesc has one"));
        }
        let header = Span::new(&header.bytes[1..], header.offset + 1);
        let Ok((rest, section)) = section_header(header) else {
            return Err(wrong(at, "device section is cut off"));
        };
        if section.idstr != device.idstr || u64::from(section.instance_id) != device.instance_id {
            return Err(wrong(at, "another device than the vmdesc has here"));
        }
        let start = bytes.len() - rest.bytes.len();
        let ends_well = |end: usize| {
            let footer = Span::new(&bytes[end..], 0);
            !footers || section_footer(footer, section.section_id).is_ok()
        };
        let computed = device
            .payload_bytes
            .and_then(|payload| usize::try_from(payload).ok()?.checked_add(start))
            .filter(|&end| end <= bytes.len() && ends_well(end));
        let end =
            match computed {
                Some(end) => end,
                // Before 10.0 the description of arrays with NULL pointers is wrong; the next section is an anchor.
                None => anchored_end(bytes, start, &section, devices.get(number + 1), footers).ok_or_else(
                    || wrong(at, "its end is neither where the vmdesc has it nor told by the next section"),
                )?,
            };
        sections.push((section, start..end));
        at = end + if footers { 5 } else { 0 };
    }
    if at != bytes.len() {
        let kind =
            ErrorKind::Tail(format!("{} bytes behind the last device of the vmdesc", bytes.len() - at));
        return Err(Error { offset: offset + at as u64, path: String::new(), kind });
    }
    Ok(sections)
}

/// The one place where this section's footer is followed by the next section, or by the end.
fn anchored_end(
    bytes: &[u8],
    start: usize,
    section: &SectionHeader<'_>,
    next: Option<&DescribedDevice>,
    footers: bool,
) -> Option<usize> {
    if !footers {
        return None;
    }
    let mut footer = Vec::new();
    crate::section::put_section_footer(&mut footer, section.section_id);
    let mut ends = (start..bytes.len().saturating_sub(4)).filter(|&end| {
        let Some(after) = bytes[end..].strip_prefix(&footer[..]) else { return false };
        match next {
            None => after.is_empty(),
            Some(device) => {
                after.first() == Some(&QEMU_VM_SECTION_FULL)
                    && section_header(Span::new(&after[1..], 0)).is_ok_and(|(_, header)| {
                        header.idstr == device.idstr && u64::from(header.instance_id) == device.instance_id
                    })
            }
        }
    });
    let end = ends.next()?;
    ends.next().is_none().then_some(end)
}

/// The page size that a whole stream's vmdesc tells.
#[must_use]
pub(crate) fn page_size(stream: &[u8]) -> Option<u32> {
    let eof = find_eof(stream)?;
    let bits = VmDescription::parse(&stream[eof + 6..])?.page_size?;
    u32::try_from(bits).ok().filter(|size| size.is_power_of_two() && (1 << 10..=1 << 16).contains(size))
}
