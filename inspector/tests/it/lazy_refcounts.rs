//! Images with lazy refcounts that were not closed: their tables are looked at all the same, as
//! `qemu-img check` does.

use snapinspect::refcounts::check;
use snapinspect::source::FileRange;
use snapinspect::walk::{Finding, Level};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use test_support::{not_run, programs};

/// Incompatible features, and the one that says that an image is in use or was not closed.
const INCOMPATIBLE: usize = 72;
const DIRTY: u8 = 1;

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn offset(entry: u64) -> usize {
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).expect("a small file")
}

/// `qemu-img` and `qemu-io`.
fn tools() -> Option<[PathBuf; 2]> {
    let tools = programs::qemu_img().zip(programs::qemu_io());
    if tools.is_none() {
        not_run("no qemu-img and qemu-io: run .ci/qemu");
    }
    tools.map(|(img, io)| [img, io])
}

/// An image with one internal snapshot that was not closed.
fn made([img, io]: &[PathBuf; 2], image: &Path) -> Vec<u8> {
    let path = image.to_str().expect("a name of our own");
    for (program, arguments) in [
        (img, &["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "64M"][..]),
        (io, &["-f", "qcow2", "-c", "write 0 1M", path][..]),
        (img, &["snapshot", "-c", "one", path][..]),
        (io, &["-f", "qcow2", "-c", "write 512k 1M", path][..]),
    ] {
        let done = Command::new(program).args(arguments).output().expect("it was there before");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let mut bytes = std::fs::read(image).expect("just made");
    bytes[INCOMPATIBLE + 7] |= DIRTY;
    bytes
}

fn findings(image: &Path, bytes: &[u8]) -> Vec<Finding> {
    std::fs::write(image, bytes).expect("a small file");
    let file = FileRange::whole(File::open(image).expect("there")).expect("a length");
    let mut found = Vec::new();
    check("image", &file, &mut |finding| found.push(finding)).expect("it can be read");
    found
}

#[test]
fn tables_of_an_image_that_was_not_closed_are_looked_at() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("image.qcow2");
    let right = made(&tools, &image);
    let found = findings(&image, &right);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].level, Level::Note, "{found:?}");
    assert!(found[0].text.starts_with("not compared: the image has lazy refcounts"), "{found:?}");

    // The table of internal snapshots begins with the place of the first one's L1 table; the active
    // one is in the header.
    let of_snapshot = usize::try_from(be64(&right, usize::try_from(be64(&right, 64)).unwrap())).unwrap();
    let active = usize::try_from(be64(&right, 40)).unwrap();
    for l1 in [of_snapshot, active] {
        let l2 = offset(be64(&right, l1));
        for (at, structure) in [(l1, "L2 table"), (l2, "data cluster")] {
            for (entry, kind) in [
                (0x8000_0000_7fff_0000_u64, "behind the end of the file"),
                (0x8000_0000_0000_0200, "not at the start of a cluster"),
            ] {
                let mut bytes = right.clone();
                bytes[at..at + 8].copy_from_slice(&entry.to_be_bytes());
                let found = findings(&image, &bytes);
                let text = format!("{kind}: {structure} at {:#x}", entry & 0xffff_ffff);
                let is_it = |finding: &Finding| {
                    finding.level == Level::Error && finding.offset == Some(at as u64) && finding.text == text
                };
                assert_eq!(found.iter().filter(|finding| is_it(finding)).count(), 1, "{text}: {found:?}");
                let output = Command::new(&tools[0]).args(["check", "-f", "qcow2"]).arg(&image).output();
                assert_eq!(output.expect("there").status.code(), Some(2), "{text}");
            }
        }
    }
}
