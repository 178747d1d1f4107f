//! Cuts a device tail into sections, and goes on behind damage where that is honest.

use super::description::Device;
use crate::error::{Error, ErrorKind, name_text};
use crate::section::{
    QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL, SectionHeader, SectionId, section_header,
};
use crate::span::Span;
use std::collections::BTreeMap;
use std::ops::Range;

/// A footer: mark (u8), section id (be32).
const FOOTER_BYTES: usize = 5;
/// Sections of one tail whose end is looked for; QEMU describes one of them wrongly, on s390x.
const ANCHORED_LIMIT: usize = 64;

/// A part of a tail; ranges count from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A device section.
    Device {
        /// Which of the described devices it is.
        device: usize,
        /// Its id.
        section_id: SectionId,
        /// Its version.
        version_id: u32,
        /// Type byte and header.
        header: Range<usize>,
        /// Its state.
        body: Range<usize>,
        /// Its footer; empty where the stream has none.
        footer: Range<usize>,
        /// Its end is not where its description has it: the next section's header told it.
        by_anchor: bool,
    },
    /// Bytes between two sections that could not be understood.
    Skipped(Range<usize>),
}

/// A tail in pieces that leave no byte out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// The pieces.
    pub pieces: Vec<Piece>,
    /// What is wrong.
    pub findings: Vec<Error>,
}

/// The EOF and the vmdesc behind it that reach exactly to the end of `bytes`: where EOF stands.
#[must_use]
pub fn find_vmdesc(bytes: &[u8]) -> Option<usize> {
    crate::tail::find_eof(bytes)
}

/// Where [`find_vmdesc`] finds nothing: an EOF and the start of a vmdesc behind it that is longer than is accepted. Where EOF
/// stands, and what is wrong with the length two bytes behind it.
#[must_use]
pub fn oversized_vmdesc(bytes: &[u8], footers: bool) -> Option<(usize, ErrorKind)> {
    crate::tail::oversized_vmdesc(bytes, footers)
}

/// Walks `bytes`, device sections up to EOF, by the description of those that can come. `offset` is where they begin in
/// the stream, `start` where in `bytes` the first section begins if that is known.
///
/// Where a section is not what is described, the walk goes on behind the next footer that a header follows which the
/// description names; what lies between is skipped and reported.
#[must_use]
pub fn walk(bytes: &[u8], offset: u64, devices: &[Device], footers: bool, start: Option<usize>) -> Walked {
    let mut walked = Walked::default();
    let index = Index::new(devices);
    let mut anchored = 0;
    let begin = start.map(|at| (at, 0)).or_else(|| index.anchor(bytes, 0, 0, footers));
    let Some((mut at, mut expected)) = begin else {
        walked.pieces.push(Piece::Skipped(0..bytes.len()));
        return walked;
    };
    if at > 0 {
        walked.pieces.push(Piece::Skipped(0..at));
    }
    while at < bytes.len() {
        match section(bytes, offset, at, devices, expected, footers && anchored < ANCHORED_LIMIT, footers) {
            Ok((piece, end)) => {
                anchored += usize::from(matches!(piece, Piece::Device { by_anchor: true, .. }));
                walked.pieces.push(piece);
                expected += 1;
                at = end;
            }
            Err(error) => {
                walked.findings.push(error);
                let resume = index.anchor(bytes, at, expected, footers);
                let end = resume.map_or(bytes.len(), |(next, _)| next);
                walked.pieces.push(Piece::Skipped(at..end));
                expected = resume.map_or(devices.len(), |(_, device)| device);
                at = end;
            }
        }
    }
    if expected < devices.len() && walked.findings.is_empty() {
        let device = &devices[expected];
        walked.findings.push(Error {
            offset: offset + bytes.len() as u64,
            path: path(expected, device),
            kind: ErrorKind::Tail("described by the vmdesc, but not in the stream".to_owned()),
        });
    }
    walked
}

