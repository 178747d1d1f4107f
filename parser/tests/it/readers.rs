//! What the readers and the decoder do beside walking over a whole stream: input that fails, channels that
//! begin in the middle, input that is something else.

use migration_stream::{
    BlockList, ChannelKind, Command, Configuration, Decoder, Options, Page, PageContent, PageSize,
    PostcopyAdvise, RamBlock, ReadError, Record, SectionHeader, SectionId, SliceReader, Step, StreamReader,
    UNKNOWN_LENGTH, device_tail, put_command, put_compressed_page, put_configuration, put_end_of_section,
    put_file_header, put_multifd_flush, put_page_header, put_ram_blocks, put_section_footer,
    put_section_header, put_section_part, put_xbzrle_page, put_zero_page,
};
use std::io::{self, Read};

fn raw(block: usize, offset: u64, named: bool, data: &[u8]) -> Record<'_> {
    Record::Page(Page { block, offset, named, content: PageContent::Raw(data) })
}

#[test]
fn what_is_no_stream_is_named_if_it_is_known() {
    for (bytes, what) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0"[..], "0x1f8b0800 (gzip)"),
        (b"\x28\xb5\x2f\xfd\0\0\0\0", "0x28b52ffd (zstd)"),
        (b"\xfd7zXZ\0\0\0", "0xfd377a58 (xz)"),
        (b"BZh9\0\0\0\0", "0x425a6839 (bzip2)"),
        (b"LibvirtQemudSave", "0x4c696276 (a libvirt save file: the stream is behind its header)"),
        (b"QFI\xfb\0\0\0\x03", "0x514649fb (a qcow2 image)"),
        (b"\x11\x22\x33\x44\0\0\0\x01", "0x11223344 (a multifd channel)"),
        (b"anything", "0x616e7974"),
    ] {
        let error = SliceReader::new(bytes, Options::default()).advance().unwrap_err().to_string();
        assert_eq!(error, format!("offset 0x0: not a migration stream: magic {what}, expected 0x5145564d"));
    }
}

#[test]
fn after_an_error_there_is_nothing_more() {
    let mut slice = SliceReader::new(b"anything", Options::default());
    assert!(slice.advance().is_err());
    assert_eq!(slice.advance().unwrap(), None);
    let mut pull = StreamReader::new(&b"anything"[..], Options::default());
    assert!(pull.advance().is_err());
    assert!(matches!(pull.advance(), Ok(None)));
}

fn beginning() -> Vec<u8> {
    let mut stream = Vec::new();
    put_file_header(&mut stream);
    put_configuration(&mut stream, &Configuration { machine: b"pc".to_vec(), ..Default::default() });
    stream
}

/// The same, of a source with the capability mapped-ram.
fn mapped_beginning() -> Vec<u8> {
    let mut stream = Vec::new();
    put_file_header(&mut stream);
    let capabilities = Some(vec![b"mapped-ram".to_vec()]);
    put_configuration(&mut stream, &Configuration { capabilities, ..Default::default() });
    stream
}

/// Gives a few bytes, is interrupted, gives the rest, and fails.
struct Failing<'a>(&'a [u8], usize);

impl Read for Failing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        match self.1 {
            1 => self.0.read(&mut out[..5]),
            2 => Err(io::ErrorKind::Interrupted.into()),
            _ if self.0.is_empty() => Err(io::Error::other("no more paper")),
            _ => self.0.read(out),
        }
    }
}

#[test]
fn an_interrupted_read_is_repeated_and_a_failed_one_says_how_far_it_came() {
    let mut stream = beginning();
    put_command(&mut stream, &Command::OpenReturnPath);
    let whole = stream.len();
    stream.extend_from_slice(&[8, 0]);
    let mut reader = StreamReader::new(Failing(&stream, 0), Options::default());
    let mut records = 0;
    let error = loop {
        match reader.advance() {
            Ok(Some(_)) => records += 1,
            Ok(None) => panic!("the source failed"),
            Err(error) => break error,
        }
    };
    assert_eq!(records, 3);
    assert_eq!(reader.decoder().offset(), whole as u64);
    assert!(matches!(error, ReadError::Io { offset, .. } if offset == stream.len() as u64));
    assert!(
        std::error::Error::source(&error).is_some_and(|source| source.to_string() == "no more paper"),
        "{error}"
    );
    assert!(matches!(reader.advance(), Ok(None)));
}

