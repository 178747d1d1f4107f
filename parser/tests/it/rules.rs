//! Rules that no capture breaks: each is broken once, in a stream that is right otherwise, and the whole
//! message is compared. Both readers say the same, the one that pulls also when its source is slow and
//! interrupted.

use migration_stream::{
    BlockList, BlockMigration, ChannelKind, Command, Decoder, Entry, Options, QEMU_VM_EOF,
    RAM_SECTION_VERSION, RamBlock, ReadError, Record, SectionHeader, SectionId, SliceReader, Step,
    StorageAttributes, StreamReader, put_block_migration, put_command, put_end_of_section, put_file_header,
    put_ram_blocks, put_section_end, put_section_footer, put_section_header, put_section_part,
    put_storage_attributes, put_zero_page,
};
use std::io::{self, Read};

const WHOLE: &str = "whole";

/// A few bytes at a time, and now and then a signal.
struct Slow<'a> {
    bytes: &'a [u8],
    calls: usize,
}

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = out.len().min(self.bytes.len()).min(1 + self.calls * 7);
        let (now, later) = self.bytes.split_at(length);
        out[..length].copy_from_slice(now);
        self.bytes = later;
        Ok(length)
    }
}

/// What both readers say of these bytes: the same, and after an error nothing more.
fn said(bytes: &[u8]) -> String {
    let mut slice = SliceReader::new(bytes, Options::default());
    let slice = loop {
        match slice.advance() {
            Ok(Some(_)) => {}
            Ok(None) => break WHOLE.to_owned(),
            Err(error) => {
                assert_eq!(slice.advance().unwrap(), None);
                break error.to_string();
            }
        }
    };
    let mut pull = StreamReader::new(Slow { bytes, calls: 0 }, Options::default());
    let pull = loop {
        match pull.advance() {
            Ok(Some(_)) => {}
            Ok(None) => break WHOLE.to_owned(),
            Err(error) => {
                assert!(matches!(error, ReadError::Stream(_)), "{error}");
                let words = error.to_string();
                assert_eq!(pull.advance().unwrap(), None);
                break words;
            }
        }
    };
    assert_eq!(slice, pull, "the readers disagree");
    slice
}

/// A stream that goes on so behind its header, which takes 8 bytes.
fn stream(rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    out.extend_from_slice(rest);
    out
}

fn start(out: &mut Vec<u8>, id: u32, idstr: &[u8], version_id: u32) {
    put_section_header(
        out,
        false,
        &SectionHeader { section_id: SectionId(id), idstr, instance_id: 0, version_id },
    );
}

/// START of `ram`, with a block of 16 pages.
fn ram() -> Vec<u8> {
    let mut out = Vec::new();
    start(&mut out, 1, b"ram", RAM_SECTION_VERSION);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 0x1_0000,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
    put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    out
}

fn command(number: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![8];
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(payload);
    out
}

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

#[test]
fn commands_have_their_values_checked() {
    let advise = |size: u64| said(&stream(&command(3, &words(&[size, size]))));
    for size in [512, 0, 3 << 10, 1 << 17] {
        assert_eq!(
            advise(size),
            format!("offset 0x15: advised page size {size:#x}, expected a power of two, 1 KiB to 64 KiB")
        );
    }
    let discard = |name: &[u8], start: u64, length: u64| {
        let mut payload = vec![0, u8::try_from(name.len()).unwrap()];
        payload.extend_from_slice(name);
        payload.push(0);
        payload.extend(words(&[start, length]));
        said(&stream(&command(6, &payload)))
    };
    assert_eq!(discard(b"", 0, 4096), "offset 0xe: ram block name of length 0");
    assert_eq!(
        discard(b"m", 0, 0),
        "offset 0x19: discard length 0x0, expected a multiple of the host page size"
    );
    assert_eq!(
        discard(b"m", 0, 1000),
        "offset 0x19: discard length 0x3e8, expected a multiple of the host page size"
    );
    assert_eq!(
        discard(b"m", !0xfff, 0x2000),
        "offset 0x19: discard length 0x2000, expected a multiple of the host page size"
    );
    assert_eq!(discard(b"m", 0, 4096), "offset 0x21: truncated: the stream ends without an end mark");
}

