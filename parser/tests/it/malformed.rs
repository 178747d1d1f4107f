//! Each file of `corpus/malformed` is refused in the words beside it: the line `walk`. What the programs say of these files
//! is tested in `tests`, from which they come.

#![allow(clippy::disallowed_methods, reason = "a test reads files; the crate does not")]

use migration_stream::ram::multifd::{Channel, Message};
use migration_stream::return_path::{ReturnPathMessage, received_bitmap, return_path_message};
use migration_stream::{Error, ErrorKind, Options, ReadError, SliceReader, StreamReader};
use std::path::PathBuf;

/// What both readers say of a stream.
fn walk(stream: &[u8]) -> Result<u64, Error> {
    let mut slice = SliceReader::new(stream, Options::default());
    let page_size = Some(slice.decoder().page_size());
    let mut pull = StreamReader::new(stream, Options { page_size, ..Options::default() });
    let mut records = 0;
    loop {
        match (slice.next_record(), pull.next_record()) {
            (Ok(Some(record)), Ok(Some(pulled))) => assert_eq!(record, pulled),
            (Ok(None), Ok(None)) => return Ok(records),
            (Err(error), Err(ReadError::Stream(pulled))) => {
                assert_eq!(error.to_string(), pulled.to_string());
                return Err(error);
            }
            (slice, pull) => panic!("the readers disagree: {slice:?} and {pull:?}"),
        }
        records += 1;
    }
}

/// The return path, with the bitmaps that have no frame.
fn answers(bytes: &[u8]) -> Result<u64, Error> {
    let (mut at, mut messages) = (0, 0);
    while let Some((length, message)) = return_path_message(&bytes[at..], at as u64)? {
        at += length;
        messages += 1;
        if let ReturnPathMessage::ReceivedBitmap(_) = message {
            match received_bitmap(&bytes[at..], at as u64)? {
                Some((length, _)) => at += length,
                None => break,
            }
        }
    }
    whole(bytes, at, messages)
}

/// A multifd channel with the data behind its packets.
fn channel(bytes: &[u8]) -> Result<u64, Error> {
    let mut channel = Channel::new(64 << 10);
    let (mut at, mut messages) = (0, 0);
    while let Some((length, message)) = channel.step(&bytes[at..])? {
        let data = match message {
            Message::Hello(_) => 0,
            Message::Packet(packet) => packet.data_bytes,
            Message::DeviceState(state) => state.data_bytes,
        };
        if length + data as usize > bytes.len() - at {
            break;
        }
        at += length + data as usize;
        messages += 1;
    }
    whole(bytes, at, messages)
}

fn whole(bytes: &[u8], at: usize, messages: u64) -> Result<u64, Error> {
    if at == bytes.len() {
        return Ok(messages);
    }
    let kind = ErrorKind::Truncated { inside: format!("inside message {}", messages + 1) };
    Err(Error { offset: at as u64, path: String::new(), kind })
}

#[test]
fn each_malformed_file_is_refused_in_the_words_beside_it() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus/malformed");
    let mut walked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        // An image is no business of a parser of streams.
        let (Some(base), Some(expected)) = (line("base: "), line("walk: ")) else { continue };
        let bytes = zstd::decode_all(&std::fs::read(path.with_extension("bin.zst")).unwrap()[..]).unwrap();
        let said = match base {
            "answers" => answers(&bytes),
            "multifd" => channel(&bytes),
            _ => walk(&bytes),
        };
        let said = said.map_or_else(|error| error.to_string(), |records| format!("{records} records"));
        assert_eq!(said, expected, "{}", path.display());
        walked += 1;
    }
    assert!(walked > 200, "{walked} files: the corpus is part of the repository");
}
