//! What lies in the file is what was saved; that is found out once, and damage is named.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    thread,
    time::Duration,
};

use serde_json::json;
use snapshot_tests::{SmallDisk, beside::utf8, image::text};

use super::{Linear, Peer, has_python, linear};

const STREAM: &str = "qemu-10.0-pc-background";

/// The first page of `pc.ram` behind page 8 that is zero, or is not.
fn page(image: &Linear, zero: bool) -> u64 {
    let is_zero = |page: u64| !image.contents.ram.contains_key(&(b"pc.ram".to_vec(), page * 4096));
    (8..image.length / 4096).find(|page| is_zero(*page) == zero).expect("there are both")
}

/// Changes a bit of a page in the file, as a broken disk would: the file looks as before.
fn flip(image: &Linear, page: u64) {
    let at = image.base + page * 4096 + 77;
    let before = fs::metadata(&image.path).expect("it is there").modified().expect("it has a time");
    fs::set_permissions(&image.path, Permissions::from_mode(0o600)).expect("ours");
    let file = File::options().read(true).write(true).open(&image.path).expect("ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("ours");
    file.set_modified(before).expect("ours");
    fs::set_permissions(&image.path, Permissions::from_mode(0o400)).expect("ours");
}

#[test]
fn a_damaged_page_stops_the_revert_zero_pages_too() {
    if !has_python() {
        return;
    }
    for zero in [false, true] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = linear(STREAM, folder.path());
        let page = page(&image, zero);
        flip(&image, page);
        let (output, sent) = Peer::right(&image).run();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let damage =
            format!("the image is damaged: ram block \"pc.ram\" offset {:#x}: page checksum", page * 4096);
        assert!(said.contains(&damage), "{said}");
        assert!(!sent.starts_with(b"QEVM"), "{said}");
        // The guest runs first, and then it is said; behind exec: by a process of its own, as QEMU
        // waits for the one that it has started.
        let after = Peer::right(&image).with_command("TOOL --revert --mapped --verify=after IMAGE");
        let (output, sent) = after.run();
        let said = text(&output);
        assert!(sent.starts_with(b"QEVM") && output.status.code() == Some(0), "{said}");
        assert!(
            said.contains(&format!("warning: damaged: ram block \"pc.ram\" offset {:#x}", page * 4096)),
            "{said}"
        );
        assert!(said.contains("error: the image is damaged"), "{said}");
        let command = "exec TOOL --revert --mapped --verify=after --uri=fd:FD IMAGE";
        let (output, sent) = Peer { channel: "pair", ..Peer::right(&image) }.with_command(command).run();
        let said = text(&output);
        assert!(sent.starts_with(b"QEVM") && output.status.code() == Some(1), "{said}");
        assert!(said.contains("(python3) has the image mapped: its guest sees the damage"), "{said}");
        let unverified = Peer::right(&image).with_command("TOOL --revert --mapped --verify=no IMAGE");
        unverified.is_reverted(&[]);
    }
}

#[test]
fn an_image_is_verified_again_only_when_it_may_have_changed() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = linear(STREAM, folder.path());
    let record = folder.path().join("image.verified");
    // A file that was changed a moment ago can change again without a new time.
    thread::sleep(Duration::from_millis(200));
    Peer::right(&image).is_reverted(&[]);
    let first = fs::metadata(&record).expect("a record").ino();
    Peer::right(&image).is_reverted(&[]);
    assert_eq!(fs::metadata(&record).expect("a record").ino(), first, "it was verified again");
    let of_record = fs::read(&record).expect("a record");
    // The record is of the file as it was.
    flip(&image, page(&image, false));
    let (output, _) = Peer::right(&image).run();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(fs::read(&record).expect("a record"), of_record);
    flip(&image, page(&image, false));
    thread::sleep(Duration::from_millis(200));
    Peer::right(&image).is_reverted(&[]);
    assert_ne!(fs::read(&record).expect("a record"), of_record);
    // Others could have written it.
    fs::set_permissions(&record, Permissions::from_mode(0o666)).expect("ours");
    let said = Peer::right(&image).is_reverted(&[]);
    let expected = "the record of an earlier verification is not believed: ";
    assert!(said.contains(expected) && said.contains("others than its owner may write to it"), "{said}");
}

/// A copy whose holes are zeros, and one whose time of change the file system does not keep.
#[test]
fn copies_without_holes_are_mapped_and_tmpfs_is_verified_each_time() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = linear(STREAM, folder.path());
    let plain = folder.path().join("plain");
    fs::write(&plain, fs::read(&image.path).expect("it is there")).expect("a copy");
    let plain = Linear { path: plain, ..image };
    Peer::right(&plain).is_reverted(&[]);
    let Some(disk) = SmallDisk::mounted_or_skip(64 << 20) else { return };
    let copy = disk.path("image");
    fs::copy(&plain.path, &copy).expect("a copy");
    let copy = Linear { path: copy, ..plain };
    thread::sleep(Duration::from_millis(200));
    Peer::right(&copy).is_reverted(&[]);
    assert!(!disk.path("image.verified").exists(), "a record on tmpfs: {}", utf8(&copy.path));
    let cut = Peer::right(&copy).with("length", json!(copy.length));
    File::options()
        .write(true)
        .open(&copy.path)
        .expect("ours")
        .set_len(copy.base + copy.length / 2)
        .expect("ours");
    let (output, sent) = cut.run();
    assert!(output.status.code() != Some(0) && !sent.starts_with(b"QEVM"), "{}", text(&output));
}