#[test]
fn behind_eof_comes_a_vmdesc_or_nothing() {
    let eof = |rest: &[u8]| said(&stream(&[&[QEMU_VM_EOF][..], rest].concat()));
    assert_eq!(eof(b""), WHOLE);
    assert_eq!(eof(b"\x06\0\0\0\x02{}"), WHOLE);
    assert_eq!(eof(b"\x05"), "offset 0x9: bytes behind the end of the stream");
    assert_eq!(eof(b"\x06\0\0\0\x03{}"), "offset 0x10: truncated: the stream ends inside the vmdesc");
    assert_eq!(
        eof(b"\x06\xff\xff\xff\xff"),
        "offset 0xa: vmdesc length is 4294967295, the limit is 16777216"
    );
    assert_eq!(eof(b"\x06\0\0\0\x02{} "), "offset 0x10: bytes behind the end of the stream");
}

#[test]
fn sections_of_ram_have_one_block_list_at_their_start() {
    let mut bytes = Vec::new();
    start(&mut bytes, 1, b"ram", RAM_SECTION_VERSION);
    put_end_of_section(&mut bytes);
    put_section_footer(&mut bytes, SectionId(1));
    put_section_part(&mut bytes, SectionId(1));
    let list = bytes.len() + 8;
    bytes.extend(words(&[0x1_0004]));
    assert_eq!(said(&stream(&bytes)), format!("offset {list:#x}: section 1 \"ram\": second block list"));
}

#[test]
fn iterables_beside_ram_have_their_values_checked() {
    let body = |idstr: &[u8], version: u32, record: &[u8]| {
        let mut bytes = Vec::new();
        start(&mut bytes, 5, idstr, version);
        bytes.extend_from_slice(record);
        said(&stream(&bytes))
    };
    let attributes = |record: &[u8]| body(b"s390-storage_attributes", 0, record);
    assert_eq!(
        attributes(&words(&[0x1008])),
        "offset 0x2d: section 5 \"s390-storage_attributes\": frame of a storage attribute mark 0x1, expected 0"
    );
    assert_eq!(
        attributes(&words(&[0x1001])),
        "offset 0x2d: section 5 \"s390-storage_attributes\": frame of a storage attribute mark 0x1, expected 0"
    );
    assert_eq!(
        body(b"block", 1, &words(&[0x202])),
        "offset 0x1b: section 5 \"block\": sector of a block section's end 0x1, expected 0"
    );
    // An end that names a node is none.
    assert_eq!(
        body(b"dirty-bitmap", 1, b"\x09\x01n"),
        "offset 0x22: section 5 \"dirty-bitmap\": dirty-bitmap chunk: unknown flags"
    );
}

/// What is written is read again: also the records that only other architectures, or old machines, send.
#[test]
fn records_of_other_iterables_survive_a_round_trip() {
    let data = vec![0x5a; migration_stream::BLOCK_CHUNK_BYTES];
    let blocks = [
        BlockMigration::Chunk { sector: 7, device: b"ide0", data: Some(&data) },
        BlockMigration::Chunk { sector: 8, device: b"ide0", data: None },
        BlockMigration::Progress(50),
        BlockMigration::EndOfSection,
    ];
    let attributes = [
        StorageAttributes::Values { frame: 3, values: &[1, 2, 3] },
        StorageAttributes::Done,
        StorageAttributes::EndOfSection,
    ];
    let mut bytes = stream(&[]);
    start(&mut bytes, 5, b"block", 1);
    blocks.iter().for_each(|record| put_block_migration(&mut bytes, record));
    put_section_footer(&mut bytes, SectionId(5));
    start(&mut bytes, 6, b"s390-storage_attributes", 0);
    attributes.iter().for_each(|record| put_storage_attributes(&mut bytes, record));
    put_section_footer(&mut bytes, SectionId(6));
    bytes.push(QEMU_VM_EOF);
    let mut reader = SliceReader::new(&bytes, Options::default());
    let (mut found_blocks, mut found_attributes) = (Vec::new(), Vec::new());
    let mut again = Vec::new();
    while let Some(Entry { record, .. }) = reader.advance().unwrap() {
        record.put(&mut again, &[]);
        match record {
            Record::BlockMigration(record) => found_blocks.push(record),
            Record::StorageAttributes(record) => found_attributes.push(record),
            _ => {}
        }
    }
    assert_eq!((&found_blocks[..], &found_attributes[..]), (&blocks[..], &attributes[..]));
    assert!(again == bytes, "encodes to other bytes");
    assert_eq!(said(&bytes), WHOLE);
}

/// A record that is larger than what is read at once: the buffer grows with it.
#[test]
fn a_record_may_be_larger_than_the_buffer() {
    let package = vec![0xff; 3 << 20];
    let mut bytes = stream(&ram());
    put_command(&mut bytes, &Command::Packaged(&package));
    bytes.push(QEMU_VM_EOF);
    let mut reader = StreamReader::new(&bytes[..], Options::default());
    let mut found = 0;
    while let Some(Entry { record, .. }) = reader.advance().unwrap() {
        if let Record::Command(Command::Packaged(bytes)) = record {
            assert!(bytes == &package[..]);
            found += 1;
        }
    }
    assert_eq!(found, 1);
    assert_eq!(
        said(&bytes[..bytes.len() - (1 << 20)]),
        "offset 0x200047: truncated: the stream ends inside a section header or command"
    );
}

