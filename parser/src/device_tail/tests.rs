//! Tests of whole tails.

use super::*;
use crate::decoder::Options;
use crate::decoder::VMDESC_LIMIT_BYTES;
use crate::section::{
    QEMU_VM_SECTION_FULL, QEMU_VM_VMDESCRIPTION, SectionId, put_section_footer, put_section_header,
};

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
    format!(r#"{{"name":"{name}","instance_id":0,"fields":[{{"name":"a","type":"buffer","size":{size}}}]}}"#)
}

fn vmdesc(devices: &[String]) -> String {
    format!(r#"{{"page_size":4096,"devices":[{}]}}"#, devices.join(","))
}

#[test]
fn what_is_no_section_before_eof_is_refused() {
    let json = vmdesc(&[]);
    let device = device(b"a", 1, &[], true);
    let behind_eof = [&[QEMU_VM_EOF][..], &device].concat();
    let error_of = |tail: &[u8]| cut(tail, 0x100, &Decoder::new(Options::default())).unwrap_err().to_string();
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
        assert_eq!(locate(&tail[..end]), None, "{end} bytes");
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
    // The footer and the header of the next device twice: nothing shows which of them it is.
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
        (VMDESC_LIMIT_BYTES + 1, true, Some("offset 0x2f: vmdesc length is 16777217, the limit is 16777216")),
        (u32::MAX, true, Some("offset 0x2f: vmdesc length is 4294967295, the limit is 16777216")),
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
fn the_end_is_expected_behind_a_vmdesc_that_begins() {
    let begin = |footer: u8, eof: [u8; 7]| expected_end(&[&[0, footer, 1, 2, 3, 4][..], &eof].concat(), 0);
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
    let told = |size: u64| page_size(&with_vmdesc(&[], &format!(r#"{{"page_size":{size},"devices":[]}}"#)));
    for size in [1 << 10, 1 << 12, 1 << 16] {
        assert_eq!(told(size).map(u64::from), Some(size));
    }
    for size in [0, 1 << 9, 3 << 10, 1 << 17, 1 << 32 | 1 << 12] {
        assert_eq!(told(size), None, "{size:#x}");
    }
}
