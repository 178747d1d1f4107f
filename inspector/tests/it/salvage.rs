//! mapped-ram files of a background snapshot, for which QEMU writes no bitmaps: an error for every
//! command, and salvaged only where nothing else is missing.

use crate::common::{all, run, stdout, unpacked};
use migration_stream::device_tail::locate;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

/// Where the pages of the three blocks lie in these files.
const PLACES: [std::ops::Range<usize>; 3] =
    [0x10_0000..0x50_0000, 0x60_0000..0x62_0000, 0x70_0000..END_OF_RAM];
const END_OF_RAM: usize = 0x71_0000;
const VERSIONS: [&str; 2] = ["10.0", "11.1"];
const WRONG: &str = "no page is marked and the RAM section has no END, yet pages have content: background-snapshot with \
                     mapped-ram, for which QEMU writes no bitmaps. A destination loads all RAM as zeros; snapinspect \
                     convert --salvage takes the pages from their places";

fn name(version: &str) -> String {
    format!("elsewhere/qemu-{version}-pc-mapped-background")
}

fn packed(version: &str) -> String {
    format!("../{}.bin.zst", name(version))
}

/// A file with these bytes, and holes where QEMU left some.
fn sparse(path: &Path, bytes: &[u8]) {
    let file = std::fs::File::create(path).expect("a new file");
    file.set_len(bytes.len() as u64).expect("sparse");
    for (number, piece) in
        bytes.chunks(4096).enumerate().filter(|(_, piece)| piece.iter().any(|&byte| byte != 0))
    {
        file.write_all_at(piece, number as u64 * 4096).expect("a small file");
    }
}

fn salvage(from: &str, to: &Path, form: &str) -> Output {
    run(&["convert", "--salvage", from, to.to_str().expect("plain"), "--to", form])
}

fn refused(output: &Output, status: i32, words: &str, written: &Path) {
    assert_eq!(output.status.code(), Some(status), "{}", all(output));
    assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{words}: {}", all(output));
    assert!(!written.exists(), "{}", all(output));
}

#[test]
fn every_command_refuses_ram_without_bitmaps() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out.png");
    let to = out.to_str().expect("plain");
    for version in VERSIONS {
        let file = packed(version);
        let check = run(&["check", &file]);
        assert_eq!(check.status.code(), Some(1), "{}", all(&check));
        assert!(stdout(&check).contains(&format!("error mapped-ram bitmap: {WRONG}\n")), "{}", all(&check));
        let stat = run(&["stat", &file]);
        assert_eq!(stat.status.code(), Some(1), "{}", all(&stat));
        assert!(stdout(&stat).contains(WRONG), "{}", all(&stat));
        for arguments in [
            &["extract", &file, "--block", "pc.ram", "-o", to][..],
            &["extract", &file, "--core", "-o", to],
            &["map", &file, "-o", to],
            &["diff", &file, &file],
            &["compat", &file, &file],
            &["convert", &file, to, "--to", "stream"],
            &["convert", &file, to, "--to", "image"],
            &["convert", &file, to, "--to", "mapped-ram"],
        ] {
            refused(&run(arguments), 1, WRONG, &out);
        }
    }
}

#[test]
fn pages_are_taken_from_their_places_from_a_file_and_through_a_pipe() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for version in VERSIONS {
        let bytes = unpacked(&name(version));
        let file = folder.path().join("file");
        sparse(&file, &bytes);
        let mut contents = Vec::new();
        for from in [file.to_str().expect("plain").to_owned(), packed(version)] {
            for form in ["stream", "image", "mapped-ram"] {
                let to = folder.path().join(form);
                let output = salvage(&from, &to, form);
                assert_eq!(output.status.code(), Some(0), "{}", all(&output));
                let words = String::from_utf8_lossy(&output.stderr);
                assert!(words.contains("pages from their places"), "{words}");
                assert!(words.contains("assumes that the file was empty when the save began"), "{words}");
                let to = to.to_str().expect("plain");
                let check = run(&["check", to]);
                assert_eq!(check.status.code(), Some(0), "{}", all(&check));
                contents.push(run(&["extract", to, "--block", "pc.ram", "-o", "-"]).stdout);
                std::fs::remove_file(to).expect("just written");
            }
        }
        let place = &bytes[PLACES[0].clone()];
        assert!(place.iter().any(|&byte| byte != 0));
        for found in contents {
            assert!(found == place, "{version}");
        }
    }
}

#[test]
fn what_is_not_whole_is_not_salvaged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, out) = (folder.path().join("file"), folder.path().join("out"));
    let from = file.to_str().expect("plain");
    let bytes = unpacked(&name("11.1"));
    let eof = locate(&bytes).expect("it has a vmdesc").eof;
    // START and PART of RAM end behind the last block; the PART is 5 bytes, an end mark and a footer.
    let part = END_OF_RAM + 8 + 5;
    let devices = part + 5 + 8 + 5;
    assert_eq!(bytes[part..part + 5], [2, 0, 0, 0, 1]);
    assert_eq!(bytes[devices], 4);
    // As a save that ended on a full disk: without a byte at the end, without the vmdesc, in the
    // middle of the devices, before them, and inside of RAM.
    for length in [bytes.len() - 1, eof + 2, eof, eof - 100, devices + 1, devices, part, 3 << 20, 1 << 20] {
        sparse(&file, &bytes[..length]);
        let output = salvage(from, &out, "stream");
        assert_eq!(output.status.code(), Some(1), "cut at {length:#x}: {}", all(&output));
        assert!(!out.exists(), "cut at {length:#x}");
    }
    // And none that ends with EOF, but has no vmdesc to hold the devices to.
    sparse(&file, &bytes[..=eof]);
    let output = salvage(from, &out, "stream");
    refused(&output, 1, "there is no vmdesc that proves that the device sections behind RAM are whole", &out);
}

#[test]
fn what_needs_no_salvage_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let marked = "nothing to salvage: the bitmaps say which pages are there";
    let output = salvage("../elsewhere/qemu-11.1-pc-mapped-ignore-shared-private.bin.zst", &out, "stream");
    refused(&output, 1, marked, &out);
    let output = salvage("qemu-10.0-pc.bin.zst", &out, "image");
    refused(&output, 2, "--salvage is for mapped-ram files, and this is none", &out);
    // Where no page has content nothing is lost.
    let mut bytes = unpacked(&name("10.0"));
    for place in PLACES {
        bytes[place].fill(0);
    }
    let file = folder.path().join("file");
    sparse(&file, &bytes);
    let from = file.to_str().expect("plain");
    refused(&salvage(from, &out, "stream"), 1, "nothing to salvage: no page has content", &out);
    let check = run(&["check", from]);
    assert_eq!(check.status.code(), Some(0), "{}", all(&check));
}
