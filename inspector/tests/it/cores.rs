//! ELF cores of streams of the corpus. `tests/tests/it/cores` compares those of running guests with
//! QEMU's own.

use crate::common::program;
use std::path::Path;

fn extract(file: &str, what: &[&str], to: &Path) -> Vec<u8> {
    let output = program().args(["extract", file]).args(what).arg("--force").arg("-o").arg(to).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(to).expect("written")
}

#[test]
fn nodes_are_in_their_order_although_the_second_one_is_listed_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("out");
    let file = "qemu-7.2-pc-numa.bin.zst";
    let first = extract(file, &["--block", "ram-node0"], &path);
    let second = extract(file, &["--block", "ram-node1"], &path);
    assert_eq!((first.len(), second.len()), (1 << 20, 3 << 20));
    assert!(first[..0xc_0000] != second[..0xc_0000], "the nodes differ");
    // Behind RAM there is the firmware of 64 KiB, and 64 KiB in front of its copy below 1 MiB are
    // neither RAM nor ROM.
    let core = extract(file, &["--core"], &path);
    let at = core.len() - (64 << 10) - second.len();
    assert!(core[at..][..second.len()] == second);
    let at = at + (64 << 10) - first.len();
    assert!(core[at..][..0xc_0000] == first[..0xc_0000], "up to what lies over RAM");
    // Given the other way round, they are.
    let core = extract(file, &["--core", "--nodes", "ram-node1,ram-node0"], &path);
    let at = core.len() - (64 << 10) - first.len();
    assert!(core[at..][..first.len()] == first);
}
