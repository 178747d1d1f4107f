//! The device tail: device sections, EOF, vmdesc.
//!
//! Bodies of device sections have no length. The vmdesc behind them tells it; so a tail can be cut only when it is all
//! there. EOF stands before the vmdesc, and nothing behind it.

use crate::decoder::{Decoder, VMDESC_LIMIT_BYTES};
use crate::error::{Error, ErrorKind, name_text};
use crate::page_size::PageSize;
use crate::section::{
    QEMU_VM_EOF, QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL, QEMU_VM_VMDESCRIPTION, SectionHeader,
    section_footer, section_header,
};
use crate::span::{Reject, Span};
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

/// Where the device sections of `tail` end, which begins at stream offset `offset`, behind what `decoder` has walked; and how
/// the stream ends there. The sections themselves are not looked at.
///
/// # Errors
///
/// `Truncated` or `Tail` when the end is not there: EOF, the footer before it, the vmdesc in its full length.
pub fn end(tail: &[u8], offset: u64, decoder: &Decoder) -> Result<(usize, Trailer), Error> {
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
            return Err(wrong(
                eof,
                "device sections before RAM, and no vmdesc that confirms their end".to_owned(),
            ));
        }
        return Ok((eof, Trailer::NoVmdesc));
    };
    if !ends_with_footer(&tail[..eof], footers) {
        return Err(wrong(eof, "EOF without a section footer before it".to_owned()));
    }
    check_begin(&tail[..eof], offset)?;
    Ok((eof, Trailer::Vmdesc(eof + 6..tail.len())))
}

