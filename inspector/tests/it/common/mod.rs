//! Runs the program on files of the corpus.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The folder of the corpus.
pub(crate) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/valid")
}

/// Names of all its files, sorted.
pub(crate) fn names() -> Vec<String> {
    let entries = std::fs::read_dir(corpus()).expect("the corpus is there");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").file_name().into_string().expect("plain names"))
        .filter(|name| name.ends_with(".zst"))
        .collect();
    names.sort();
    assert!(names.len() > 30, "the corpus is there");
    names
}

/// A stream of the corpus, unpacked.
pub(crate) fn stream(name: &str) -> Vec<u8> {
    unpacked(&format!("valid/{name}"))
}

/// A file of the corpus, unpacked, by its path there.
pub(crate) fn unpacked(path: &str) -> Vec<u8> {
    let packed = std::fs::read(corpus().join(format!("../{path}.bin.zst"))).expect("a file of the corpus");
    zstd::decode_all(&packed[..]).expect("packed with zstd")
}

/// The program, in the folder of the corpus.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapinspect"));
    command.current_dir(corpus()).stdin(Stdio::null());
    command
}

/// Runs it.
pub(crate) fn run(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("the program runs")
}

/// Runs it with bytes on stdin.
pub(crate) fn run_with(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = program()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // It may stop reading before the end.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("writing does not panic");
    output
}

/// stdout as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the answer is text")
}

/// Exit status, stdout and stderr as one text.
pub(crate) fn all(output: &Output) -> String {
    let status = output.status.code().map_or("signal".to_owned(), |code| code.to_string());
    format!("{}{}exit status {status}\n", stdout(output), String::from_utf8_lossy(&output.stderr))
}
