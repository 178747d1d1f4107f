//! Reads a file of `corpus/malformed` with the parser alone. The tests of this crate and
//! `tests/src/malformed` share it.

use migration_stream::ram::multifd::Channel;
use migration_stream::return_path::{ReturnPathMessage, received_bitmap, return_path_message};
use migration_stream::{Error, ErrorKind, Inside, Options, ReadError, SliceReader, StreamReader};
use std::collections::BTreeSet;
use std::path::Path;

/// How many records a file has, or what is wrong with it. `base` is the valid file that it was made
/// from: it says whether the file is a stream, the answers of a destination, or a multifd channel.
pub(crate) fn read(base: &str, bytes: &[u8]) -> Result<u64, Error> {
    match base {
        "answers" => answers(bytes),
        "multifd" => channel(bytes),
        _ => stream(bytes),
    }
}

/// The result as the corpus has it: the kind of the error, its offset and its numbers, without its wording.
pub(crate) fn kind(result: &Result<u64, Error>) -> String {
    match result {
        Ok(records) => format!("{records} records"),
        Err(error) => {
            let (_, numbers) = split_numbers(&error.kind.to_string());
            format!("{} at {:#x}{numbers}", kind_name(error), error.offset)
        }
    }
}

/// The name of the error's kind, as the code has it.
pub(crate) fn kind_name(error: &Error) -> String {
    let kind = format!("{:?}", error.kind);
    kind.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// A message with `N` for each number, and its numbers in parentheses (none: nothing). So the
/// wording can be kept once, and the numbers with each file.
pub(crate) fn split_numbers(message: &str) -> (String, String) {
    let (mut words, mut numbers) = (String::new(), Vec::new());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let is_inside_a_word = words.ends_with(|letter: char| letter.is_ascii_alphanumeric());
        let digits = |text: &str, is_digit: fn(&char) -> bool| text.chars().take_while(is_digit).count();
        let length = match rest.strip_prefix("0x") {
            _ if is_inside_a_word || !first.is_ascii_digit() => 0,
            Some(hexadecimal) => 2 + digits(hexadecimal, char::is_ascii_hexdigit),
            None => digits(rest, char::is_ascii_digit),
        };
        if length == 0 {
            words.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            numbers.push(&rest[..length]);
            words.push('N');
            rest = &rest[length..];
        }
    }
    let numbers = if numbers.is_empty() { String::new() } else { format!(" ({})", numbers.join(" ")) };
    (words, numbers)
}

#[allow(clippy::disallowed_methods, reason = "a test writes what it pins; the crate does not")]
/// Compares messages with those in the file `pinned`; with `UPDATE=1` in the environment it writes
/// the file first.
pub(crate) fn assert_pinned(words: &BTreeSet<String>, pinned: &Path) {
    if std::env::var_os("UPDATE").is_some() {
        let lines: Vec<&str> = words.iter().map(String::as_str).collect();
        std::fs::write(pinned, lines.join("\n") + "\n").expect("the folder of the tests");
    }
    let text = std::fs::read_to_string(pinned).expect("UPDATE=1 makes it");
    let pinned: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let gone: Vec<_> = pinned.difference(words).collect();
    let new: Vec<_> = words.difference(&pinned).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "UPDATE=1 accepts other words. Gone: {gone:#?}\nnew: {new:#?}"
    );
}

/// Both readers of streams, which have to agree on every record and on the error.
fn stream(bytes: &[u8]) -> Result<u64, Error> {
    let mut slice = SliceReader::new(bytes, Options::default());
    // The slice reader finds the page size in the vmdesc, at the end.
    let options = Options::default().with_page_size(slice.decoder().page_size());
    let mut pull = StreamReader::new(bytes, options);
    let mut records = 0;
    loop {
        match (slice.advance(), pull.advance()) {
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
        let data = message.data_bytes();
        if length + data as usize > bytes.len() - at {
            break;
        }
        at += length + data as usize;
        messages += 1;
    }
    whole(bytes, at, messages)
}

/// Whether the last message is whole.
fn whole(bytes: &[u8], at: usize, messages: u64) -> Result<u64, Error> {
    if at == bytes.len() {
        return Ok(messages);
    }
    let kind = ErrorKind::Truncated { inside: Inside::Message(messages + 1) };
    Err(Error { offset: at as u64, path: String::new(), kind })
}