/// Feeds `stream` to `decoder`; how many records there were, and the error if there is one.
fn feed(decoder: &mut Decoder, stream: &[u8]) -> (usize, Option<String>) {
    let (mut rest, mut records) = (stream, 0);
    while !rest.is_empty() {
        match decoder.step(rest) {
            Ok(Step::Record { len, .. }) => rest = &rest[len..],
            Ok(Step::Incomplete { .. }) => break,
            Err(error) => return (records, Some(error.to_string())),
        }
        records += 1;
    }
    (records, decoder.finish(rest).err().map(|error| error.to_string()))
}

fn names(decoder: &Decoder) -> Vec<(&[u8], u64)> {
    decoder.blocks().iter().map(|block| (&block.idstr[..], block.used_length)).collect()
}

#[test]
fn a_preempt_channel_is_pages_of_blocks_that_are_learned() {
    let mut channel = Vec::new();
    put_page_header(&mut channel, Some(b"pc.ram"), 0x1000);
    channel.extend_from_slice(&[7; 4096]);
    put_zero_page(&mut channel, None, 0x2000);
    put_zero_page(&mut channel, Some(b"vga"), 0);
    put_zero_page(&mut channel, Some(b"pc.ram"), 0);
    let mut decoder = Decoder::builder().channel(ChannelKind::Preempt).offset(0x100).build();
    let Ok(Step::Record { record, len }) = decoder.step(&channel) else { panic!("a page") };
    assert_eq!(record, raw(0, 0x1000, true, &[7; 4096]));
    assert_eq!(decoder.offset(), 0x100 + len as u64);
    assert_eq!(feed(&mut decoder, &channel[len..]), (3, None));
    assert_eq!(names(&decoder), [(&b"pc.ram"[..], UNKNOWN_LENGTH), (b"vga", UNKNOWN_LENGTH)]);
    // Half a record is an error, and so is a page of no block.
    let mut decoder = Decoder::builder().channel(ChannelKind::Preempt).build();
    let (records, error) = feed(&mut decoder, &channel[..100]);
    let place = "offset 0x64: section 0 \"preempt channel\": truncated: ";
    assert!(records == 0 && error.as_ref().is_some_and(|error| error.starts_with(place)), "{error:?}");
    let mut unnamed = Vec::new();
    put_zero_page(&mut unnamed, None, 0);
    let (_, error) = feed(&mut Decoder::builder().channel(ChannelKind::Preempt).build(), &unnamed);
    let place = "offset 0x0: section 0 \"preempt channel\": ";
    assert!(error.as_ref().is_some_and(|error| error.starts_with(place)), "{error:?}");
}

#[test]
fn a_recovery_learns_blocks_from_the_commands_before_its_pages() {
    let mut channel = Vec::new();
    for command in [Command::RecvBitmap(b"b"), Command::RecvBitmap(b"a"), Command::PostcopyResume] {
        put_command(&mut channel, &command);
    }
    put_section_part(&mut channel, SectionId(7));
    put_zero_page(&mut channel, Some(b"a"), 0x5000);
    put_end_of_section(&mut channel);
    let mut decoder = Decoder::builder().channel(ChannelKind::Recovery).build();
    let (records, error) = feed(&mut decoder, &channel);
    assert_eq!(records, 6, "{error:?}");
    assert_eq!(names(&decoder), [(&b"b"[..], UNKNOWN_LENGTH), (b"a", UNKNOWN_LENGTH)]);
    // The end mark is missing.
    assert!(error.is_some_and(|error| error.contains("truncated")));
}

#[test]
fn an_error_says_in_which_section_it_is() {
    let mut stream = beginning();
    let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut stream, false, &header);
    let at = stream.len();
    put_zero_page(&mut stream, Some(b"pc.ram"), 0);
    let (records, error) = feed(&mut Decoder::new(Options::default()), &stream);
    let place = format!("offset {at:#x}: section 2 \"ram\": ");
    assert!(records == 3 && error.as_ref().is_some_and(|error| error.starts_with(&place)), "{error:?}");
}

