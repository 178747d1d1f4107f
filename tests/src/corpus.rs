//! The streams in `corpus/valid/`, captured from real QEMUs by `corpus/capture`.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where the corpus lies: streams of one channel in `valid`, recordings of several channels in
/// `channels`, save images in `libvirt`.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

/// The stream called `name`, without `.bin.zst`.
///
/// # Panics
///
/// If there is none of this name.
#[must_use]
pub fn stream(name: &str) -> Vec<u8> {
    unpacked(&format!("valid/{name}"))
}

/// The file with this path in the corpus, without `.bin.zst`.
///
/// # Panics
///
/// If there is none of this name.
#[must_use]
pub fn unpacked(name: &str) -> Vec<u8> {
    let path = root().join(format!("{name}.bin.zst"));
    let packed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(packed.as_slice()).expect("packed by corpus/capture")
}

/// Names of all streams that go from a source to its destination (not the answers, `.rp`), sorted.
///
/// # Panics
///
/// If the corpus is not there.
#[must_use]
pub fn names() -> Vec<String> {
    let mut names = names_in("valid");
    names.retain(|name| !name.ends_with(".rp"));
    names
}

/// Names of all files in a folder of the corpus, without `.bin.zst`, sorted.
///
/// # Panics
///
/// If the folder is not there.
#[must_use]
pub fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("the corpus is part of the repository");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(".bin.zst")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// SHA-256 of `bytes` in hex digits, as `MANIFEST` has it of unpacked files.
///
/// # Panics
///
/// If there is no `sha256sum`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    let mut sum = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils are on every Linux system");
    // Dropped behind this line, which is the end of its input.
    sum.stdin.take().expect("piped").write_all(bytes).expect("it reads");
    let output = sum.wait_with_output().expect("our own child");
    assert!(output.status.success(), "sha256sum");
    let text = String::from_utf8(output.stdout).expect("hex digits");
    text.split_whitespace().next().expect("the sum").to_owned()
}
