//! Whatever a vmdesc says of whatever bytes: pieces and fields leave no byte out and none twice,
//! and sums add up; and devices that are as they are described come back whole. New MACs
//! for the NICs among them change no length and nothing behind the sections, or nothing at all.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use migration_stream::device::{Decoded, Guess, State, Value, Vmdesc, decode, guess};
use migration_stream::device_tail::{Located, OnError, Piece, Walker, locate};
use migration_stream::{
    Decoder, Options, QEMU_VM_EOF, SectionHeader, SectionId, put_section_footer, put_section_header, put_str8,
};
use snapshot_engine::identity::{IdentityConfig, Others, rewrite};
use std::fmt::Write;
use std::ops::Range;

/// Nested deeper than QEMU's own descriptions.
const DEPTH: usize = 6;

#[derive(Debug, Arbitrary)]
enum Kind {
    Integer { bits: u8, signed: bool },
    Bool,
    Timer,
    Buffer { bytes: u8 },
    Unused { bytes: u8 },
    Struct(Fields),
    Queue(Vec<Fields>),
}

#[derive(Debug, Arbitrary)]
struct Fields {
    fields: Vec<(Kind, Option<u8>)>,
    subsections: Vec<Fields>,
}

#[derive(Debug, Arbitrary)]
struct Machine {
    footers: bool,
    devices: Vec<(u8, u8, Fields)>,
    fill: u8,
}

/// Ranges that follow each other from 0 to `end`.
fn assert_gapless(ranges: impl Iterator<Item = Range<usize>>, end: usize) {
    let mut at = 0;
    for range in ranges {
        assert!(range.start == at && range.end >= at, "{range:?} behind {at}");
        at = range.end;
    }
    assert_eq!(at, end);
}

fn checked<'a>(body: &'a [u8], state: &'a State) -> Decoded<'a> {
    let decoded = decode(body, state);
    let range = |offset: usize, bytes: &[u8]| offset..offset + bytes.len();
    assert_gapless(decoded.fields.iter().map(|field| range(field.offset, field.bytes)), body.len());
    let fields = decoded.fields.iter();
    let undecoded: usize =
        fields.filter(|it| matches!(it.value, Value::Undecoded(_))).map(|it| it.bytes.len()).sum();
    assert!(decoded.undecoded_bytes <= undecoded && undecoded <= body.len());
    decoded
}

/// NICs by the names of their states; what is in them is anything.
const NICS: [&str; 4] = ["rtl8139", "virtio-net", "e1000", "vmxnet3"];

/// Gives the NICs of a tail, whose EOF is there, new addresses.
fn clone(tail: &[u8], eof: usize) {
    let others = Others::Derive { seed: 1, index: 2 };
    let config = IdentityConfig { macs: Vec::new(), keep: Vec::new(), others };
    let mut after = tail.to_vec();
    match rewrite(&mut after, &Decoder::new(Options::default()), &config) {
        Err(_) => assert!(after == tail),
        Ok(_) => assert!(after.len() == tail.len() && after[eof..] == tail[eof..]),
    }
}

/// The end of a stream, cut anywhere.
fn any(switches: u8, bytes: &[u8]) {
    let footers = switches & 1 == 1;
    let parts = guess(bytes, footers);
    let ranges = parts.iter().flat_map(|part| match part {
        Guess::Device { head, body, footer, .. } => vec![head.clone(), body.clone(), footer.clone()],
        Guess::Command(_, range) | Guess::Eof(range) | Guess::Opaque(range) => vec![range.clone()],
    });
    assert_gapless(ranges, bytes.len());
    let Some(Located { eof, vmdesc }) = locate(bytes) else { return };
    clone(bytes, eof);
    let Some(description) = Vmdesc::parse(&bytes[vmdesc]) else { return };
    let devices = &description.devices;
    let walker = Walker { devices, first: 0, footers, on_error: OnError::Resync };
    let sections = &bytes[..eof];
    let walked = if switches & 2 == 2 { walker.walk(sections, 0) } else { walker.walk_within(sections, 0) };
    // Who stops at the first error sees the same up to there, and no error where there is none.
    let stopping = Walker { on_error: OnError::Stop, ..walker }.walk(sections, 0);
    if switches & 2 == 2 {
        assert_eq!(stopping.findings.first(), walked.findings.first());
    }
    let ranges = walked.pieces.iter().flat_map(|piece| match piece {
        Piece::Device { head, body, footer, .. } => vec![head.clone(), body.clone(), footer.clone()],
        Piece::Skipped(range) => vec![range.clone()],
    });
    assert_gapless(ranges, eof);
    for piece in &walked.pieces {
        if let Piece::Device { device, body, .. } = piece {
            checked(&bytes[body.clone()], &description.devices[*device].state);
        }
    }
    // And each description of bytes that it was not made for.
    for device in description.devices.iter().take(4) {
        checked(bytes, &device.state);
    }
}

/// Writes a description beside the bytes that it describes.
struct Maker {
    json: String,
    fill: u8,
}

impl Maker {
    fn text(&mut self, text: std::fmt::Arguments<'_>) {
        self.json.write_fmt(text).expect("a String takes everything");
    }

    fn bytes(&mut self, body: &mut Vec<u8>, count: usize) {
        for _ in 0..count {
            self.fill = self.fill.wrapping_mul(5).wrapping_add(1);
            body.push(self.fill);
        }
    }