#[test]
fn the_end_of_the_input_says_what_it_is_in() {
    let inside = |stream: &[u8]| {
        let (_, error) = feed(&mut Decoder::new(Options::default()), stream);
        error.unwrap_or_default()
    };
    let stream = beginning();
    assert_eq!(inside(&stream[..7]), "offset 0x7: truncated: the stream ends inside the file header");
    assert_eq!(
        inside(&stream[..10]),
        "offset 0xa: configuration: truncated: the stream ends inside the configuration section"
    );
    let commands = [&stream[..], &[8, 0, 1, 0, 0, 8, 0]].concat();
    let whole = commands.len() - 2;
    assert_eq!(
        inside(&commands),
        format!("offset {:#x}: truncated: the stream ends inside a section header or command", whole + 2)
    );
    assert_eq!(
        inside(&commands[..whole]),
        format!("offset {whole:#x}: truncated: the stream ends without an end mark")
    );
}

fn block(idstr: &[u8], used_length: u64) -> RamBlock {
    RamBlock { idstr: idstr.to_vec(), used_length, host_page_size: None, guest_physical_address: None }
}

/// START of `ram` with one block.
fn ram(used_length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut out, false, &header);
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block(b"pc.ram", used_length)] });
    put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(2));
    out
}

#[test]
fn a_page_size_that_the_stream_tells_is_no_guess() {
    for bits in [None, Some(13)] {
        let mut stream = Vec::new();
        put_file_header(&mut stream);
        let configuration =
            Configuration { machine: b"pc".to_vec(), target_page_bits: bits, ..Default::default() };
        put_configuration(&mut stream, &configuration);
        // Behind the list of subsections another byte shows that it is at its end.
        stream.push(8);
        let mut decoder = Decoder::new(Options::default().with_page_size(PageSize::new(1 << 14)));
        assert_eq!((decoder.page_size_is_guessed(), decoder.configuration()), (true, None));
        feed(&mut decoder, &stream);
        assert_eq!(decoder.page_size_is_guessed(), bits.is_none());
        assert_eq!(decoder.page_size().bytes(), bits.map_or(1 << 14, |bits| 1 << bits));
        assert_eq!(decoder.configuration(), Some(&configuration));
    }
}

#[test]
fn another_page_size_may_be_assumed_before_the_first_page() {
    let mut stream = [beginning(), ram(1 << 14)].concat();
    put_section_part(&mut stream, SectionId(2));
    let mut decoder = Decoder::new(Options::default());
    assert_eq!(feed(&mut decoder, &stream).0, 7);
    decoder.assume_page_size(PageSize::new(1 << 13).unwrap());
    assert_eq!(decoder.page_size().bytes(), 1 << 13);
    let mut page = Vec::new();
    put_page_header(&mut page, Some(b"pc.ram"), 1 << 13);
    page.resize(page.len() + (1 << 13), 7);
    let Ok(Step::Record { record: Record::Page(Page { offset, content, .. }), len }) = decoder.step(&page)
    else {
        panic!("a page")
    };
    assert_eq!((offset, content.bytes().len(), len), (1 << 13, 1 << 13, page.len()));
}

#[test]
fn a_list_that_the_caller_has_read_is_taken_with_its_end() {
    let mut stream = mapped_beginning();
    let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut stream, false, &header);
    let mut decoder = Decoder::builder().accept_mapped_ram().build();
    assert_eq!(feed(&mut decoder, &stream).0, 3);
    decoder.mapped_blocks(vec![block(b"rom", 0x1000), block(b"pc.ram", 0x3000)], 0x10_0000);
    assert_eq!(names(&decoder), [(&b"rom"[..], 0x1000), (b"pc.ram", 0x3000)]);
    assert_eq!(decoder.offset(), 0x10_0000);
    let mut page = Vec::new();
    put_zero_page(&mut page, Some(b"pc.ram"), 0x2000);
    let Ok(Step::Record { record, .. }) = decoder.step(&page) else { panic!("a page") };
    assert_eq!(
        record,
        Record::Page(Page { block: 1, offset: 0x2000, named: true, content: PageContent::Zero })
    );
}

#[test]
fn a_step_says_how_much_more_it_needs() {
    let needed = |decoder: &mut Decoder, bytes: &[u8]| match decoder.step(bytes) {
        Ok(Step::Incomplete { needed }) => needed,
        other => panic!("{other:?}"),
    };
    let mut decoder = Decoder::new(Options::default());
    assert_eq!(needed(&mut decoder, b"QEVM\0"), 8);
    let mut stream = [beginning(), ram(1 << 14)].concat();
    put_section_part(&mut stream, SectionId(2));
    feed(&mut decoder, &stream);
    let mut page = Vec::new();
    put_page_header(&mut page, Some(b"pc.ram"), 0);
    page.resize(page.len() + 100, 7);
    assert_eq!(needed(&mut decoder, &page), page.len() + 4096 - 100);
    // How much more is not known of a device section before RAM.
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &beginning());
    assert_eq!(needed(&mut decoder, &[4, 0, 0, 0, 9]), 6);
}