fn path(number: usize, device: &Device) -> String {
    format!("device {number} \"{}\"", name_text(device.idstr.as_bytes()))
}

/// Devices by name and instance: a damaged tail can have any number of places where one could begin.
struct Index<'a>(BTreeMap<(&'a [u8], u64), Vec<usize>>);

impl<'a> Index<'a> {
    fn new(devices: &'a [Device]) -> Self {
        let mut index: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, device) in devices.iter().enumerate() {
            index.entry((device.idstr.as_bytes(), device.instance_id)).or_default().push(number);
        }
        Self(index)
    }

    /// The first section from `from` on that begins behind a footer and that one of the devices from `first` on
    /// describes: where, and which device.
    fn anchor(&self, bytes: &[u8], from: usize, first: usize, footers: bool) -> Option<(usize, usize)> {
        if !footers {
            return None;
        }
        let mut at = from;
        while let Some(found) = bytes.get(at..)?.iter().position(|&byte| byte == QEMU_VM_SECTION_FOOTER) {
            let section = at + found + FOOTER_BYTES;
            if bytes.get(section) == Some(&QEMU_VM_SECTION_FULL)
                && let Ok((_, header)) = section_header(Span::new(&bytes[section + 1..], 0))
                && let Some(numbers) = self.0.get(&(header.idstr, u64::from(header.instance_id)))
                && let Some(&device) = numbers.get(numbers.partition_point(|&number| number < first))
            {
                return Some((section, device));
            }
            at += found + 1;
        }
        None
    }
}

fn is(device: &Device, header: &SectionHeader<'_>) -> bool {
    header.idstr == device.idstr.as_bytes() && u64::from(header.instance_id) == device.instance_id
}

fn section(
    bytes: &[u8],
    offset: u64,
    at: usize,
    devices: &[Device],
    number: usize,
    may_anchor: bool,
    footers: bool,
) -> Result<(Piece, usize), Error> {
    let wrong = |at: usize, path: String, text: &str| Error {
        offset: offset + at as u64,
        path,
        kind: ErrorKind::Tail(text.to_owned()),
    };
    let Some(device) = devices.get(number) else {
        let text = format!("{} bytes behind the last device of the vmdesc", bytes.len() - at);
        return Err(wrong(at, String::new(), &text));
    };
    let path = path(number, device);
    if bytes.get(at) != Some(&QEMU_VM_SECTION_FULL) {
        return Err(wrong(at, path, "no device section where the vmdesc has one"));
    }
    let Ok((rest, header)) = section_header(Span::new(&bytes[at + 1..], 0)) else {
        return Err(wrong(at, path, "device section is cut off"));
    };
    if !is(device, &header) {
        return Err(wrong(at, path, "another device than the vmdesc has here"));
    }
    let start = bytes.len() - rest.bytes.len();
    let footer_bytes = if footers { FOOTER_BYTES } else { 0 };
    let mut footer = Vec::new();
    if footers {
        crate::section::put_section_footer(&mut footer, header.section_id);
    }
    let ends_here = |end: usize| bytes.get(end..).is_some_and(|rest| rest.starts_with(&footer));
    let computed = device
        .state
        .payload_bytes()
        .and_then(|payload| usize::try_from(payload).ok()?.checked_add(start))
        .filter(|&end| ends_here(end));
    let (end, by_anchor) = match computed {
        Some(end) => (end, false),
        // Before 10.0 the description of arrays with NULL pointers is wrong.
        None => {
            match may_anchor.then(|| anchored_end(bytes, start, &footer, devices.get(number + 1))).flatten() {
                Some(end) => (end, true),
                None => {
                    let text = "its footer is neither where the vmdesc has it nor before the next section";
                    return Err(wrong(start, path, text));
                }
            }
        }
    };
    let piece = Piece::Device {
        device: number,
        section_id: header.section_id,
        version_id: header.version_id,
        header: at..start,
        body: start..end,
        footer: end..end + footer_bytes,
        by_anchor,
    };
    Ok((piece, end + footer_bytes))
}