/// Cuts `tail`, which begins at stream offset `offset`, behind what `decoder` has walked.
///
/// # Errors
///
/// Those of [`end`]. A vmdesc that does not describe the sections is no error but a finding, except where device sections
/// before RAM depend on it.
pub fn cut<'a>(tail: &'a [u8], offset: u64, decoder: &Decoder) -> Result<Tail<'a>, Error> {
    let footers = decoder.has_footers() != Some(false);
    let (eof, trailer) = end(tail, offset, decoder)?;
    let Trailer::Vmdesc(json) = trailer.clone() else {
        return Ok(Tail { sections: None, finding: None, eof, trailer });
    };
    let undescribed = || Error {
        offset: offset + json.start as u64,
        path: String::new(),
        kind: ErrorKind::Tail("the vmdesc is not a description of devices".to_owned()),
    };
    let walked = VmDescription::parse(&tail[json.clone()]).ok_or_else(undescribed).and_then(|vmdesc| {
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
/// of a vmdesc, where the section before has a footer. The first `searched` bytes were searched before, in vain: a tail that
/// comes in pieces is gone over once.
#[must_use]
pub fn expected_end(tail: &[u8], searched: usize) -> Option<u64> {
    // A mark that is not whole yet is looked at again; the smallest tail with a footer is longer than 5 bytes.
    let mut at = searched.saturating_sub(6).max(5);
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
pub(crate) fn find_eof(tail: &[u8]) -> Option<usize> {
    let shortest = tail.len().checked_sub(7)?;
    (0..=shortest).rev().take(VMDESC_LIMIT_BYTES as usize).find(|&eof| {
        let rest = &tail[eof..];
        rest[0] == QEMU_VM_EOF
            && rest[1] == QEMU_VM_VMDESCRIPTION
            && rest[6] == b'{'
            && u32::from_be_bytes([rest[2], rest[3], rest[4], rest[5]]) as usize == rest.len() - 6
    })
}

/// An EOF behind a footer, and behind it the start of a vmdesc that is longer than is accepted: where EOF stands, and what is
/// wrong. To be asked where [`find_eof`] finds nothing.
pub(crate) fn oversized_vmdesc(tail: &[u8], footers: bool) -> Option<(usize, ErrorKind)> {
    let length = |mark: &[u8]| u32::from_be_bytes([mark[2], mark[3], mark[4], mark[5]]);
    let begins = |at: usize, mark: &[u8]| {
        mark[..2] == [QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION]
            && mark[6] == b'{'
            && length(mark) > VMDESC_LIMIT_BYTES
            && (!footers || at == 0 || at >= 5 && tail[at - 5] == QEMU_VM_SECTION_FOOTER)
    };
    let (eof, mark) = tail.windows(7).enumerate().find(|(at, mark)| begins(*at, mark))?;
    let (found, limit) = (length(mark).into(), VMDESC_LIMIT_BYTES.into());
    Some((eof, ErrorKind::Limit { what: "vmdesc bytes", found, limit }))
}

fn ends_with_footer(sections: &[u8], footers: bool) -> bool {
    sections.is_empty()
        || !footers
        || (sections.len() >= 5 && sections[sections.len() - 5] == QEMU_VM_SECTION_FOOTER)
}

/// An EOF that stands first ends the stream, whatever follows.
fn check_begin(sections: &[u8], offset: u64) -> Result<(), Error> {
    if sections.first() != Some(&QEMU_VM_EOF) {
        return Ok(());
    }
    Err(Error { offset: offset + 1, path: String::new(), kind: ErrorKind::TrailingBytes })
}

/// Confirms the device sections before RAM; returns how many of the described devices they are.
fn walk_early(decoder: &Decoder, vmdesc: &VmDescription, footers: bool) -> Result<usize, Error> {
    let Some((offset, bytes)) = decoder.early_devices() else { return Ok(0) };
    let mut length = 0u64;
    for (number, device) in vmdesc.devices.iter().enumerate() {
        let sum = section_bytes(device, footers).and_then(|bytes| length.checked_add(bytes));
        length = sum.unwrap_or(u64::MAX);
        if length == bytes.len() as u64 {
            return walk(bytes, offset, &vmdesc.devices[..=number], 0, footers).map(|_| number + 1);
        }
        if length > bytes.len() as u64 {
            break;
        }
    }
    let text = "the vmdesc does not confirm where the device sections before RAM end".to_owned();
    Err(Error { offset, path: String::new(), kind: ErrorKind::Tail(text) })
}

/// Bytes of the section of `device`; `None` where the description does not add up.
fn section_bytes(device: &DescribedDevice, footers: bool) -> Option<u64> {
    let around = 14 + device.idstr.len() as u64 + if footers { 5 } else { 0 };
    device.payload_bytes?.checked_add(around)
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
        if bytes.get(at) != Some(&QEMU_VM_SECTION_FULL) {
            return Err(wrong(at, "no device section where the vmdesc has one"));
        }
        let Ok((rest, section)) = section_header(Span::new(&bytes[at + 1..], 0)) else {
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
pub(crate) fn page_size(stream: &[u8]) -> Option<PageSize> {
    let eof = find_eof(stream)?;
    PageSize::new(VmDescription::parse(&stream[eof + 6..])?.page_size?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decoder::Options;
    use crate::section::{SectionId, put_section_footer, put_section_header};

    /// A device's section: FULL, body, footer.
    fn device(idstr: &[u8], id: u32, body: &[u8], footers: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let header = SectionHeader { section_id: SectionId(id), idstr, instance_id: 0, version_id: 1 };
        put_section_header(&mut out, true, &header);
        out.extend_from_slice(body);
        if footers {
            put_section_footer(&mut out, SectionId(id));
        }
        out
    }

    fn with_vmdesc(sections: &[u8], json: &str) -> Vec<u8> {
        let length = u32::try_from(json.len()).unwrap();
        [sections, &[QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION], &length.to_be_bytes(), json.as_bytes()].concat()
    }

    fn described(name: &str, size: u64) -> String {
        format!(
            r#"{{"name":"{name}","instance_id":0,"fields":[{{"name":"a","type":"buffer","size":{size}}}]}}"#
        )
    }

    fn vmdesc(devices: &[String]) -> String {
        format!(r#"{{"page_size":4096,"devices":[{}]}}"#, devices.join(","))
    }

    #[test]
    fn what_is_no_section_before_eof_is_refused() {
        let json = vmdesc(&[]);
        let device = device(b"a", 1, &[], true);
        let behind_eof = [&[QEMU_VM_EOF][..], &device].concat();
        let error_of =
            |tail: &[u8]| cut(tail, 0x100, &Decoder::new(Options::default())).unwrap_err().to_string();
        for tail in [with_vmdesc(&behind_eof, &json), [&behind_eof[..], &[QEMU_VM_EOF]].concat()] {
            assert_eq!(error_of(&tail), "offset 0x101: bytes behind the end of the stream");
        }
        // Without a vmdesc the first header is all that can be known of the sections.
        for (length, expected) in [
            (0, "offset 0x105: idstr of length 0"),
            (200, "offset 0x11b: truncated: the stream ends inside the device tail"),
        ] {
            let tail = [&[QEMU_VM_SECTION_FULL, 0, 0, 0, 1, length][..], &device, &[QEMU_VM_EOF]].concat();
            assert!(error_of(&tail).starts_with(expected), "{}", error_of(&tail));
        }
        let nothing = cut(&[QEMU_VM_EOF], 0, &Decoder::new(Options::default())).unwrap();
        assert_eq!((nothing.eof, nothing.trailer), (0, Trailer::NoVmdesc));
    }

    #[test]
    fn a_whole_tail_is_cut_into_its_devices() {
        let sections = [device(b"a", 1, &[1, 2], true), device(b"bc", 2, &[], true)].concat();
        let tail = with_vmdesc(&sections, &vmdesc(&[described("a", 2), described("bc", 0)]));
        let decoder = Decoder::new(Options::default());
        let cut = cut(&tail, 0x100, &decoder).unwrap();
        assert_eq!((cut.finding, cut.eof), (None, sections.len()));
        assert_eq!(cut.trailer, Trailer::Vmdesc(sections.len() + 6..tail.len()));
        let bodies: Vec<_> =
            cut.sections.unwrap().into_iter().map(|(header, body)| (header.idstr.to_vec(), body)).collect();
        // Mark, id, name, instance, version: 14 bytes and the name.
        assert_eq!(bodies, [(b"a".to_vec(), 15..17), (b"bc".to_vec(), 38..38)]);
        assert_eq!(page_size(&tail), PageSize::new(4096));
        for end in 0..tail.len() {
            assert_eq!(find_eof(&tail[..end]), None, "{end} bytes");
            let expected = expected_end(&tail[..end], 0);
            assert!(expected.is_none_or(|found| found == tail.len() as u64));
            if expected.is_none() {
                assert_eq!(expected_end(&tail, end), Some(tail.len() as u64), "{end} bytes before");
            }
        }
        assert_eq!(expected_end(&tail, 0), Some(tail.len() as u64));
    }

    /// Before 10.0 the sizes of some arrays are wrong.
    #[test]
    fn a_body_of_another_length_ends_before_the_next_device_if_there_is_one_such_place() {
        let decoder = Decoder::new(Options::default());
        let found = |sections: &[Vec<u8>], devices: &[String]| {
            let tail = with_vmdesc(&sections.concat(), &vmdesc(devices));
            let cut = cut(&tail, 0x100, &decoder).unwrap();
            let bodies = cut.sections.map(|all| all.into_iter().map(|(_, body)| body).collect::<Vec<_>>());
            bodies.ok_or_else(|| cut.finding.unwrap().to_string())
        };
        let (a, b) = (device(b"a", 1, &[7; 9], true), device(b"b", 2, &[8; 3], true));
        let both = [a.clone(), b.clone()];
        assert_eq!(found(&both, &[described("a", 4), described("b", 1)]), Ok(vec![15..24, 44..47]));
        assert_eq!(found(&both, &[described("a", u64::MAX), described("b", 3)]), Ok(vec![15..24, 44..47]));
        let other = found(&both, &[described("a", 9), described("c", 3)]);
        let text = "offset 0x11d: device 1 \"c\": another device than the vmdesc has here";
        assert!(other.as_ref().is_err_and(|error| error.starts_with(text)), "{other:?}");
        let more = found(&both, &[described("a", 9)]);
        let text = "offset 0x11d: 23 bytes behind the last device of the vmdesc";
        assert!(more.as_ref().is_err_and(|error| error.starts_with(text)), "{more:?}");
        // The footer and the header of the next device twice: nothing tells which of them it is.
        let inner = [&a[15..], &b[..15], &[0; 4]].concat();
        let twice = [device(b"a", 1, &inner, true), b];
        assert!(found(&twice, &[described("a", 4), described("b", 3)]).is_err());
        let length = inner.len() as u64;
        assert!(found(&twice, &[described("a", length), described("b", 3)]).is_ok());
    }

    #[test]
    fn without_a_vmdesc_the_last_bytes_have_to_tell() {
        let decoder = Decoder::new(Options::default());
        let section = device(b"a", 1, &[1, 2], true);
        let tail = [&section[..], &[0]].concat();
        let whole = cut(&tail, 0, &decoder).unwrap();
        assert_eq!((whole.eof, whole.trailer), (section.len(), Trailer::NoVmdesc));
        assert!(cut(&section, 0, &decoder).is_err());
        assert!(cut(&[&section[..section.len() - 1], &[0]].concat(), 0, &decoder).is_err());
        assert!(cut(&[], 0, &decoder).is_err());
        assert!(cut(&[0], 0, &decoder).is_ok());
        assert_eq!(expected_end(&tail, 0), None);
    }

    #[test]
    fn an_eof_without_a_footer_before_it_is_refused() {
        let decoder = Decoder::new(Options::default());
        let tail = with_vmdesc(&device(b"a", 1, &[1; 9], false), &vmdesc(&[described("a", 9)]));
        let error = cut(&tail, 0x10, &decoder).unwrap_err().to_string();
        assert!(error.starts_with("offset 0x28: EOF without a section footer before it"), "{error}");
        assert_eq!(expected_end(&tail, 0), None);
    }

    #[test]
    fn a_vmdesc_that_is_too_long_is_told_where_its_length_stands() {
        let decoder = Decoder::new(Options::default());
        for (length, footers, wanted) in [
            (
                VMDESC_LIMIT_BYTES + 1,
                true,
                Some("offset 0x2f: vmdesc bytes 16777217, at most 16777216 can be"),
            ),
            (u32::MAX, true, Some("offset 0x2f: vmdesc bytes 4294967295, at most 16777216 can be")),
            (VMDESC_LIMIT_BYTES, true, None),
            // Without a footer before it, it is data that looks like it.
            (u32::MAX, false, None),
        ] {
            let sections = device(b"a", 1, &[1; 9], footers);
            let mark = [&[QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION], &length.to_be_bytes()[..], b"{"].concat();
            let error = cut(&[sections, mark].concat(), 0x10, &decoder).unwrap_err().to_string();
            match wanted {
                Some(wanted) => assert_eq!(error, wanted),
                None => assert!(error.contains("no EOF with a whole vmdesc behind it"), "{error}"),
            }
        }
    }

    #[test]
    fn sizes_that_overflow_do_not_add_up() {
        let device =
            |payload_bytes| DescribedDevice { idstr: b"abc".to_vec(), instance_id: 0, payload_bytes };
        assert_eq!(section_bytes(&device(Some(2)), true), Some(24));
        assert_eq!(section_bytes(&device(Some(2)), false), Some(19));
        assert_eq!(section_bytes(&device(None), true), None);
        assert_eq!(section_bytes(&device(Some(u64::MAX - 10)), true), None);
    }

    #[test]
    fn the_end_is_expected_behind_a_vmdesc_that_begins() {
        let begin =
            |footer: u8, eof: [u8; 7]| expected_end(&[&[0, footer, 1, 2, 3, 4][..], &eof].concat(), 0);
        assert_eq!(begin(0x7e, [0, 6, 0, 1, 2, 3, b'{']), Some(12 + 0x01_0203));
        for (footer, eof) in [
            (0x7d, [0, 6, 0, 1, 2, 3, b'{']),
            (0x7e, [1, 6, 0, 1, 2, 3, b'{']),
            (0x7e, [0, 5, 0, 1, 2, 3, b'{']),
            (0x7e, [0, 6, 1, 1, 2, 3, b'{']),
            (0x7e, [0, 6, 0, 1, 2, 3, b'[']),
        ] {
            assert_eq!(begin(footer, eof), None, "{footer:#x} {eof:x?}");
        }
    }

    #[test]
    fn the_page_size_of_a_vmdesc_is_one_that_there_is() {
        let told =
            |size: u64| page_size(&with_vmdesc(&[], &format!(r#"{{"page_size":{size},"devices":[]}}"#)));
        for size in [1 << 10, 1 << 12, 1 << 16] {
            assert_eq!(told(size).map(u64::from), Some(size));
        }
        for size in [0, 1 << 9, 3 << 10, 1 << 17, 1 << 32 | 1 << 12] {
            assert_eq!(told(size), None, "{size:#x}");
        }
    }
}