#[test]
fn a_flush_of_the_channels_is_a_record_of_its_own() {
    let mut stream = [beginning(), ram(1 << 14)].concat();
    put_section_part(&mut stream, SectionId(2));
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &stream);
    let mut flush = Vec::new();
    put_multifd_flush(&mut flush);
    let Ok(Step::Record { record, len }) = decoder.step(&flush) else { panic!("a record") };
    assert_eq!((record, len), (Record::RamMultifdFlush, 8));
}

/// A device section of four bytes.
fn device(id: u32, idstr: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = SectionHeader { section_id: SectionId(id), idstr, instance_id: 0, version_id: 1 };
    put_section_header(&mut out, true, &header);
    out.extend_from_slice(&[0xaa; 4]);
    put_section_footer(&mut out, SectionId(id));
    out
}

#[test]
fn devices_before_ram_are_kept_with_their_place() {
    let devices = [device(10, b"x"), device(11, b"y")].concat();
    let begin = beginning();
    let mut decoder = Decoder::new(Options::default());
    assert_eq!(decoder.early_devices(), None);
    let stream = [&begin[..], &devices, &ram(1 << 14)].concat();
    // File header, configuration, devices, START, list, end, footer.
    assert_eq!(feed(&mut decoder, &stream).0, 7);
    assert_eq!(decoder.early_devices(), Some((begin.len() as u64, &devices[..])));
    assert_eq!(names(&decoder), [(&b"pc.ram"[..], 1 << 14)]);
}

#[test]
fn devices_between_start_and_first_part_of_ram_are_kept_with_their_place() {
    let devices = [device(10, b"virtio-mem-early"), device(11, b"y")].concat();
    let begin = [beginning(), ram(1 << 14)].concat();
    let mut part = Vec::new();
    put_section_part(&mut part, SectionId(2));
    put_zero_page(&mut part, Some(b"pc.ram"), 0x3000);
    put_end_of_section(&mut part);
    put_section_footer(&mut part, SectionId(2));
    let mut decoder = Decoder::new(Options::default());
    let stream = [&begin[..], &devices, &part].concat();
    assert_eq!(feed(&mut decoder, &stream).0, 11);
    assert_eq!(decoder.early_devices(), Some((begin.len() as u64, &devices[..])));
    // Behind the first PART such a name begins the tail.
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &[&begin[..], &part].concat());
    assert!(matches!(decoder.step(&devices), Ok(Step::Record { record: Record::DeviceTail, len: 0 })));
    assert_eq!(decoder.early_devices(), None);
    // So does another name before it.
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &begin);
    assert!(matches!(decoder.step(&device(10, b"y")), Ok(Step::Record { record: Record::DeviceTail, .. })));
}

#[test]
fn a_vmdesc_that_is_wrong_is_an_error_only_with_devices_before_ram() {
    let json = br#"{"page_size": 4096, "devices": []}"#;
    let sections = device(3, b"a");
    let mut end = sections.clone();
    Record::Eof.put(&mut end, &[]);
    Record::VmDescription(json).put(&mut end, &[]);
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &[beginning(), ram(1 << 14)].concat());
    let cut = device_tail::cut(&end, 0x100, &decoder).unwrap();
    assert_eq!((cut.sections, cut.eof), (None, sections.len()));
    let finding = cut.finding.unwrap().to_string();
    assert_eq!(finding, "offset 0x100: 24 bytes behind the last device of the vmdesc");
    let mut decoder = Decoder::new(Options::default());
    let begin = beginning();
    feed(&mut decoder, &[begin.clone(), device(10, b"x"), ram(1 << 14)].concat());
    let at = begin.len();
    assert_eq!(
        device_tail::cut(&end, 0x100, &decoder).unwrap_err().to_string(),
        format!("offset {at:#x}: the vmdesc does not confirm where the device sections before RAM end")
    );
}

