//! Linear images: `convert` makes them, `check` looks at the places of zero pages as well.

use crate::common::{all, corpus, program, stdout};
use serde_json::Value;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;

fn run(arguments: &[&str], path: &Path) -> Output {
    program().args(arguments).arg(path).output().expect("the program runs")
}

/// An image of a stream of the corpus.
fn image(folder: &Path, layout: &str) -> PathBuf {
    let image = folder.join(format!("{layout}.qcow2"));
    let from = corpus().join("qemu-10.0-pc.bin.zst");
    let layout = format!("--layout={layout}");
    let output = program().arg("convert").arg(from).arg(&image).args(["--to", "image", &layout]).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    image
}

/// Name, length and place in the file of each RAM block.
fn blocks(image: &Path) -> Vec<(String, u64, u64)> {
    let dump = stdout(&run(&["dump", "--format=json"], image));
    let lines = dump.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let number = |value: &Value| value.as_u64().expect("a number");
    lines
        .filter(|line| line["type"] == "image_block" || line["kind"] == "image_block")
        .map(|line| {
            let name = line["name"].as_str().expect("a name").to_owned();
            (name, number(&line["bytes"]), number(&line["file_offset"]))
        })
        .collect()
}

/// A place in the image at which a page of this block is zero.
fn zero_page(image: &Path, block: &str) -> (u64, u64) {
    let bytes = std::fs::read(image).expect("written");
    let blocks = blocks(image);
    let (_, length, base) = blocks.iter().find(|(name, ..)| name == block).expect("the block");
    let is_zero = |offset: &u64| {
        let at = usize::try_from(base + offset).expect("small");
        bytes[at..at + 4096].iter().all(|&byte| byte == 0)
    };
    let offset = (0..*length).step_by(4096).filter(is_zero).nth(3).expect("a zero page");
    (offset, base + offset)
}

fn change(image: &Path, at: u64, byte: u8) {
    let file = std::fs::OpenOptions::new().write(true).open(image).expect("root, or made writable");
    file.write_all_at(&[byte], at).expect("a byte");
}

fn writable(image: &Path) {
    std::fs::set_permissions(image, std::fs::Permissions::from_mode(0o600)).expect("ours");
}

#[test]
fn the_layout_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for layout in ["linear", "dense"] {
        let image = image(folder.path(), layout);
        let mode = std::fs::metadata(&image).expect("written").mode() & 0o7777;
        assert_eq!(mode, if layout == "linear" { 0o400 } else { 0o600 });
        let check = run(&["check"], &image);
        assert_eq!(check.status.code(), Some(0), "{}", all(&check));
        let summary = format!(": 0 errors, 0 warnings, 1 note; {layout} layout\n");
        assert!(stdout(&check).ends_with(&summary), "{}", all(&check));
        let json = |arguments: &[&str]| -> Value {
            let text = stdout(&run(arguments, &image));
            serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
        };
        assert_eq!(json(&["check", "--format=json"])["layout"], layout);
        assert_eq!(json(&["stat", "--json"])["layout"], layout);
        assert_eq!(json(&["info", "--json"])["image"]["layout"], layout);
        let text = format!(", {layout} layout");
        assert!(stdout(&run(&["stat"], &image)).lines().next().expect("a line").ends_with(&text));
        assert!(stdout(&run(&["info"], &image)).contains(&text));
        let dump = stdout(&run(&["dump", "--format=line"], &image));
        assert_eq!(dump.contains("file_offset="), layout == "linear");
    }
    let output = program().args(["convert", "a", "b", "--to", "stream", "--layout=linear"]).output();
    let output = output.expect("the program runs");
    assert!(
        output.status.code() == Some(2) && all(&output).contains("--layout is of images"),
        "{}",
        all(&output)
    );
}

#[test]
fn both_layouts_revert_to_the_same_stream() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (linear, dense) = (image(folder.path(), "linear"), image(folder.path(), "dense"));
    let diff = program().arg("diff").arg(&linear).arg(&dense).output().expect("the program runs");
    assert_eq!(diff.status.code(), Some(0), "{}", all(&diff));
}

