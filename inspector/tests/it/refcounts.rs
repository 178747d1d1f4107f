//! Refcounts of images that `qemu-img` made, whole and damaged: the verdict is that of `qemu-img check`.

use snapinspect::refcounts::check;
use snapinspect::source::FileRange;
use snapinspect::walk::{Finding, Level};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use test_support::{not_run, programs};

/// How an image is made: the options of `create`, and what is done with it then.
struct Kind {
    name: &'static str,
    create: &'static str,
    then: &'static [&'static str],
}

const fn kind(name: &'static str, create: &'static str, then: &'static [&'static str]) -> Kind {
    Kind { name, create, then }
}

/// `IMAGE` is the image; `io` are commands of qemu-io.
const KINDS: &[Kind] = &[
    kind("one bit", "cluster_size=64k,refcount_bits=1", &["io write 0 300k", "io write 8M 64k"]),
    kind("two bits", "cluster_size=64k,refcount_bits=2", &["io write 0 300k"]),
    kind("four bits", "cluster_size=512,refcount_bits=4", &["io write 0 300k", "io write 30M 64k"]),
    kind("eight bits", "cluster_size=1M,refcount_bits=8", &["io write 0 3M"]),
    kind("sixteen bits", "cluster_size=4k", &["io write 0 300k", "io write 20M 1M"]),
    kind("32 bits", "cluster_size=64k,refcount_bits=32", &["io write 0 300k"]),
    kind("64 bits", "cluster_size=2M,refcount_bits=64", &["io write 0 300k"]),
    kind("version 2", "compat=0.10,cluster_size=64k", &["io write 0 300k"]),
    kind("extended L2", "cluster_size=64k,extended_l2=on", &["io write 4k 300k"]),
    kind("compressed", "cluster_size=64k", &["io write -c 0 64k", "io write -c 64k 64k", "io write 1M 64k"]),
    kind(
        "bitmaps",
        "cluster_size=64k",
        &["img bitmap --add IMAGE one", "io write 0 1M", "img bitmap --add IMAGE two"],
    ),
    kind("preallocated", "cluster_size=64k,preallocation=metadata", &[]),
    kind("zeroed", "cluster_size=64k", &["io write 0 1M", "io write -z 64k 256k"]),
    kind(
        "internal snapshots",
        "cluster_size=64k",
        &["io write 0 1M", "img snapshot -c a IMAGE", "io write 512k 1M", "img snapshot -c b IMAGE"],
    ),
];

fn run(program: Option<PathBuf>, arguments: &[&str], image: &Path) -> Output {
    let arguments =
        arguments.iter().map(|&word| if word == "IMAGE" { image.as_os_str() } else { word.as_ref() });
    Command::new(program.expect("it was there before")).args(arguments).output().expect("it was there before")
}

fn made(kind: &Kind, image: &Path) -> Vec<u8> {
    let done = |output: &Output| {
        assert!(output.status.success(), "{}: {}", kind.name, String::from_utf8_lossy(&output.stderr));
    };
    done(&run(
        programs::qemu_img(),
        &["create", "-q", "-f", "qcow2", "-o", kind.create, "IMAGE", "64M"],
        image,
    ));
    for command in kind.then {
        match command.split_once(' ').expect("a program and its arguments") {
            ("io", command) => {
                done(&run(programs::qemu_io(), &["-f", "qcow2", "-c", command, "IMAGE"], image))
            }
            (_, arguments) => {
                done(&run(programs::qemu_img(), &arguments.split(' ').collect::<Vec<_>>(), image))
            }
        }
    }
    std::fs::read(image).expect("just made")
}

fn is_there() -> bool {
    let there = programs::qemu_img().is_some() && programs::qemu_io().is_some();
    if !there {
        not_run("no qemu-img and qemu-io: run .ci/qemu");
    }
    there
}

fn findings(image: &Path) -> Vec<Finding> {
    let file = FileRange::whole(File::open(image).expect("there")).expect("a length");
    let mut found = Vec::new();
    check("image", &file, &mut |finding| found.push(finding)).expect("it can be read");
    found
}

/// The worst of them, as qemu-img's exit status has it: 0 nothing, 3 leaks, 2 worse.
fn verdict(found: &[Finding]) -> i32 {
    match found.iter().map(|finding| finding.level).max() {
        None | Some(Level::Note) => 0,
        Some(Level::Warning) => 3,
        Some(Level::Error) => 2,
    }
}