#[test]
fn an_error_that_may_come_of_a_wrong_page_size_says_so() {
    let told = |rest: &[u8], bits: Option<u32>| {
        let mut stream = Vec::new();
        put_file_header(&mut stream);
        let configuration = Configuration { target_page_bits: bits, ..Default::default() };
        put_configuration(&mut stream, &configuration);
        stream.extend_from_slice(rest);
        let (_, error) = feed(&mut Decoder::new(Options::default()), &stream);
        error.unwrap().split_once(": ").unwrap().1.to_owned()
    };
    let behind = [&ram(1 << 14)[..], &[0x20]].concat();
    assert_eq!(told(&behind, None), "unknown section type 0x20");
    assert_eq!(told(&behind, Some(12)), "unknown section type 0x20");
    // No page came yet.
    assert_eq!(told(&[0x20], None), "unknown section type 0x20");
    assert_eq!(told(&[0x7e], None), "unknown section type 0x7e: a footer without a section");
    assert_eq!(told(&[0x06], None), "unknown section type 0x06: not allowed here");
    let mut page = ram(1 << 14);
    put_section_part(&mut page, SectionId(2));
    page.extend_from_slice(&0x1800u64.to_be_bytes());
    let flags = "section 2 \"ram\": page flags 0x800 unknown";
    assert_eq!(told(&page, Some(12)), flags);
    assert_eq!(told(&page, None), format!("{flags}; page size 4096 was assumed"));
}

/// What a walk over START of `ram`, a PART, and these records says; no more of an error than what is wrong.
fn records(records: &[u8]) -> Option<String> {
    let mut stream = [beginning(), ram(1 << 20)].concat();
    put_section_part(&mut stream, SectionId(2));
    stream.extend_from_slice(records);
    let (_, error) = feed(&mut Decoder::new(Options::default()), &stream);
    let error = error.unwrap();
    let (_, what) = error.split_once("section 2 \"ram\": ").unwrap();
    (!what.starts_with("truncated")).then(|| what.to_owned())
}

#[test]
fn a_page_of_the_same_block_is_checked_as_any_other() {
    let behind_a_page = |word: u64| {
        let mut bytes = Vec::new();
        put_zero_page(&mut bytes, Some(b"pc.ram"), 0);
        bytes.extend_from_slice(&word.to_be_bytes());
        bytes.resize(bytes.len() + 4096, 7);
        put_end_of_section(&mut bytes);
        records(&bytes)
    };
    assert_eq!(behind_a_page(0xf_f000 | 0x28), None);
    let outside = "ram block \"pc.ram\" page offset 0x100000, the block has 0x100000 bytes";
    assert_eq!(behind_a_page(0x10_0000 | 0x28), Some(outside.to_owned()));
    for (word, flags) in [(0x1000, 0), (0xfd7, 0xfd7)] {
        let hint = "; page size 4096 was assumed";
        assert_eq!(behind_a_page(word), Some(format!("page flags {flags:#x} unknown{hint}")));
    }
}

#[test]
fn a_page_of_the_same_block_has_its_own_offset_where_no_length_is_known() {
    let mut decoder = Decoder::builder().channel(ChannelKind::Preempt).build();
    let mut first = Vec::new();
    put_zero_page(&mut first, Some(b"pc.ram"), 0);
    assert_eq!(feed(&mut decoder, &first), (1, None));
    let mut page = Vec::new();
    put_page_header(&mut page, None, 0x5000);
    page.resize(page.len() + 4096, 7);
    let Ok(Step::Record { record, .. }) = decoder.step(&page) else { panic!("a page") };
    assert_eq!(record, raw(0, 0x5000, false, &page[8..]));
}

#[test]
fn marks_between_pages_have_no_offset_and_no_block() {
    let hint = "; page size 4096 was assumed";
    for (word, flags) in
        [(0x1210, 0x210), (0x1200, 0x200), (0x1010, 0x10), (0x30, 0x30), (0x220, 0x220), (0x1024, 0x24)]
    {
        let said = records(&u64::to_be_bytes(word));
        assert_eq!(said, Some(format!("page flags {flags:#x} unknown{hint}")), "{word:#x}");
    }
}

#[test]
fn packed_pages_are_accepted_up_to_their_limits() {
    let delta = |length: usize| {
        let mut bytes = Vec::new();
        put_xbzrle_page(&mut bytes, Some(b"pc.ram"), 0, &vec![1; length]);
        records(&bytes)
    };
    assert_eq!(delta(4096), None);
    assert_eq!(delta(4097), Some("XBZRLE length is 4097, the limit is 4096".to_owned()));
    let packed = |length: usize| {
        let mut bytes = Vec::new();
        put_compressed_page(&mut bytes, Some(b"pc.ram"), 0, &vec![1; length]);
        records(&bytes)
    };
    // zlib's bound.
    assert_eq!((packed(1), packed(4096 + 14)), (None, None));
    for length in [0, 4096 + 15] {
        assert_eq!(packed(length), Some(format!("compressed page length is {length}, the limit is 4110")));
    }
}

