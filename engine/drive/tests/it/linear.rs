//! `--layout`: a linear image is read-only, and its owner replaces it all the same.

use crate::bed::{said, stream, tool};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

/// Users that no one else is.
const OWNER: u32 = 54321;
const OTHER: u32 = 54322;

/// A folder with the program and a stream, in which everyone may do everything.
fn folder() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        test_support::not_run("not root: other users are needed");
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("ours");
    fs::copy(env!("CARGO_BIN_EXE_qemu-snapshot"), folder.path().join("tool")).expect("a copy");
    fs::write(folder.path().join("stream"), stream()).expect("a file");
    Some(folder)
}

fn save(folder: &Path, user: u32, options: &str) -> Output {
    let script = format!("exec ./tool {options} <stream");
    let user = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
    let mut program = Command::new("setpriv");
    program.args(user).args(["sh", "-c", &script]).current_dir(folder).output().expect("util-linux")
}

fn mode(image: &Path) -> u32 {
    fs::metadata(image).expect("it is there").mode() & 0o7777
}

/// Where linear RAM begins, in the last field of the header extension.
fn ram_at(image: &Path) -> u64 {
    let bytes = fs::read(image).expect("it is there");
    u64::from_be_bytes(bytes[368..376].try_into().expect("eight bytes"))
}

#[test]
fn a_linear_image_is_read_only_and_is_replaced_by_its_owner_alone() {
    let Some(folder) = folder() else { return };
    let image = folder.path().join("image");
    let save = |user, options: &str| {
        let output = save(folder.path(), user, options);
        (output.status.code(), said(&output))
    };
    let (code, text) = save(OWNER, "--create --layout=linear image");
    assert_eq!((code, mode(&image)), (Some(0), 0o400), "{text}");
    assert!(ram_at(&image) >= 2 << 20 && ram_at(&image).is_multiple_of(2 << 20));
    for options in ["", ",cache.direct=on"] {
        let inode = fs::metadata(&image).expect("it is there").ino();
        let (code, text) = save(OWNER, &format!("image{options}"));
        assert!(code == Some(2) && text.contains("--overwrite replaces it"), "{text}");
        let (code, text) = save(OTHER, &format!("--overwrite image{options}"));
        assert!(code != Some(0) && text.contains("Permission denied"), "{text}");
        assert_eq!(fs::metadata(&image).expect("it is there").ino(), inode);
        // Whoever has the old one mapped keeps it.
        let old = File::open(&image).expect("root reads everything");
        let (code, text) = save(OWNER, &format!("--overwrite image{options}"));
        assert_eq!((code, mode(&image)), (Some(0), 0o400), "{text}");
        assert_ne!(fs::metadata(&image).expect("it is there").ino(), inode);
        assert_eq!(old.metadata().expect("open").ino(), inode);
        assert!(ram_at(&image) > 0, "it stays linear");
    }
    let (code, text) = save(OWNER, "--create --overwrite --layout=dense image");
    assert_eq!((code, ram_at(&image)), (Some(0), 0), "{text}");
    // Who made a dense image read-only wants it to stay.
    fs::set_permissions(&image, Permissions::from_mode(0o400)).expect("root");
    let (code, text) = save(OWNER, "--create --overwrite --layout=linear image");
    assert!(code != Some(0) && text.contains("Permission denied"), "{text}");
    fs::set_permissions(&image, Permissions::from_mode(0o640)).expect("root");
    let (code, text) = save(OWNER, "--create --overwrite --layout=linear image");
    assert_eq!((code, mode(&image)), (Some(0), 0o440), "{text}");
    assert!(ram_at(&image) > 0);
}

/// A save that was killed has left one under the image's name, and one under a hidden name.
#[test]
fn what_a_killed_save_left_of_a_linear_image_is_removed_by_the_next_one() {
    let Some(folder) = folder() else { return };
    let image = folder.path().join("image");
    let whole = save(folder.path(), OWNER, "--create --layout=linear image");
    assert_eq!(whole.status.code(), Some(0), "{}", said(&whole));
    // "In progress", and its checksum.
    let mut bytes = fs::read(&image).expect("it is there");
    bytes[324..328].fill(0);
    bytes[364..368].fill(0);
    let checksum = snapshot_image::crc32c(&bytes[..4096]);
    bytes[364..368].copy_from_slice(&checksum.to_be_bytes());
    let hidden = folder.path().join(".image.0123456789abcdef.tmp");
    for path in [&image, &hidden] {
        fs::remove_file(path).ok();
        fs::write(path, &bytes).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o400)).expect("root");
        std::os::unix::fs::chown(path, Some(OWNER), Some(OWNER)).expect("root");
    }
    let next = save(folder.path(), OWNER, "image");
    assert_eq!((next.status.code(), mode(&image)), (Some(0), 0o400), "{}", said(&next));
    assert!(ram_at(&image) > 0, "what was to be linear is");
    assert!(!hidden.exists(), "{}", said(&next));
}

#[test]
fn a_layout_is_one_of_a_new_image_in_clusters_in_which_it_can_be() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("image");
    fs::write(folder.path().join("stream"), stream()).expect("a file");
    let save = |options: &[&str]| {
        let stdin = File::open(folder.path().join("stream")).expect("a file");
        let output = tool().args(options).arg(&image).stdin(stdin).output().expect("it runs");
        (output.status.code(), said(&output))
    };
    let (code, text) = save(&["--layout=linear"]);
    assert!(code != Some(0) && text.contains("--create"), "{text}");
    let (code, text) = save(&["--create", "--layout=linear", "--cluster-size=2M"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("a linear image has clusters of 64 KiB to 1 MiB, found 2097152 bytes"), "{text}");
    assert!(!image.exists());
    for size in ["64K", "1M"] {
        let (code, text) =
            save(&["--create", "--overwrite", "--layout=linear", &format!("--cluster-size={size}")]);
        assert_eq!(code, Some(0), "{text}");
        assert!(ram_at(&image) > 0);
    }
}