/// The one place where this section's footer is followed by the next section, or by the end.
fn anchored_end(bytes: &[u8], start: usize, footer: &[u8], next: Option<&Device>) -> Option<usize> {
    let mut ends = (start..bytes.len().saturating_sub(footer.len() - 1)).filter(|&end| {
        let Some(after) = bytes[end..].strip_prefix(footer) else { return false };
        match next {
            None => after.is_empty(),
            Some(device) => {
                after.first() == Some(&QEMU_VM_SECTION_FULL)
                    && section_header(Span::new(&after[1..], 0)).is_ok_and(|(_, header)| is(device, &header))
            }
        }
    });
    let end = ends.next()?;
    ends.next().is_none().then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::section::{put_section_footer, put_section_header};

    fn tail() -> (Vec<u8>, crate::device::Description) {
        let mut bytes = Vec::new();
        let mut devices = String::new();
        for (id, name) in [(3, "a"), (4, "b"), (5, "c")] {
            let (idstr, section_id) = (name.as_bytes(), SectionId(id));
            put_section_header(
                &mut bytes,
                true,
                &SectionHeader { section_id, idstr, instance_id: 0, version_id: 1 },
            );
            bytes.extend_from_slice(&[0xaa; 4]);
            put_section_footer(&mut bytes, section_id);
            devices += &format!(
                r#"{}{{"name": "{name}", "instance_id": 0, "fields": [{{"name": "x", "type": "uint32", "size": 4}}]}}"#,
                if devices.is_empty() { "" } else { ", " }
            );
        }
        (
            bytes,
            crate::device::Description::parse(format!(r#"{{"devices": [{devices}]}}"#).as_bytes()).unwrap(),
        )
    }

    fn names(walked: &Walked) -> Vec<String> {
        walked
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Device { device, by_anchor, .. } => {
                    format!("{device}{}", if *by_anchor { "?" } else { "" })
                }
                Piece::Skipped(range) => format!("skipped {range:?}"),
            })
            .collect()
    }

    #[test]
    fn a_whole_tail_walks_without_findings() {
        let (bytes, description) = tail();
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        assert_eq!(walked.findings, []);
        assert_eq!(names(&walked), ["0", "1", "2"]);
    }

    #[test]
    fn a_section_of_another_length_ends_before_the_next_header() {
        let (mut bytes, description) = tail();
        bytes.splice(16..16, [1, 2, 3]);
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        assert_eq!(walked.findings, []);
        assert_eq!(names(&walked), ["0?", "1", "2"]);
    }

    #[test]
    fn behind_a_damaged_footer_the_walk_goes_on_and_says_what_it_skipped() {
        let (mut bytes, description) = tail();
        let section = bytes.len() / 3;
        bytes[2 * section - 1] ^= 1;
        let walked = walk(&bytes, 0x100, &description.devices, true, Some(0));
        assert_eq!(
            names(&walked),
            ["0".to_owned(), format!("skipped {section}..{}", 2 * section), "2".to_owned()]
        );
        assert_eq!(
            walked.findings[0].to_string(),
            "offset 0x127: device 1 \"b\": its footer is neither where the vmdesc has it nor before the next section"
        );
    }

    #[test]
    fn behind_a_second_footer_the_walk_goes_on_at_once() {
        let (mut bytes, description) = tail();
        let section = bytes.len() / 3;
        let footer = bytes[section - FOOTER_BYTES..section].to_vec();
        bytes.splice(section..section, footer);
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        let skipped = format!("skipped {section}..{}", section + FOOTER_BYTES);
        assert_eq!(names(&walked), ["0".to_owned(), skipped, "1".to_owned(), "2".to_owned()]);
        assert_eq!(walked.findings.len(), 1);
    }

    #[test]
    fn in_the_middle_of_something_else_the_walk_begins_at_the_first_anchor() {
        let (bytes, description) = tail();
        let walked = walk(&bytes[3..], 0, &description.devices, true, None);
        let section = bytes.len() / 3;
        assert_eq!(names(&walked), [format!("skipped 0..{}", section - 3), "1".to_owned(), "2".to_owned()]);
    }

    #[test]
    fn a_section_that_is_cut_off_or_no_section_is_told() {
        let (bytes, description) = tail();
        let said = |bytes: &[u8], footers: bool| {
            let walked = walk(bytes, 0x100, &description.devices, footers, Some(0));
            walked.findings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said(&bytes[..7], true)[0], "offset 0x100: device 0 \"a\": device section is cut off");
        // What follows is damaged, and then missing: one finding tells it.
        let mut damaged = bytes[..bytes.len() / 3 + 9].to_vec();
        damaged[3] ^= 0x10;
        assert_eq!(said(&damaged, true).len(), 1, "{:?}", said(&damaged, true));
        // The same, where the walk goes on in between.
        let mut damaged = bytes[..bytes.len() / 3 * 2].to_vec();
        damaged[3] ^= 0x10;
        assert_eq!(said(&damaged, true).len(), 1, "{:?}", said(&damaged, true));
        // Without footers there is nothing to begin at again.
        let walked = walk(&bytes, 0, &description.devices, false, None);
        assert_eq!(names(&walked), [format!("skipped 0..{}", bytes.len())]);
    }

    #[test]
    fn the_walk_goes_on_at_no_section_that_has_been() {
        let (bytes, description) = tail();
        let section = bytes.len() / 3;
        // The second section is nonsense; behind it the first one comes again, and half a header.
        let mut wrong = bytes[..section].to_vec();
        wrong.extend_from_slice(b"\x05\x7e\0\0\0\x09");
        wrong.extend_from_slice(&bytes[..section]);
        wrong.extend_from_slice(&bytes[2 * section..2 * section + 4]);
        let walked = walk(&wrong, 0, &description.devices, true, Some(0));
        assert_eq!(names(&walked), ["0".to_owned(), format!("skipped {section}..{}", wrong.len())]);
        assert_eq!(walked.findings.len(), 1);
    }

    #[test]
    fn a_section_of_another_length_before_no_section_is_told() {
        let (mut bytes, description) = tail();
        let section = bytes.len() / 3;
        bytes.splice(16..16, [1, 2, 3]);
        bytes[section + 3] = 9;
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        assert_eq!(names(&walked), [format!("skipped 0..{}", 2 * section + 3), "2".to_owned()]);
        assert!(walked.findings[0].to_string().contains("its footer is neither"), "{:?}", walked.findings);
    }

    #[test]
    fn a_device_that_is_missing_is_reported() {
        let (bytes, description) = tail();
        let walked = walk(&bytes[..bytes.len() / 3 * 2], 0, &description.devices, true, Some(0));
        assert_eq!(
            walked.findings[0].to_string(),
            "offset 0x30: device 2 \"c\": described by the vmdesc, but not in the stream"
        );
    }

    #[test]
    fn another_instance_is_another_device() {
        let (mut bytes, description) = tail();
        // Mark, id, name, instance: the first section's is its byte 10.
        bytes[10] = 1;
        let walked = walk(&bytes, 0x100, &description.devices, true, Some(0));
        assert_eq!(names(&walked), ["skipped 0..24", "1", "2"]);
        let findings: Vec<String> = walked.findings.iter().map(ToString::to_string).collect();
        assert_eq!(findings, ["offset 0x100: device 0 \"a\": another device than the vmdesc has here"]);
    }

    #[test]
    fn what_is_cut_off_is_reported_where_it_begins() {
        let (bytes, description) = tail();
        let check = |cut: usize, expected: &str| {
            let walked = walk(&bytes[..cut], 0x100, &description.devices, true, Some(0));
            assert_eq!(walked.findings.len(), 1);
            assert_eq!(walked.findings[0].to_string(), expected);
        };
        check(30, "offset 0x118: device 1 \"b\": device section is cut off");
        let neither = "its footer is neither where the vmdesc has it nor before the next section";
        check(45, &format!("offset 0x127: device 1 \"b\": {neither}"));
        let more = [&bytes[..], &[0; 3]].concat();
        let walked = walk(&more, 0x100, &description.devices, true, Some(0));
        assert_eq!(
            walked.findings[0].to_string(),
            "offset 0x148: 3 bytes behind the last device of the vmdesc"
        );
        assert_eq!(names(&walked), ["0", "1", "2", "skipped 72..75"]);
    }

    #[test]
    fn without_footers_the_description_alone_tells_where_sections_end() {
        let (bytes, description) = tail();
        let bare: Vec<u8> = bytes.chunks(24).flat_map(|section| &section[..19]).copied().collect();
        let walked = walk(&bare, 0, &description.devices, false, Some(0));
        assert_eq!((walked.findings, walked.pieces.len()), (Vec::new(), 3));
        assert!(
            matches!(&walked.pieces[1], Piece::Device { body, footer, .. } if *body == (34..38) && *footer == (38..38))
        );
        let damaged = [&bare[..19], &[0], &bare[20..]].concat();
        let walked = walk(&damaged, 0, &description.devices, false, Some(0));
        assert_eq!(names(&walked), ["0", "skipped 19..57"]);
    }

    #[test]
    fn only_so_many_sections_are_searched_for_their_ends() {
        let (mut bytes, mut devices) = (Vec::new(), Vec::new());
        for id in 0..70 {
            let header =
                SectionHeader { section_id: SectionId(id), idstr: b"d", instance_id: id, version_id: 1 };
            put_section_header(&mut bytes, true, &header);
            bytes.extend_from_slice(&[0xaa; 4]);
            put_section_footer(&mut bytes, SectionId(id));
            devices.push(format!(
                r#"{{"name": "d", "instance_id": {id}, "fields": [{{"name": "x", "type": "uint8", "size": 1}}]}}"#
            ));
        }
        let json = format!(r#"{{"devices": [{}]}}"#, devices.join(","));
        let description = crate::device::Description::parse(json.as_bytes()).unwrap();
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        let found = names(&walked).iter().filter(|name| name.ends_with('?')).count();
        assert_eq!((found, walked.findings.len()), (ANCHORED_LIMIT, 6));
    }

    #[test]
    fn the_device_that_is_expected_is_found_behind_what_is_none() {
        let (mut bytes, description) = tail();
        let section = bytes.len() / 3;
        bytes.splice(section..section, *b"\x05\x7e\0\0\0\x09");
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        assert_eq!(names(&walked), ["0", "skipped 24..30", "1", "2"]);
    }

    #[test]
    fn the_last_section_may_have_another_length_and_ends_with_the_bytes() {
        let (mut bytes, description) = tail();
        let last = bytes.len() - FOOTER_BYTES;
        bytes.splice(last..last, [1, 2, 3]);
        let walked = walk(&bytes, 0, &description.devices, true, Some(0));
        assert_eq!(
            (names(&walked), walked.findings),
            (["0", "1", "2?"].map(str::to_owned).to_vec(), Vec::new())
        );
        let Piece::Device { body, footer, .. } = &walked.pieces[2] else { panic!("a device") };
        assert_eq!((body.clone(), footer.clone()), (63..70, 70..75));
    }

    #[test]
    fn a_vmdesc_reaches_to_the_end() {
        let bytes = [&[0x7e, 0, 0, 0, 9][..], b"\0\x06\0\0\0\x02{}"].concat();
        assert_eq!(find_vmdesc(&bytes), Some(5));
        assert_eq!(find_vmdesc(&bytes[..12]), None);
    }
}