#[test]
fn an_endless_device_tail_is_not_taken_into_memory() {
    let mut head = stream(&ram());
    put_section_end(&mut head, SectionId(1));
    put_end_of_section(&mut head);
    put_section_footer(&mut head, SectionId(1));
    let tail = head.len();
    head.push(4);
    let mut reader = StreamReader::new((&head[..]).chain(io::repeat(0)), Options::default());
    let error = loop {
        match reader.advance() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it has no end"),
            Err(error) => break error.to_string(),
        }
    };
    assert_eq!(
        error,
        format!("offset {tail:#x}: length of the device tail is 536870912, the limit is 268435456")
    );
}

/// A device section of four bytes.
fn device(out: &mut Vec<u8>, id: u32, idstr: &[u8]) {
    put_section_header(
        out,
        true,
        &SectionHeader { section_id: SectionId(id), idstr, instance_id: 0, version_id: 1 },
    );
    out.extend_from_slice(&[0xaa; 4]);
    put_section_footer(out, SectionId(id));
}

/// A whole stream with these sections, and a vmdesc that says that each of `described` has so many bytes.
fn with_tail(sections: &[u8], described: &[(&str, u32)]) -> Vec<u8> {
    with_early_devices(&[], sections, described)
}

/// As [`with_tail`], with sections before RAM.
fn with_early_devices(early: &[u8], sections: &[u8], described: &[(&str, u32)]) -> Vec<u8> {
    let mut out = stream(&[early, &ram()].concat());
    put_section_end(&mut out, SectionId(1));
    put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    out.extend_from_slice(sections);
    let device = |(name, size): &(&str, u32)| {
        format!(
            r#"{{"name": "{name}", "instance_id": 0, "vmsd_name": "{name}", "version": 1, "fields": [{{"name": "x", "type": "buffer", "size": {size}}}]}}"#
        )
    };
    let devices: Vec<String> = described.iter().map(device).collect();
    let json = format!(r#"{{"page_size": 4096, "devices": [{}]}}"#, devices.join(", "));
    out.push(QEMU_VM_EOF);
    out.push(6);
    out.extend_from_slice(&u32::try_from(json.len()).unwrap().to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out
}

#[test]
fn device_sections_and_vmdesc_say_the_same() {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    device(&mut one, 3, b"a");
    device(&mut two, 4, b"b");
    let both = [&one[..], &two].concat();
    assert_eq!(said(&with_tail(&both, &[("a", 4), ("b", 4)])), WHOLE);
    // What follows shows a length that is wrong, if it is what is described.
    assert_eq!(said(&with_tail(&both, &[("a", 5), ("b", 4)])), WHOLE);
    assert_eq!(said(&with_tail(&both, &[("a", 4), ("b", 9)])), WHOLE);
    assert_eq!(
        said(&with_tail(&both, &[("a", 4)])),
        "offset 0x67: 24 bytes behind the last device of the vmdesc"
    );
    assert_eq!(
        said(&with_tail(&both, &[("a", 4), ("c", 4)])),
        "offset 0x67: device 1 \"c\": another device than the vmdesc has here"
    );
    assert_eq!(
        said(&with_tail(&both, &[("a", 5), ("c", 4)])),
        "offset 0x5e: device 0 \"a\": its footer is neither where the vmdesc has it nor before the next section"
    );
    assert_eq!(
        said(&with_tail(&both, &[("a", 5)])),
        "offset 0x5e: device 0 \"a\": its footer is neither where the vmdesc has it nor before the next section"
    );
    assert_eq!(
        said(&with_tail(&one, &[("a", 4), ("b", 4)])),
        "offset 0x67: device 1 \"b\": described by the vmdesc, but not in the stream"
    );
    let mut other = one.clone();
    other.extend_from_slice(&[2; 30]);
    put_section_footer(&mut other, SectionId(4));
    assert_eq!(
        said(&with_tail(&other, &[("a", 5), ("b", 4)])),
        "offset 0x5e: device 0 \"a\": its footer is neither where the vmdesc has it nor before the next section"
    );
}

#[test]
fn devices_before_ram_are_confirmed_by_the_vmdesc() {
    let (mut early, mut late) = (Vec::new(), Vec::new());
    device(&mut early, 10, b"x");
    device(&mut early, 11, b"y");
    device(&mut late, 3, b"a");
    let said = |described: &[(&str, u32)]| said(&with_early_devices(&early, &late, described));
    assert_eq!(said(&[("x", 4), ("y", 4), ("a", 4)]), WHOLE);
    assert_eq!(
        said(&[("x", 4), ("y", 5), ("a", 4)]),
        "offset 0x8: the vmdesc does not confirm where the device sections before RAM end"
    );
    assert_eq!(
        said(&[("x", 4)]),
        "offset 0x8: the vmdesc does not confirm where the device sections before RAM end"
    );
    assert_eq!(
        said(&[("x", 4), ("z", 4), ("a", 4)]),
        "offset 0x20: device 1 \"z\": another device than the vmdesc has here"
    );
    assert_eq!(
        said(&[("x", 4), ("y", 4), ("b", 4)]),
        "offset 0x7f: device 2 \"b\": another device than the vmdesc has here"
    );
    let mut bare = with_early_devices(&early, &late, &[]);
    let json = bare.iter().rposition(|&byte| byte == 0x7e).unwrap() + 5;
    bare.truncate(json + 1);
    assert_eq!(
        self::said(&bare),
        "offset 0x97: device sections before RAM, and no vmdesc that confirms their end"
    );
}

/// A source that fails is no stream that is wrong.
#[test]
fn an_error_of_the_source_says_where() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let head = stream(&ram());
    let mut reader = StreamReader::new((&head[..]).chain(Broken), Options::default());
    let error = loop {
        match reader.advance() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it has no end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Io { .. }), "{error}");
    assert_eq!(error.to_string(), format!("offset {:#x}: the stream cannot be read", head.len()));
}

