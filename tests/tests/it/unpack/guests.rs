//! Guests whose RAM is mapped from files of their own: what QEMU before 8.1 needs, and what background
//! snapshots of a guest with mapped RAM need.

use std::path::Path;

use qemu_snapshot::FileStamp;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Ram, SmallDisk, ToImage, Version, Workload, exec_uri,
};

use super::{open, unpack};

const MIB: u32 = 48;

fn config() -> Config {
    Config { workload: Workload::IDLE, ..Config::of_mib(MIB) }
}

/// Saves a guest that has verified its memory once, in precopy, which every QEMU can; its passes then.
fn save(binary: &Binary, guest: &Guest, image: &Path) -> u32 {
    let mut source = Qemu::start(binary, guest, config());
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    let passes = source.console().passes();
    let save = ToImage { options: "--create", image, stream: None };
    assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
    passes
}

/// A guest whose RAM is a private mapping of this file, reverted from the image; it has verified all of it.
fn reverted(binary: &Binary, guest: &Guest, file: &Path, image: &Path, passes: u32) -> Qemu {
    let config = Config { ram: Ram::PrivateFile(file.to_owned()), ..config() };
    let mut destination = Qemu::start(binary, guest, config.incoming());
    assert_eq!(
        destination.revert(&exec_uri("--revert", image)),
        Outcome::Completed,
        "{}",
        destination.stderr()
    );
    assert_eq!(destination.run_state(), "running");
    destination.console().wait_passes(3);
    assert!(destination.console().passes() >= passes + 3, "goes on from the saved moment");
    destination
}

/// The mappings of a file in QEMU's memory: protection and offset of each.
fn mappings(qemu: &Qemu, stamp: &FileStamp) -> Vec<(String, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", qemu.pid())).expect("our own child");
    let of_file = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let offset = u64::from_str_radix(fields[2], 16).expect("proc(5)");
        let is_it = fields[4].parse() == Ok(stamp.inode) && stamp.inode != 0;
        is_it.then(|| (fields[1].to_owned(), offset))
    };
    maps.lines().filter_map(of_file).collect()
}

/// Guests of QEMU versions without `offset=` run from an unpacked file; the file is what it was, and so are
/// all others.
#[test]
fn guests_run_from_unpacked_files() {
    let Some(guest) = Guest::built_or_skip() else { return };
    for version in [Version::V5_2, Version::V7_2, Version::V10_0] {
        let Some(binary) = version.binary_or_skip() else { continue };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (image, ram) = (folder.path().join("image"), folder.path().join("ram"));
        let passes = save(&binary, guest, &image);
        let files = unpack(&image, &ram);
        let block = files.block(b"pc.ram").expect("main RAM");
        assert_eq!(block.stamp.size, u64::from(MIB) << 20);
        let destination = reverted(&binary, guest, &block.path, &image, passes);
        assert_eq!(mappings(&destination, &block.stamp), [("rw-p".to_owned(), 0)], "{version}");
        destination.quit();
        // Nothing that the guest has written is in the file, nor has anyone touched it.
        open(&ram);
    }
}

/// A clone whose RAM is a private mapping of a file on tmpfs can be background-snapshotted while it runs, and
/// that snapshot is reverted like any other.
#[test]
fn a_clone_from_tmpfs_is_background_snapshotted() {
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each_that(Version::has_background_snapshot) {
        let Some(disk) = SmallDisk::mounted_or_skip(256 << 20) else { return };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (image, second) = (folder.path().join("image"), folder.path().join("second"));
        let passes = save(&binary, guest, &image);
        let files = unpack(&image, &disk.path("ram"));
        let block = files.block(b"pc.ram").expect("main RAM");
        let mut clone = reverted(&binary, guest, &block.path, &image, passes);
        if !clone.background_snapshot_or_skip() {
            return;
        }
        let passes = clone.console().passes();
        let save = ToImage { options: "--create", image: &second, stream: None };
        assert_eq!(clone.save_image(&save), Outcome::Completed, "{}", clone.stderr());
        assert_eq!(clone.run_state(), "running");
        clone.console().wait_passes(2);
        let mut destination = Qemu::start(&binary, guest, config().incoming());
        let outcome = destination.revert(&exec_uri("--revert", &second));
        assert_eq!(outcome, Outcome::Completed, "{}", destination.stderr());
        destination.console().wait_passes(3);
        assert!(destination.console().passes() >= passes + 3, "goes on from the second moment");
        open(&disk.path("ram"));
    }
}
