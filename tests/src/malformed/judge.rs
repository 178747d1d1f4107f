//! What the toolkit says of a file.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Output},
};

use migration_stream::{
    Error, Options, ReadError, SliceReader, StreamReader,
    ram::multifd::{Channel, Message},
    return_path::{ReturnPathMessage, received_bitmap, return_path_message},
};

use super::{Kind, Malformed, multifd};
use crate::{image::run_tool, tool::snapinspect};

/// What is said of `file`, a line for each reader; `folder` is for files in passing. `stream` is a valid stream, for images
/// that one may be saved into.
///
/// # Panics
///
/// If the readers disagree, or a refused image was changed.
#[must_use]
pub fn said(file: &Malformed, stream: &Path, folder: &Path) -> String {
    let mut said = format!("base: {}\nchange: {}\n", file.base, file.change);
    let mut line = |who: &str, what: &str| {
        writeln!(said, "{who}: {what}").expect("a String takes everything");
    };
    let path = folder.join("file");
    fs::write(&path, &file.bytes).expect("a small file");
    match file.kind {
        Kind::Stream => {
            line("walk", &walk(&file.bytes));
            let image = folder.join("image");
            let _ = fs::remove_file(&image);
            let output = run_tool(["--create".as_ref(), image.as_os_str()], Some(&path));
            assert_eq!(output.status.success(), image.exists(), "{}: success and image differ", file.name);
            line("save", &ended(&output, &image));
        }
        Kind::Answers => line("walk", &outcome(answers(&file.bytes))),
        Kind::Multifd => line("walk", &outcome(channel(&file.bytes))),
        Kind::Image => {
            line("revert", &ended(&run_tool(["--revert".as_ref(), path.as_os_str()], None), &path));
            let output = run_tool([path.as_os_str()], Some(stream));
            let replaced = fs::read(&path).expect("still there") != file.bytes;
            assert_eq!(replaced, output.status.success(), "{}: changed", file.name);
            line("save", &ended(&output, &path));
            fs::write(&path, &file.bytes).expect("a small file");
        }
    }
    line("check", &checked(&path));
    said
}

/// What the inspector finds, without what it notes of the file as a whole.
fn checked(path: &Path) -> String {
    let output = Command::new(snapinspect()).arg("check").arg(path).output().expect("the program runs");
    let (found, trouble) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let status = output.status.code().map_or_else(|| "killed".to_owned(), |code| code.to_string());
    let lines: Vec<&str> =
        found.lines().chain(trouble.lines()).filter(|line| !is_of_the_whole(line)).collect();
    format!("status {status}: {}", lines.join(" / ")).replace(&path.display().to_string(), "FILE")
}

/// A note without an offset: how many pages came twice, or never.
fn is_of_the_whole(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("-") && words.next() == Some("note")
}

/// Status and words of the tool, without the path.
fn ended(output: &Output, path: &Path) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    let mut words = words.replace(&path.display().to_string(), "FILE");
    // A new snapshot has a UUID of its own, and each job takes its own time.
    if output.status.success()
        && let Some(at) = words.find("UUID ")
    {
        words.truncate(at + "UUID".len());
    }
    let status = output.status.code().map_or_else(|| "killed".to_owned(), |code| code.to_string());
    format!("status {status}: {}", words.trim_end().replace('\n', " / "))
}

fn outcome(result: Result<u64, Error>) -> String {
    result.map_or_else(|error| error.to_string(), |records| format!("{records} records"))
}

/// What both readers of streams say.
fn walk(stream: &[u8]) -> String {
    let mut slice = SliceReader::new(stream, Options::default());
    // The slice reader has the vmdesc to tell the page size by.
    let options = Options { page_size: Some(slice.decoder().page_size()), ..Options::default() };
    let mut pull = StreamReader::new(stream, options);
    let mut records = 0;
    loop {
        match (slice.next_record(), pull.next_record()) {
            (Ok(Some(record)), Ok(Some(pulled))) => assert_eq!(record, pulled),
            (Ok(None), Ok(None)) => return format!("{records} records"),
            (Err(error), Err(ReadError::Stream(pulled))) => {
                assert_eq!(error.to_string(), pulled.to_string());
                return error.to_string();
            }
            (slice, pull) => panic!("the readers disagree: {slice:?} and {pull:?}"),
        }
        records += 1;
    }
}

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
    end(bytes, at, messages)
}

fn channel(bytes: &[u8]) -> Result<u64, Error> {
    let mut channel = Channel::new(multifd::PAGE);
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
    end(bytes, at, messages)
}

/// Whether the last message was whole.
fn end(bytes: &[u8], at: usize, messages: u64) -> Result<u64, Error> {
    if at == bytes.len() {
        return Ok(messages);
    }
    let kind = migration_stream::ErrorKind::Truncated { inside: format!("inside message {}", messages + 1) };
    Err(Error { offset: at as u64, path: String::new(), kind })
}