/// Everything that `decoder` makes of these bytes: the error, or the end.
fn walk(mut decoder: Decoder, bytes: &[u8]) -> String {
    let mut rest = bytes;
    loop {
        match decoder.step(rest) {
            Ok(Step::Record { len, .. }) => rest = &rest[len..],
            Ok(Step::Incomplete { .. }) => {
                return decoder.finish(rest).map_or_else(|error| error.to_string(), |()| WHOLE.to_owned());
            }
            Err(error) => return error.to_string(),
        }
    }
}

#[test]
fn channels_without_a_block_list_learn_only_names_that_are_some() {
    let page = |name: &[u8]| {
        let mut bytes = Vec::new();
        put_zero_page(&mut bytes, Some(name), 0x2000);
        bytes
    };
    let preempt = || Decoder::builder().channel(ChannelKind::Preempt).build();
    assert_eq!(walk(preempt(), &[page(b"pc.ram"), page(b"pc.ram"), page(b"vga")].concat()), WHOLE);
    assert_eq!(
        walk(preempt(), &page(b"")),
        "offset 0x8: section 0 \"preempt channel\": unknown ram block \"\""
    );
    assert_eq!(
        walk(preempt(), &page(b"pc.ram")[..9]),
        "offset 0x9: section 0 \"preempt channel\": truncated: the stream ends inside a section body"
    );
    // Names by the thousand are no blocks.
    let many: Vec<u8> = (0..=1u32 << 16).flat_map(|number| page(format!("{number}").as_bytes())).collect();
    assert_eq!(
        walk(preempt(), &many),
        "offset 0xed4a2: section 0 \"preempt channel\": unknown ram block \"65536\""
    );
    let ask = |name: &[u8]| {
        let mut bytes = Vec::new();
        put_command(&mut bytes, &Command::RecvBitmap(name));
        bytes
    };
    let recovery = || Decoder::builder().channel(ChannelKind::Recovery).build();
    let mut right = [ask(b"pc.ram"), ask(b"vga"), ask(b"pc.ram")].concat();
    put_section_part(&mut right, SectionId(9));
    right.extend(page(b"pc.ram"));
    put_end_of_section(&mut right);
    put_section_footer(&mut right, SectionId(9));
    right.push(QEMU_VM_EOF);
    assert_eq!(walk(recovery(), &right), WHOLE);
    let footer = right.len() - 6;
    assert_eq!(
        walk(recovery(), &right[..footer]),
        "offset 0x3e: section 9 \"ram\": truncated: the stream ends inside a section footer"
    );
    let mut many: Vec<u8> = (0..=1u32 << 16).flat_map(|number| ask(format!("{number}").as_bytes())).collect();
    put_section_part(&mut many, SectionId(9));
    // Behind the flag word.
    let at = many.len() + 8;
    many.extend(page(b"65536"));
    assert_eq!(
        walk(recovery(), &many),
        format!("offset {at:#x}: section 9 \"ram\": unknown ram block \"65536\"")
    );
}
