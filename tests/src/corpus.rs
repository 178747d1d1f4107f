//! The streams in `corpus/valid/`, captured from real QEMUs by `corpus/capture`.

use std::{
    collections::BTreeMap,
    env, fs,
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

/// Whether tests that go over many streams take all of them: environment variable `CORPUS=all`, as in
/// `.ci/nightly`.
#[must_use]
pub fn is_whole() -> bool {
    env::var_os("CORPUS").is_some_and(|value| value == "all")
}

/// Of `names` one of each kind, which is the newest QEMU's; all of them if the corpus [is whole](is_whole).
#[must_use]
pub fn of_each_kind(names: Vec<String>) -> Vec<String> {
    if is_whole() {
        return names;
    }
    let mut newest: BTreeMap<String, (Vec<u32>, String)> = BTreeMap::new();
    for name in names {
        let (version, kind) = version_and_kind(&name);
        let entry = newest.entry(kind).or_default();
        if version >= entry.0 {
            *entry = (version, name);
        }
    }
    newest.into_values().map(|(_, name)| name).collect()
}

/// `qemu-7.2-pc-xbzrle` is of version 7.2, and its kind is `pc-xbzrle`.
fn version_and_kind(name: &str) -> (Vec<u32>, String) {
    let parts = name.strip_prefix("qemu-").and_then(|rest| rest.split_once('-'));
    let Some((version, kind)) = parts else { return (Vec::new(), name.to_owned()) };
    (version.split('.').filter_map(|number| number.parse().ok()).collect(), kind.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_newest_of_each_kind_is_taken() {
        let names = ["qemu-10.0-pc", "qemu-7.2-pc", "qemu-7.2-pc-xbzrle", "qemu-9.1-virt", "other"];
        let found = of_each_kind(names.map(str::to_owned).to_vec());
        let expected = ["other", "qemu-10.0-pc", "qemu-7.2-pc-xbzrle", "qemu-9.1-virt"];
        assert!(is_whole() || found == expected, "{found:?}");
        // Each kind of the corpus is among them.
        let kinds = |names: &[String]| -> BTreeSet<String> {
            names.iter().map(|name| version_and_kind(name).1).collect()
        };
        assert_eq!(kinds(&of_each_kind(super::names())), kinds(&super::names()));
    }
}
