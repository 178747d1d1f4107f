//! Copy-on-write file systems whose disk another program fills when the last bytes of a save are
//! still to come.
//!
//! Each test is done again with the ballast taken away: then the space for these bytes is missing,
//! and so it is the ballast that the save has it from.

use super::{
    HELD_BYTES, Source, assert_holds, last_bytes, stream, up_to_the_last_bytes, wait_until_ballast_is_held,
};
use snapshot_tests::{
    SmallDisk,
    image::{qemu_img, qemu_img_or_skip, text},
};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, Output},
};

/// Fills the disk, byte by byte in the end.
fn fill(disk: &SmallDisk) {
    for (name, portion) in [("fill", 64 << 10), ("rest", 4 << 10)] {
        // A name may need space, too.
        let Ok(mut file) = File::create(disk.path(name)) else { return };
        while file.write_all(&vec![0x5a; portion]).is_ok() && file.sync_data().is_ok() {}
    }
}

/// Shares the file's blocks with a copy: to write one of them again takes a new one.
fn share(disk: &SmallDisk, image: &Path) {
    let copy = Command::new("cp").arg("--reflink=always").arg(image).arg(disk.path("copy")).output();
    let copy = copy.expect("cp is there");
    assert!(copy.status.success(), "{}", text(&copy));
}

/// Cuts off what lies behind the end of the file, which keeps its length.
fn take_ballast(image: &Path) {
    let file = OpenOptions::new().write(true).open(image).expect("it is there");
    file.set_len(file.metadata().expect("it is open").len()).expect("our own file");
    file.sync_all().expect("our own file");
}

/// The disk is full, and then the last bytes come.
fn end_on_a_full_disk(mut source: Source, disk: &SmallDisk) -> (Output, bool) {
    fill(disk);
    source.write(&last_bytes());
    source.end()
}

fn assert_saved((output, failed): &(Output, bool), image: &Path) {
    assert!(output.status.success() && !failed, "{}", text(output));
    assert_holds(image, &stream());
}

fn assert_no_space((output, _): &(Output, bool)) {
    assert_eq!(output.status.code(), Some(2), "{}", text(output));
    assert!(text(output).contains("No space left on device"), "{}", text(output));
}

/// A new file is exempt from copying there (`chattr +C`).
#[test]
fn a_new_image_on_btrfs_has_the_space_for_the_last_bytes() {
    let Some(disk) = SmallDisk::formatted_or_skip("btrfs", 384 << 20) else { return };
    let image = disk.path("image");
    let source = up_to_the_last_bytes(&["--create"], &image);
    assert_saved(&end_on_a_full_disk(source, &disk), &image);
}

#[test]
fn an_image_with_shared_blocks_on_xfs_has_the_space_for_the_last_bytes() {
    for held in [true, false] {
        let Some(disk) = SmallDisk::formatted_or_skip("xfs", 384 << 20) else { return };
        let image = disk.path("image");
        let source = up_to_the_last_bytes(&["--create"], &image);
        share(&disk, &image);
        if held {
            assert_saved(&end_on_a_full_disk(source, &disk), &image);
        } else {
            take_ballast(&image);
            assert_no_space(&end_on_a_full_disk(source, &disk));
        }
    }
}

/// An image that is there already, with its blocks, and so cannot be made exempt from copying.
#[test]
fn a_prepared_image_on_btrfs_has_the_space_for_the_last_bytes() {
    let Some(program) = qemu_img_or_skip() else { return };
    for held in [true, false] {
        let Some(disk) = SmallDisk::formatted_or_skip("btrfs", 384 << 20) else { return };
        let image = disk.path("image");
        let path = image.to_str().expect("a UTF-8 path");
        qemu_img(&program, ["create", "-q", "-f", "qcow2", "-o", "preallocation=falloc", path, "64M"]);
        let bytes = stream();
        let mut source = Source::start(&[], &image);
        source.write(&bytes[..bytes.len() - HELD_BYTES]);
        source.wait_taken();
        wait_until_ballast_is_held(&image);
        if held {
            assert_saved(&end_on_a_full_disk(source, &disk), &image);
        } else {
            take_ballast(&image);
            assert_no_space(&end_on_a_full_disk(source, &disk));
        }
    }
}
