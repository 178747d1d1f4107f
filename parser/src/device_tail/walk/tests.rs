//! Tests of the walk.

use super::*;
use crate::section::{SectionId, put_section_header};

fn tail() -> (Vec<u8>, crate::device::Vmdesc) {
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
    (bytes, crate::device::Vmdesc::parse(format!(r#"{{"devices": [{devices}]}}"#).as_bytes()).unwrap())
}

fn walker(vmdesc: &crate::device::Vmdesc, footers: bool) -> Walker<'_> {
    Walker { devices: &vmdesc.devices, first: 0, footers, on_error: OnError::Resync }
}

fn names(walked: &Walked<'_>) -> Vec<String> {
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
    let walked = walker(&description, true).walk(&bytes, 0);
    assert_eq!(walked.findings, []);
    assert_eq!(names(&walked), ["0", "1", "2"]);
}

#[test]
fn a_section_of_another_length_ends_before_the_next_header() {
    let (mut bytes, description) = tail();
    bytes.splice(16..16, [1, 2, 3]);
    let walked = walker(&description, true).walk(&bytes, 0);
    assert_eq!(walked.findings, []);
    assert_eq!(names(&walked), ["0?", "1", "2"]);
}

#[test]
fn behind_a_damaged_footer_the_walk_goes_on_and_says_what_it_skipped() {
    let (mut bytes, description) = tail();
    let section = bytes.len() / 3;
    bytes[2 * section - 1] ^= 1;
    let walked = walker(&description, true).walk(&bytes, 0x100);
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
    let walked = walker(&description, true).walk(&bytes, 0);
    let skipped = format!("skipped {section}..{}", section + FOOTER_BYTES);
    assert_eq!(names(&walked), ["0".to_owned(), skipped, "1".to_owned(), "2".to_owned()]);
    assert_eq!(walked.findings.len(), 1);
}

#[test]
fn in_the_middle_of_something_else_the_walk_begins_at_the_first_anchor() {
    let (bytes, description) = tail();
    let walked = walker(&description, true).walk_within(&bytes[3..], 0);
    let section = bytes.len() / 3;
    assert_eq!(names(&walked), [format!("skipped 0..{}", section - 3), "1".to_owned(), "2".to_owned()]);
}

#[test]
fn a_section_that_is_cut_off_or_no_section_is_told() {
    let (bytes, description) = tail();
    let said = |bytes: &[u8], footers: bool| {
        let walked = walker(&description, footers).walk(bytes, 0x100);
        walked.findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(said(&bytes[..7], true)[0], "offset 0x100: device 0 \"a\": device section is cut off");
    // What follows is damaged, and then missing: one finding says it.
    let mut damaged = bytes[..bytes.len() / 3 + 9].to_vec();
    damaged[3] ^= 0x10;
    assert_eq!(said(&damaged, true).len(), 1, "{:?}", said(&damaged, true));
    // The same, where the walk goes on in between.
    let mut damaged = bytes[..bytes.len() / 3 * 2].to_vec();
    damaged[3] ^= 0x10;
    assert_eq!(said(&damaged, true).len(), 1, "{:?}", said(&damaged, true));
    // Without footers there is nothing to begin at again.
    let walked = walker(&description, false).walk_within(&bytes, 0);
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
    let walked = walker(&description, true).walk(&wrong, 0);
    assert_eq!(names(&walked), ["0".to_owned(), format!("skipped {section}..{}", wrong.len())]);
    assert_eq!(walked.findings.len(), 1);
}

#[test]
fn a_section_of_another_length_before_no_section_is_told() {
    let (mut bytes, description) = tail();
    let section = bytes.len() / 3;
    bytes.splice(16..16, [1, 2, 3]);
    bytes[section + 3] = 9;
    let walked = walker(&description, true).walk(&bytes, 0);
    assert_eq!(names(&walked), [format!("skipped 0..{}", 2 * section + 3), "2".to_owned()]);
    assert!(walked.findings[0].to_string().contains("its footer is neither"), "{:?}", walked.findings);
}

#[test]
fn a_device_that_is_missing_is_reported() {
    let (bytes, description) = tail();
    let walked = walker(&description, true).walk(&bytes[..bytes.len() / 3 * 2], 0);
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
    let walked = walker(&description, true).walk(&bytes, 0x100);
    assert_eq!(names(&walked), ["skipped 0..24", "1", "2"]);
    let findings: Vec<String> = walked.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, ["offset 0x100: device 0 \"a\": another device than the vmdesc has here"]);
}

#[test]
fn what_is_cut_off_is_reported_where_it_begins() {
    let (bytes, description) = tail();
    let check = |cut: usize, expected: &str| {
        let walked = walker(&description, true).walk(&bytes[..cut], 0x100);
        assert_eq!(walked.findings.len(), 1);
        assert_eq!(walked.findings[0].to_string(), expected);
    };
    check(30, "offset 0x118: device 1 \"b\": device section is cut off");
    let neither = "its footer is neither where the vmdesc has it nor before the next section";
    check(45, &format!("offset 0x127: device 1 \"b\": {neither}"));
    let more = [&bytes[..], &[0; 3]].concat();
    let walked = walker(&description, true).walk(&more, 0x100);
    assert_eq!(walked.findings[0].to_string(), "offset 0x148: 3 bytes behind the last device of the vmdesc");
    assert_eq!(names(&walked), ["0", "1", "2", "skipped 72..75"]);
}

#[test]
fn without_footers_the_description_alone_tells_where_sections_end() {
    let (bytes, description) = tail();
    let bare: Vec<u8> = bytes.chunks(24).flat_map(|section| &section[..19]).copied().collect();
    let walked = walker(&description, false).walk(&bare, 0);
    assert_eq!((walked.findings, walked.pieces.len()), (Vec::new(), 3));
    assert!(matches!(
        &walked.pieces[1],
        Piece::Device { body, footer, .. } if *body == (34..38) && *footer == (38..38)
    ));
    let damaged = [&bare[..19], &[0], &bare[20..]].concat();
    let walked = walker(&description, false).walk(&damaged, 0);
    assert_eq!(names(&walked), ["0", "skipped 19..57"]);
}

#[test]
fn only_so_many_sections_are_searched_for_their_ends() {
    let (mut bytes, mut devices) = (Vec::new(), Vec::new());
    for id in 0..70 {
        let header = SectionHeader { section_id: SectionId(id), idstr: b"d", instance_id: id, version_id: 1 };
        put_section_header(&mut bytes, true, &header);
        bytes.extend_from_slice(&[0xaa; 4]);
        put_section_footer(&mut bytes, SectionId(id));
        devices.push(format!(
            r#"{{"name": "d", "instance_id": {id}, "fields": [{{"name": "x", "type": "uint8", "size": 1}}]}}"#
        ));
    }
    let json = format!(r#"{{"devices": [{}]}}"#, devices.join(","));
    let description = crate::device::Vmdesc::parse(json.as_bytes()).unwrap();
    let walked = walker(&description, true).walk(&bytes, 0);
    let found = names(&walked).iter().filter(|name| name.ends_with('?')).count();
    assert_eq!((found, walked.findings.len()), (ANCHORED_LIMIT, 6));
}

#[test]
fn the_device_that_is_expected_is_found_behind_what_is_none() {
    let (mut bytes, description) = tail();
    let section = bytes.len() / 3;
    bytes.splice(section..section, *b"\x05\x7e\0\0\0\x09");
    let walked = walker(&description, true).walk(&bytes, 0);
    assert_eq!(names(&walked), ["0", "skipped 24..30", "1", "2"]);
}

#[test]
fn the_last_section_may_have_another_length_and_ends_with_the_bytes() {
    let (mut bytes, description) = tail();
    let last = bytes.len() - FOOTER_BYTES;
    bytes.splice(last..last, [1, 2, 3]);
    let walked = walker(&description, true).walk(&bytes, 0);
    assert_eq!((names(&walked), walked.findings), (["0", "1", "2?"].map(str::to_owned).to_vec(), Vec::new()));
    let Piece::Device { body, footer, .. } = &walked.pieces[2] else { panic!("a device") };
    assert_eq!((body.clone(), footer.clone()), (63..70, 70..75));
}
