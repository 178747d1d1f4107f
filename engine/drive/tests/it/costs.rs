//! What a save and a revert cost that have as many RAM blocks as there can be: memory that follows
//! the length of the list.
//!
//! The limit is one of address space, so that a busy machine changes nothing.

use super::bed::{begin_of_blocks, block, end, end_of_stream, said, tool};
use migration_stream::put_page_header;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// The most blocks that a list can have.
const BLOCK_LIMIT: usize = 1 << 17;
/// What the program has beside: its own code, and buffers of `--memory=1M`.
const BESIDE_BYTES: usize = 48 << 20;
/// What a block takes, and what each byte of its name takes, at the most.
const BLOCK_BYTES: usize = 512;
const NAME_FACTOR: usize = 8;

/// A stream of so many blocks of one page each, whose names have so many bytes.
fn stream(blocks: usize, name_bytes: usize) -> Vec<u8> {
    let name = |number: usize| format!("{number:0name_bytes$}").into_bytes();
    let mut out = begin_of_blocks((0..blocks).map(|number| block(&name(number), 4096)).collect());
    for number in [0, blocks / 2, blocks - 1] {
        put_page_header(&mut out, Some(&name(number)), 0);
        out.extend_from_slice(&[0x5a; 4096]);
    }
    end_of_stream(&mut out);
    out
}

/// The tool with so much address space.
fn limited(bytes: usize, arguments: &[&str], image: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command.args([&format!("--as={bytes}"), "--", env!("CARGO_BIN_EXE_qemu-snapshot"), "--memory=1M"]);
    command.args(arguments).arg(image).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn as_many_blocks_as_there_can_be_take_memory_that_follows_the_list() {
    // A number of 6 digits; and the longest name that there is.
    for name_bytes in [6, 255] {
        let folder = tempfile::tempdir().unwrap();
        let (input, image) = (folder.path().join("input"), folder.path().join("image"));
        std::fs::write(&input, stream(BLOCK_LIMIT, name_bytes)).unwrap();
        let bytes = BESIDE_BYTES + BLOCK_LIMIT * (BLOCK_BYTES + NAME_FACTOR * name_bytes);
        let what = |output| format!("names of {name_bytes} bytes, limit {bytes}: {}", said(output));
        let mut save = limited(bytes, &["--create"], &image);
        let output = end(save.stdin(File::open(&input).unwrap()).stdout(Stdio::null()).spawn().unwrap());
        assert!(output.status.success(), "{}", what(&output));
        let stdout = File::create(folder.path().join("reverted")).unwrap();
        let output = end(limited(bytes, &["--revert"], &image).stdout(stdout).spawn().unwrap());
        assert!(output.status.success(), "{}", what(&output));
        let length = |name: &str| folder.path().join(name).metadata().unwrap().len();
        assert!(length("reverted") > length("input"), "zero pages are in it, too");
    }
}

/// Legal, and no fault that could be told from here: it is said.
#[test]
fn a_block_of_which_no_page_arrives_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (input, image) = (folder.path().join("input"), folder.path().join("image"));
    let mut bytes = begin_of_blocks(vec![block(b"pc.ram", 8192), block(b"vmem0", 4096)]);
    put_page_header(&mut bytes, Some(b"pc.ram"), 0);
    bytes.extend_from_slice(&[0x5a; 4096]);
    end_of_stream(&mut bytes);
    std::fs::write(&input, bytes).unwrap();
    let mut save = tool();
    let output = end(save.arg("--create").arg(&image).stdin(File::open(&input).unwrap()).spawn().unwrap());
    assert!(output.status.success(), "{}", said(&output));
    let wanted = "warning: no page of RAM block \"vmem0\" arrived";
    assert!(said(&output).contains(wanted), "{}", said(&output));
    assert!(!said(&output).contains("pc.ram"), "{}", said(&output));
}

#[test]
fn one_block_more_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (input, image) = (folder.path().join("input"), folder.path().join("image"));
    std::fs::write(&input, stream(BLOCK_LIMIT + 1, 6)).unwrap();
    let mut save = tool();
    let output = end(save.arg("--create").arg(&image).stdin(File::open(&input).unwrap()).spawn().unwrap());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("number of RAM blocks is 131073, the limit is 131072"),
        "{}",
        said(&output)
    );
    assert!(!image.exists());
}