/// No more blocks than pages that are not zero need, whole blocks in the file, each at a multiple of 2 MiB.
#[test]
fn zero_pages_take_no_space() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path(), "linear");
    let metadata = std::fs::metadata(&image).expect("written");
    let info: Value = serde_json::from_str(&stdout(&run(&["info", "--json"], &image))).expect("JSON");
    let nonzero = info["image"]["nonzero_bytes"].as_u64().expect("known");
    let blocks = blocks(&image);
    let ram: u64 = blocks.iter().map(|(_, bytes, _)| bytes).sum();
    assert!(nonzero < ram / 2, "{nonzero} of {ram}");
    for (name, bytes, at) in &blocks {
        assert!(at.is_multiple_of(2 * MIB) && at + bytes <= metadata.len(), "{name}");
    }
    // 8 clusters of 64 KiB, and what is reserved for the VM state.
    let allowed = nonzero * 101 / 100 + (8 << 16) + (512 << 10);
    let found = metadata.blocks() * 512;
    assert!(found <= allowed, "{found} bytes on disk, {allowed} allowed for {nonzero} that are not zero");
}

#[test]
fn a_byte_in_the_place_of_a_zero_page_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path(), "linear");
    writable(&image);
    let (offset, at) = zero_page(&image, "pc.ram");
    change(&image, at + 77, 0x5a);
    let check = run(&["check"], &image);
    let expected = format!(
        " error image: ram block \"pc.ram\" offset {offset:#x}: 0x5a at offset {:#x} of the file, expected zero: the page is \
         zero, and a guest that is mapped from the image would see it\n",
        at + 77
    );
    assert!(check.status.code() == Some(1) && stdout(&check).contains(&expected), "{}", all(&check));
    // A revert does not read it.
    let stat = run(&["stat"], &image);
    assert_eq!(stat.status.code(), Some(0), "{}", all(&stat));
    change(&image, at + 77, 0);
    assert_eq!(run(&["check"], &image).status.code(), Some(0), "zeros are as good as a hole");
    // One that has none but zero pages.
    let (name, bytes, base) = blocks(&image).pop().expect("blocks");
    for page in 0..(bytes / 4096).min(3) {
        change(&image, base + page * 4096 + 4095, 1);
    }
    let check = run(&["check"], &image);
    assert!(check.status.code() == Some(1) && stdout(&check).contains(&name), "{}", all(&check));
}

#[test]
fn many_bytes_in_zero_pages_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path(), "linear");
    writable(&image);
    let bytes = std::fs::read(&image).expect("written");
    let blocks = blocks(&image);
    let (_, length, base) = blocks.iter().find(|(name, ..)| name == "pc.ram").expect("the block");
    let zero = (*base..base + length).step_by(4096).filter(|&at| {
        let at = usize::try_from(at).expect("small");
        bytes[at..at + 4096].iter().all(|&byte| byte == 0)
    });
    zero.take(33).for_each(|at| change(&image, at, 1));
    let check = run(&["check"], &image);
    let text = stdout(&check);
    assert_eq!(check.status.code(), Some(1), "{}", all(&check));
    assert_eq!(text.matches("would see it").count(), 20, "{text}");
    let counted = "33 pages are zero, and have other bytes in their places; the first 20 are listed";
    assert!(text.contains(counted), "{text}");
}

#[test]
fn a_copy_that_has_lost_its_holes_is_whole() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path(), "linear");
    let copy = folder.path().join("copy.qcow2");
    let copied = Command::new("cp").arg("--sparse=never").args([&image, &copy]).status().expect("coreutils");
    assert!(copied.success());
    let metadata = std::fs::metadata(&copy).expect("written");
    assert!(metadata.blocks() * 512 >= metadata.len(), "the copy has holes");
    let check = run(&["check"], &copy);
    assert_eq!(check.status.code(), Some(0), "{}", all(&check));
    let diff = program().arg("diff").arg(&image).arg(&copy).output().expect("the program runs");
    assert_eq!(diff.status.code(), Some(0), "{}", all(&diff));
}

/// A bit anywhere in the file: in what a block has, `check` finds it.
#[test]
fn a_flipped_bit_that_a_guest_can_see_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path(), "linear");
    writable(&image);
    let blocks = blocks(&image);
    let bytes = std::fs::read(&image).expect("written");
    let (mut seen, mut elsewhere) = (0, 0);
    for at in (0..bytes.len()).step_by((bytes.len() / 150) | 1) {
        change(&image, at as u64, bytes[at] ^ 1 << (at % 8));
        let status = run(&["check"], &image).status.code();
        change(&image, at as u64, bytes[at]);
        let at = at as u64;
        if blocks.iter().any(|(_, length, base)| (*base..base + length).contains(&at)) {
            assert_eq!(status, Some(1), "{at:#x}");
            seen += 1;
        } else {
            assert!(matches!(status, Some(0..=2)), "{at:#x}");
            elsewhere += 1;
        }
    }
    assert!(seen > 20 && elsewhere > 5, "{seen} in RAM, {elsewhere} elsewhere");
}