#[test]
fn a_vmdesc_may_be_announced_up_to_its_limit() {
    let stream = beginning();
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &[&stream[..], &[0]].concat());
    let announced = |length: u32| [&[6][..], &length.to_be_bytes()].concat();
    assert!(matches!(
        decoder.step(&announced(16 << 20)),
        Ok(Step::Incomplete { needed }) if needed == (16 << 20) + 5
    ));
    let error = decoder.step(&announced((16 << 20) + 1)).unwrap_err().to_string();
    assert!(error.ends_with(": vmdesc length is 16777217, the limit is 16777216"), "{error}");
}

#[test]
fn a_part_belongs_to_a_section_that_was_started() {
    let mut part = Vec::new();
    put_section_part(&mut part, SectionId(9));
    let (_, error) = feed(&mut Decoder::new(Options::default()), &[beginning(), part.clone()].concat());
    assert!(
        error.as_ref().is_some_and(|error| error.ends_with(": section id 9 was not started")),
        "{error:?}"
    );
    // A recovery has one section, the first that is named.
    let mut first = Vec::new();
    put_section_part(&mut first, SectionId(7));
    put_end_of_section(&mut first);
    put_section_footer(&mut first, SectionId(7));
    let (records, error) =
        feed(&mut Decoder::builder().channel(ChannelKind::Recovery).build(), &[first, part].concat());
    assert!(
        error.as_ref().is_some_and(|error| error.ends_with(": section id 9 was not started")),
        "{error:?}"
    );
    assert_eq!(records, 3);
}

#[test]
fn host_page_sizes_are_read_behind_an_advice_that_names_them() {
    let huge = RamBlock { host_page_size: Some(2 << 20), ..block(b"pc.ram", 4 << 20) };
    for advice in [None, Some(PostcopyAdvise { page_size_summary: 2 << 20 | 4096, target_page_size: 4096 })] {
        let mut stream = beginning();
        put_command(&mut stream, &Command::PostcopyAdvise(advice));
        let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
        put_section_header(&mut stream, false, &header);
        put_ram_blocks(&mut stream, &BlockList { blocks: vec![huge.clone()] });
        put_end_of_section(&mut stream);
        let mut decoder = Decoder::new(Options::default());
        let (records, _) = feed(&mut decoder, &stream);
        // Without the advice the size is no record.
        assert_eq!(records, if advice.is_some() { 6 } else { 5 });
        assert_eq!(decoder.blocks()[0].host_page_size, advice.map(|_| 2 << 20));
    }
}

#[test]
fn only_ram_cannot_be_read_where_pages_are_mapped() {
    let stream = mapped_beginning();
    let bitmaps =
        SectionHeader { section_id: SectionId(1), idstr: b"dirty-bitmap", instance_id: 0, version_id: 1 };
    let mut other = stream.clone();
    put_section_header(&mut other, false, &bitmaps);
    assert_eq!(feed(&mut Decoder::new(Options::default()), &other).0, 3);
    let (_, error) = feed(&mut Decoder::new(Options::default()), &[stream, ram(1 << 14)].concat());
    assert!(error.as_ref().is_some_and(|error| error.contains("capability mapped-ram")), "{error:?}");
}

#[test]
fn bytes_of_a_device_that_look_like_a_part_do_not_end_the_devices_before_it() {
    let header = SectionHeader {
        section_id: SectionId(10),
        idstr: b"virtio-mem-early",
        instance_id: 0,
        version_id: 1,
    };
    let mut devices = Vec::new();
    put_section_header(&mut devices, true, &header);
    put_section_part(&mut devices, SectionId(2));
    put_end_of_section(&mut devices);
    put_section_footer(&mut devices, SectionId(10));
    let mut part = Vec::new();
    put_section_part(&mut part, SectionId(2));
    put_end_of_section(&mut part);
    let begin = [beginning(), ram(1 << 14)].concat();
    let mut decoder = Decoder::new(Options::default());
    feed(&mut decoder, &[&begin[..], &devices, &part].concat());
    assert_eq!(decoder.early_devices(), Some((begin.len() as u64, &devices[..])));
}