    /// `"vmsd_name": …, "version": …, "fields": […], "subsections": […]`, and the bytes.
    fn state(&mut self, name: &str, state: &Fields, body: &mut Vec<u8>, depth: usize) {
        self.text(format_args!(r#""vmsd_name": "{name}", "version": 2, "fields": ["#));
        for (number, (kind, count)) in state.fields.iter().enumerate().take(32) {
            if depth < DEPTH {
                let comma = if number == 0 { "" } else { ", " };
                self.text(format_args!("{comma}"));
                self.field(number, kind, *count, body, depth);
            }
        }
        self.text(format_args!(r#"], "subsections": ["#));
        for (number, subsection) in state.subsections.iter().enumerate().take(8) {
            if depth < DEPTH {
                let name = format!("{name}/{number}");
                body.push(5);
                put_str8(body, name.as_bytes());
                body.extend_from_slice(&2u32.to_be_bytes());
                let comma = if number == 0 { "{" } else { ", {" };
                self.text(format_args!("{comma}"));
                self.state(&name, subsection, body, depth + 1);
                self.text(format_args!("}}"));
            }
        }
        self.text(format_args!("]"));
    }

    fn field(&mut self, number: usize, kind: &Kind, count: Option<u8>, body: &mut Vec<u8>, depth: usize) {
        // Elements of different sizes are described one by one, so that only flat ones are repeated here.
        let count = count.filter(|_| !matches!(kind, Kind::Struct(_) | Kind::Queue(_)));
        self.text(format_args!(r#"{{"name": "f{number}", "#));
        if let Some(count) = count {
            self.text(format_args!(r#""array_len": {count}, "#));
        }
        let from = body.len();
        let (type_name, size) = match kind {
            Kind::Integer { bits, signed } => {
                let bytes = 1usize << (bits % 4);
                (format!("{}int{}", if *signed { "" } else { "u" }, bytes * 8), bytes)
            }
            Kind::Bool => ("bool".to_owned(), 1),
            Kind::Timer => ("timer".to_owned(), 8),
            Kind::Buffer { bytes } => ("buffer".to_owned(), usize::from(*bytes)),
            Kind::Unused { bytes } => ("unused_buffer".to_owned(), usize::from(*bytes)),
            Kind::Struct(fields) => {
                self.text(format_args!(r#""struct": {{"#));
                self.state("s", fields, body, depth + 1);
                self.text(format_args!("}}, "));
                ("struct".to_owned(), body.len() - from)
            }
            Kind::Queue(elements) => {
                for element in elements.iter().take(4) {
                    body.push(1);
                    self.state("e", element, body, depth + 1);
                    self.text(format_args!(", "));
                }
                body.push(0);
                ("qtailq".to_owned(), body.len() - from)
            }
        };
        if body.len() == from {
            self.bytes(body, size * usize::from(count.unwrap_or(1)));
        }
        self.text(format_args!(r#""type": "{type_name}", "size": {size}}}"#));
    }
}

/// Devices that are as they are described.
fn made(machine: &Machine) {
    let mut maker = Maker { json: r#"{"page_size": 4096, "devices": ["#.to_owned(), fill: machine.fill };
    let (mut tail, mut bodies) = (Vec::new(), Vec::new());
    for (number, (name, instance, fields)) in machine.devices.iter().enumerate().take(16) {
        let name = NICS[usize::from(name % 4)];
        let comma = if number == 0 { "" } else { ", " };
        maker.text(format_args!(r#"{comma}{{"name": "{name}", "instance_id": {instance}, "#));
        let mut body = Vec::new();
        maker.state(name, fields, &mut body, 0);
        maker.text(format_args!("}}"));
        let section_id = SectionId(u32::try_from(number).expect("few"));
        let header = SectionHeader {
            section_id,
            idstr: name.as_bytes(),
            instance_id: u32::from(*instance),
            version_id: 2,
        };
        put_section_header(&mut tail, true, &header);
        let from = tail.len();
        tail.extend_from_slice(&body);
        bodies.push(from..tail.len());
        if machine.footers {
            put_section_footer(&mut tail, section_id);
        }
    }
    maker.text(format_args!("]}}"));
    if machine.footers {
        let mut whole = tail.clone();
        whole.extend_from_slice(&[QEMU_VM_EOF, 6]);
        whole.extend_from_slice(&u32::try_from(maker.json.len()).expect("short").to_be_bytes());
        whole.extend_from_slice(maker.json.as_bytes());
        clone(&whole, tail.len());
    }
    let description = Vmdesc::parse(maker.json.as_bytes()).expect(&maker.json);
    let walker =
        Walker { devices: &description.devices, first: 0, footers: machine.footers, on_error: OnError::Stop };
    let walked = walker.walk(&tail, 0);
    assert_eq!(walked.findings, [], "{}", maker.json);
    assert_eq!(walked.pieces.len(), bodies.len());
    for (number, (piece, expected)) in walked.pieces.iter().zip(&bodies).enumerate() {
        let Piece::Device { device, body, by_anchor, .. } = piece else { panic!("{piece:?}") };
        assert_eq!((*device, body, *by_anchor), (number, expected, false));
        let decoded = checked(&tail[body.clone()], &description.devices[number].state);
        assert_eq!(decoded.undecoded_bytes, 0, "{:?} of {}", decoded.fields, maker.json);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&switches, rest)) = input.split_first() else { return };
    if switches & 4 == 0 {
        any(switches, rest);
    } else if let Ok(machine) = Machine::arbitrary(&mut Unstructured::new(rest)) {
        made(&machine);
    }
});
