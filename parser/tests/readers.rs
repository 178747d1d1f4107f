//! What the readers and the decoder do beside walking over a whole stream: input that fails, channels that begin in the
//! middle, input that is something else.

use migration_stream::{
    Command, Configuration, Decoder, Options, ReadError, Record, SectionHeader, SectionId, SliceReader, Step,
    StreamReader, UNKNOWN_LENGTH, put_command, put_configuration, put_end_of_section, put_file_header,
    put_page_header, put_section_header, put_section_part, put_zero_page,
};
use std::io::{self, Read};

#[test]
fn what_is_no_stream_is_named_if_it_is_known() {
    for (bytes, what) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0"[..], "0x1f8b0800 (gzip)"),
        (b"\x28\xb5\x2f\xfd\0\0\0\0", "0x28b52ffd (zstd)"),
        (b"\xfd7zXZ\0\0\0", "0xfd377a58 (xz)"),
        (b"BZh9\0\0\0\0", "0x425a6839 (bzip2)"),
        (b"LibvirtQemudSave", "0x4c696276 (a libvirt save file: the stream stands behind its header)"),
        (b"QFI\xfb\0\0\0\x03", "0x514649fb (a qcow2 image)"),
        (b"\x11\x22\x33\x44\0\0\0\x01", "0x11223344 (a multifd channel)"),
        (b"anything", "0x616e7974"),
    ] {
        let error = SliceReader::new(bytes, Options::default()).next_record().unwrap_err().to_string();
        assert_eq!(error, format!("offset 0x0: not a migration stream: magic {what}, expected 0x5145564d"));
    }
}

#[test]
fn after_an_error_there_is_nothing_more() {
    let mut slice = SliceReader::new(b"anything", Options::default());
    assert!(slice.next_record().is_err());
    assert_eq!(slice.next_record().unwrap(), None);
    let mut pull = StreamReader::new(&b"anything"[..], Options::default());
    assert!(pull.next_record().is_err());
    assert!(matches!(pull.next_record(), Ok(None)));
}

fn beginning() -> Vec<u8> {
    let mut stream = Vec::new();
    put_file_header(&mut stream);
    put_configuration(&mut stream, &Configuration { machine: b"pc".to_vec(), ..Default::default() });
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
        match reader.next_record() {
            Ok(Some(_)) => records += 1,
            Ok(None) => panic!("the source failed"),
            Err(error) => break error,
        }
    };
    assert_eq!(records, 3);
    assert_eq!(reader.decoder().offset(), whole as u64);
    assert!(matches!(error, ReadError::Io { offset, .. } if offset == stream.len() as u64));
    assert!(error.to_string().ends_with("no more paper"), "{error}");
    assert!(matches!(reader.next_record(), Ok(None)));
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
    let mut decoder = Decoder::preempt(Options::default()).starting_at(0x100);
    let Ok(Step::Record { record, len }) = decoder.step(&channel) else { panic!("a page") };
    assert_eq!(record, Record::RamPage { block: 0, offset: 0x1000, named: true, data: &[7; 4096] });
    assert_eq!(decoder.offset(), 0x100 + len as u64);
    assert_eq!(feed(&mut decoder, &channel[len..]), (3, None));
    assert_eq!(names(&decoder), [(&b"pc.ram"[..], UNKNOWN_LENGTH), (b"vga", UNKNOWN_LENGTH)]);
    // Half a record is an error, and so is a page of no block.
    let mut decoder = Decoder::preempt(Options::default());
    let (records, error) = feed(&mut decoder, &channel[..100]);
    let place = "offset 0x64: section 0 \"preempt channel\": truncated: ";
    assert!(records == 0 && error.as_ref().is_some_and(|error| error.starts_with(place)), "{error:?}");
    let mut unnamed = Vec::new();
    put_zero_page(&mut unnamed, None, 0);
    let (_, error) = feed(&mut Decoder::preempt(Options::default()), &unnamed);
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
    let mut decoder = Decoder::recovery(Options::default());
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
