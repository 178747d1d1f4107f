//! A save and the inspector have one opinion of where device sections end: whatever the stream, and whatever
//! its vmdesc says.

use crate::common::{names, stream};
use migration_stream::device_tail::{self, locate};
use migration_stream::{Decoder, Options, Record, SliceReader, Step};
use snapinspect::input::{OpenOptions, open_reader};
use snapinspect::walk::{Context, Event, Finding, Flow, Item, Level, Visitor, walk};
use std::io::Cursor;
use std::ops::{ControlFlow, Range};

/// Device sections by name and place of the state in the stream; or why they cannot be told apart.
type Sections = Result<Vec<(String, Range<u64>)>, String>;

/// What a save sees; `None` for a stream that it does not store (one without a device tail that has a
/// vmdesc).
fn saved(stream: &[u8]) -> Option<(u64, Sections)> {
    let page_size = SliceReader::new(stream, Options::default()).decoder().page_size();
    let mut decoder = Decoder::new(Options::default().with_page_size(page_size));
    let mut at = 0;
    while let Ok(Step::Record { len, record }) = decoder.step(&stream[at..]) {
        if matches!(record, Record::DeviceTail) {
            let offset = at as u64;
            locate(&stream[at..])?;
            let tail = match device_tail::cut(&stream[at..], offset, &decoder) {
                Ok(tail) => tail,
                Err(error) => return Some((offset, Err(error.to_string()))),
            };
            let place = |body: &Range<usize>| offset + body.start as u64..offset + body.end as u64;
            let sections = tail.sections.map(|sections| {
                let named = |header: &[u8]| header.escape_ascii().to_string();
                sections.iter().map(|(header, body)| (named(header.idstr), place(body))).collect()
            });
            return Some((offset, sections.ok_or_else(|| tail.finding.expect("a reason").to_string())));
        }
        at += len;
    }
    None
}

/// What the inspector sees from `from` on.
#[derive(Default)]
struct Seen {
    from: u64,
    sections: Vec<(String, Range<u64>)>,
    findings: Vec<Finding>,
}

impl Visitor for Seen {
    fn item(&mut self, item: &Item<'_>, _: Context<'_>) -> Flow {
        if let Event::Device(section) = &item.event
            && item.offset >= self.from
            && section.description.is_some()
        {
            let start = item.offset + section.header_bytes as u64;
            let name = section.header.idstr.escape_ascii().to_string();
            self.sections.push((name, start..start + section.body.len() as u64));
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        self.findings.push(finding);
        ControlFlow::Continue(())
    }
}

fn inspected(stream: &[u8], from: u64) -> Seen {
    let page_size = SliceReader::new(stream, Options::default()).decoder().page_size();
    let options = OpenOptions { page_size: Some(page_size), ..OpenOptions::default() };
    let opened = open_reader("stream", Cursor::new(stream.to_vec()), &options).expect("a stream");
    let mut seen = Seen { from, ..Seen::default() };
    walk(opened, &options, &mut seen, None).expect("memory can be read");
    seen
}

#[test]
fn a_save_and_the_inspector_cut_each_stream_at_the_same_places() {
    let mut compared = 0;
    for file in names() {
        let Some(name) = file.strip_suffix(".bin.zst") else { continue };
        let bytes = stream(name);
        let Some((offset, sections)) = saved(&bytes) else { continue };
        assert_eq!(sections.as_ref(), Ok(&inspected(&bytes, offset).sections), "{name}");
        compared += 1;
    }
    assert!(compared > 60, "{compared} streams: the corpus is part of the repository");
}

/// How the two understand a vmdesc.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All sections are as it describes them.
    Described,
    /// One of them has another length; it ends before the next one.
    Anchored,
    /// It is no description of devices.
    NoDescription,
}

#[test]
fn a_save_and_the_inspector_understand_keys_that_are_given_twice_or_missing_alike() {
    let original = stream("qemu-7.2-pc");
    let (_, expected) = saved(&original).expect("it has a device tail");
    let expected = expected.expect("QEMU describes its sections");
    let located = locate(&original).expect("it has a vmdesc");
    let json = std::str::from_utf8(&original[located.vmdesc.clone()]).expect("QEMU writes ASCII");
    // The first device is `timer`, whose first field has 8 bytes.
    for (old, new, verdict) in [
        (r#""size": 8"#, r#""size": 8"#, Verdict::Described),
        (r#""size": 8"#, r#""size": 9, "size": 8"#, Verdict::Described),
        (r#""size": 8"#, r#""size": 8, "size": 9"#, Verdict::Anchored),
        (r#""fields": ["#, r#""fields": [], "fields": ["#, Verdict::Described),
        (r#""name": "timer""#, r#""name": "other", "name": "timer""#, Verdict::Described),
        (r#""devices": ["#, r#""devices": [], "devices": ["#, Verdict::Described),
        (r#""size": 8"#, r#""bytes": 8"#, Verdict::NoDescription),
        (r#""size": 8"#, r#""size": "8""#, Verdict::NoDescription),
        (r#""size": 8"#, r#""array_len": -1, "size": 8"#, Verdict::NoDescription),
        (r#""type": "#, r#""kind": "#, Verdict::NoDescription),
        (r#""instance_id": "#, r#""instance": "#, Verdict::NoDescription),
        (r#""devices": "#, r#""machines": "#, Verdict::NoDescription),
    ] {
        let described = json.replacen(old, new, 1);
        let (case, length) = (format!("{old} -> {new}"), u32::try_from(described.len()).expect("short"));
        assert!(old == new || described != json, "{case}: not in the vmdesc: {}", &json[..300]);
        let before = &original[..located.vmdesc.start - 4];
        let bytes = [before, &length.to_be_bytes(), described.as_bytes()].concat();

        let (offset, sections) = saved(&bytes).expect("it has a device tail");
        let seen = inspected(&bytes, offset);
        let wrong = seen.findings.iter().find(|finding| finding.level != Level::Note);
        match (&sections, wrong) {
            (Ok(sections), wrong) => {
                assert_eq!((sections, &seen.sections), (&expected, &expected), "{case}");
                let found = if wrong.is_some() { Verdict::Anchored } else { Verdict::Described };
                assert_eq!(found, verdict, "{case}: {wrong:?}");
            }
            (Err(error), Some(wrong)) => {
                assert!(error.contains(&wrong.text), "{case}: {error}, {wrong:?}");
                assert_eq!(verdict, Verdict::NoDescription, "{case}: {error}");
            }
            (Err(error), None) => panic!("{case}: {error}, and the inspector finds nothing"),
        }
    }
}
