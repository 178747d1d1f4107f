//! Copy-on-write file systems whose disk another program fills when the last bytes of a save are
//! still to come.

use super::{assert_holds, last_bytes, stream, up_to_the_last_bytes};
use snapshot_tests::{
    SmallDisk,
    image::{qemu_img, qemu_img_or_skip, text},
};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    process::Command,
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

#[test]
fn a_disk_that_is_full_when_the_last_bytes_come_has_the_space_for_them() {
    let bytes = stream();
    for kind in ["btrfs", "xfs"] {
        let Some(disk) = SmallDisk::formatted_or_skip(kind, 384 << 20) else { continue };
        let image = disk.path("image");
        let mut source = up_to_the_last_bytes(&["--create"], &image);
        if kind == "xfs" {
            share(&disk, &image);
        }
        fill(&disk);
        source.write(&last_bytes());
        let (output, failed) = source.end();
        assert!(output.status.success() && !failed, "{kind}: {}", text(&output));
        assert_holds(&image, &bytes);
    }
}

/// An image that is there already, with its blocks, and so cannot be made exempt from copying.
#[test]
fn a_prepared_image_on_btrfs_has_the_space_for_the_last_bytes() {
    let Some(program) = qemu_img_or_skip() else { return };
    let Some(disk) = SmallDisk::formatted_or_skip("btrfs", 384 << 20) else { return };
    let image = disk.path("image");
    let path = image.to_str().expect("a UTF-8 path");
    qemu_img(&program, ["create", "-q", "-f", "qcow2", "-o", "preallocation=falloc", path, "64M"]);
    let bytes = stream();
    let mut source = super::Source::start(&[], &image);
    source.write(&bytes[..bytes.len() - super::HELD_BYTES]);
    source.wait_taken();
    // In the image itself nothing shows that the space is held: then its length in blocks does.
    let file = OpenOptions::new().read(true).open(&image).expect("it is there");
    super::wait_until("the ballast is held", || {
        let metadata = file.metadata().expect("it is open");
        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 > metadata.len()
    });
    fill(&disk);
    source.write(&last_bytes());
    let (output, failed) = source.end();
    assert!(output.status.success() && !failed, "{}", text(&output));
    assert_holds(&image, &bytes);
}