fn judge(image: &Path) -> (i32, String) {
    let output = run(programs::qemu_img(), &["check", "-f", "qcow2", "IMAGE"], image);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // 1: it cannot even be opened.
    (output.status.code().map_or(2, |code| if code == 1 { 2 } else { code }), text)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The offset in an entry.
fn entry(bytes: &[u8], at: usize) -> usize {
    usize::try_from(be64(bytes, at) & 0x00ff_ffff_ffff_fe00).expect("a small file")
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

const COPIED: u64 = 1 << 63;

/// Where things are.
struct Parts {
    block: usize,
    bits: usize,
    l1: usize,
    l2: usize,
    /// The first cluster of the disk, where it is mapped.
    data: usize,
    cluster: usize,
}

impl Parts {
    fn of(bytes: &[u8]) -> Self {
        let order = if bytes[7] == 3 { bytes[99] } else { 4 };
        let l1 = entry(bytes, 40);
        let l2 = entry(bytes, l1);
        Self {
            block: entry(bytes, entry(bytes, 48)),
            bits: 1 << order,
            l1,
            l2,
            data: entry(bytes, l2),
            cluster: 1 << bytes[23],
        }
    }

    /// Sets the refcount of the cluster at `at`.
    fn set(&self, bytes: &mut [u8], at: usize, value: u8) {
        let index = at / self.cluster;
        if self.bits < 8 {
            let (byte, shift) = (self.block + index * self.bits / 8, index * self.bits % 8);
            let mask = (1u8 << self.bits) - 1;
            bytes[byte] = bytes[byte] & !(mask << shift) | (value & mask) << shift;
        } else {
            let length = self.bits / 8;
            let start = self.block + index * length;
            bytes[start..start + length].fill(0);
            bytes[start + length - 1] = value;
        }
    }
}

type Damage = fn(&Parts, &mut Vec<u8>);

/// What is done to an image, and whether it makes sense for compressed data.
const DAMAGES: &[(&str, Damage)] = &[
    ("data cluster free", |parts, bytes| parts.set(bytes, parts.data, 0)),
    ("data cluster twice", |parts, bytes| parts.set(bytes, parts.data, 2)),
    ("L2 table free", |parts, bytes| parts.set(bytes, parts.l2, 0)),
    ("L1 table free", |parts, bytes| parts.set(bytes, parts.l1, 0)),
    ("header free", |parts, bytes| parts.set(bytes, 0, 0)),
    ("refcount block free", |parts, bytes| parts.set(bytes, parts.block, 0)),
    ("a cluster more", |parts, bytes| {
        let at = bytes.len().next_multiple_of(parts.cluster);
        bytes.resize(at + parts.cluster, 0);
        parts.set(bytes, at, 1);
    }),
    ("L2 table lost", |parts, bytes| put64(bytes, parts.l1, 0)),
    ("data cluster lost", |parts, bytes| {
        // Extended entries have a bitmap behind them, which would not fit.
        let length = if bytes[79] & 16 == 0 { 8 } else { 16 };
        bytes[parts.l2..parts.l2 + length].fill(0);
    }),
    ("two entries for a cluster", |parts, bytes| {
        let first = be64(bytes, parts.l2);
        put64(bytes, parts.l2 + 16, first);
    }),
    ("a table as data", |parts, bytes| put64(bytes, parts.l2, parts.l1 as u64 | COPIED)),
    ("not marked as the only one", |parts, bytes| {
        let value = be64(bytes, parts.l2) & !COPIED;
        put64(bytes, parts.l2, value);
    }),
    ("L2 table not marked", |parts, bytes| {
        let value = be64(bytes, parts.l1) & !COPIED;
        put64(bytes, parts.l1, value);
    }),
    ("data inside a cluster", |parts, bytes| {
        let value = be64(bytes, parts.l2) + 512;
        put64(bytes, parts.l2, value);
    }),
    ("data behind the end", |parts, bytes| put64(bytes, parts.l2, 1 << 40 | COPIED)),
    ("L2 table behind the end", |parts, bytes| put64(bytes, parts.l1, 1 << 40 | COPIED)),
    ("refcount block lost", |_, bytes| {
        let table = entry(bytes, 48);
        put64(bytes, table, 0);
    }),
    ("refcount block behind the end", |_, bytes| {
        let table = entry(bytes, 48);
        put64(bytes, table, 1 << 40);
    }),
];

#[test]
fn whole_images_of_every_kind_are_clean() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for kind in KINDS {
        let image = folder.path().join("image");
        made(kind, &image);
        let (status, text) = judge(&image);
        assert_eq!(status, 0, "{}: {text}", kind.name);
        assert_eq!(findings(&image), [], "{}", kind.name);
    }
}

#[test]
fn damaged_images_get_the_verdict_of_qemu_img() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut leaks, mut errors, mut wrong) = (0, 0, Vec::new());
    for kind in KINDS {
        let image = folder.path().join("image");
        let whole = made(kind, &image);
        let parts = Parts::of(&whole);
        for (name, damage) in DAMAGES {
            let mut bytes = whole.clone();
            damage(&parts, &mut bytes);
            std::fs::write(&image, &bytes).expect("a file");
            let (status, text) = judge(&image);
            let found = findings(&image);
            leaks += usize::from(status == 3);
            errors += usize::from(status == 2);
            if verdict(&found) != status {
                wrong.push(format!("{}, {name}: qemu-img says {status}: {text}, we: {found:#?}", kind.name));
            }
        }
    }
    assert_eq!(wrong.join("\n\n"), "");
    assert!(leaks >= 20 && errors >= 100, "{leaks} leaks, {errors} errors");
}

#[test]
fn a_finding_says_where_and_what() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("image");
    let mut bytes = made(&kind("", "cluster_size=64k", &["io write 0 128k"]), &image);
    let parts = Parts::of(&bytes);
    let [first, second] = [0, 8].map(|at| entry(&bytes, parts.l2 + at));
    parts.set(&mut bytes, first, 0);
    parts.set(&mut bytes, second, 7);
    std::fs::write(&image, &bytes).expect("a file");
    let text: Vec<_> = findings(&image)
        .iter()
        .map(|finding| {
            format!(
                "{:#x} {} {}: {}",
                finding.offset.unwrap_or(0),
                finding.level.name(),
                finding.path,
                finding.text
            )
        })
        .collect();
    let l2 = parts.l2;
    let expected = [
        format!(
            "{l2:#x} error refcounts: wrong mark: data cluster at {first:#x} has refcount 0, its entry is marked as the only one"
        ),
        format!(
            "{:#x} error refcounts: wrong mark: data cluster at {second:#x} has refcount 7, its entry is marked as the only one",
            l2 + 8
        ),
        format!("{first:#x} error refcounts: refcount too low: 0, and 1 references"),
        format!("{second:#x} warning refcounts: leaked cluster: 7, and 1 references"),
    ];
    assert_eq!(text, expected);
}
