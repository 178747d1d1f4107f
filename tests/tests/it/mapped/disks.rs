//! File systems on which one file has several names, devices or copies.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{SmallDisk, beside::utf8, not_run, programs};

use super::{Linear, Peer, has_python, linear};

const STREAM: &str = "qemu-10.0-pc-background";

fn done(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

#[test]
fn files_of_xfs_and_tmpfs_are_recognised() {
    if !has_python() {
        return;
    }
    let xfs = SmallDisk::formatted_or_skip("xfs", 400 << 20);
    for disk in [xfs, SmallDisk::mounted_or_skip(64 << 20)].into_iter().flatten() {
        let image = linear(STREAM, &disk.path(""));
        Peer::right(&image).is_reverted(&[]);
        let copy = disk.path("copy");
        fs::copy(&image.path, &copy).expect("a copy");
        Peer::right(&image).with("file", json!(utf8(&copy))).is_refused("is mapped, needed: the image, ");
    }
}

/// A list of mappings shows the same device and inode for a file and its copy in a snapshot of the subvolume.
#[test]
fn a_file_is_not_taken_for_its_copy_in_a_btrfs_snapshot() {
    if !has_python() {
        return;
    }
    let Some(disk) = SmallDisk::formatted_or_skip("btrfs", 300 << 20) else { return };
    let (volume, snapshot) = (disk.path("volume"), disk.path("snapshot"));
    if !done("btrfs", &["subvolume", "create", utf8(&volume)]) {
        return not_run("subvolumes need btrfs-progs");
    }
    let image = linear(STREAM, &volume);
    assert!(done("btrfs", &["subvolume", "snapshot", utf8(&volume), utf8(&snapshot)]));
    Peer::right(&image).is_reverted(&[]);
    let copy = snapshot.join("image");
    let other = || Peer::right(&image).with("file", json!(utf8(&copy)));
    let expected = "is another file with the image's inode number";
    other().is_refused(expected);
    // Both are open, and nothing says which of them is mapped.
    let mut both = other();
    both.maps.push(json!({"file": utf8(&image.path), "offset": 0, "length": 4096}));
    both.is_refused(expected);
    let copied = Linear { path: copy, contents: image.contents, ..image };
    Peer::right(&copied).is_reverted(&[]);
}

/// A mount that goes with the test.
struct Overlay(PathBuf);

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn overlay(folder: &Path) -> Option<Overlay> {
    let part = |name: &str| folder.join(name);
    for name in ["upper", "work", "merged"] {
        fs::create_dir(part(name)).expect("ours");
    }
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| part(name).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let merged = part("merged");
    let mounted = done("mount", &["-t", "overlay", "-o", &options, "overlay", utf8(&merged)]);
    if !mounted {
        not_run("an overlay needs the right to mount it");
    }
    mounted.then_some(Overlay(merged))
}

#[test]
fn a_file_of_an_overlay_is_recognised_and_not_taken_for_what_lies_above() {
    if !has_python() {
        return;
    }
    let Some(disk) = SmallDisk::mounted_or_skip(128 << 20) else { return };
    fs::create_dir(disk.path("lower")).expect("ours");
    let below = linear(STREAM, &disk.path("lower"));
    let Some(merged) = overlay(&disk.path("")) else { return };
    let image = Linear { path: merged.0.join("image"), ..below };
    Peer::right(&image).is_reverted(&[]);
    // A file is copied up when it is opened to be written: then it is another one.
    let lower = disk.path("lower/image");
    fs::set_permissions(&image.path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    fs::File::options().append(true).open(&image.path).expect("ours");
    Peer::right(&image).with("file", json!(utf8(&lower))).is_refused("process ");
    Peer::right(&image).is_reverted(&[]);
}

/// Who serves a file system by FUSE may give two files one inode number.
#[test]
fn fuse_is_refused_by_name() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = linear(STREAM, folder.path());
    let Some(served) = Served::of(&image.path) else { return };
    let image = Linear { path: served.path.clone(), ..image };
    Peer::right(&image).is_refused("whose inode numbers are not known to belong to one file each");
}

/// A file that `qemu-storage-daemon` serves by FUSE.
struct Served {
    daemon: Child,
    path: PathBuf,
}

impl Served {
    /// Serves the bytes of `file` beside it.
    fn of(file: &Path) -> Option<Self> {
        let path = file.with_extension("served");
        fs::write(&path, "").expect("ours");
        let before = fs::metadata(&path).expect("ours").dev();
        let node = format!("driver=file,node-name=file,filename={},read-only=on", file.display());
        let export = format!("type=fuse,id=served,node-name=file,mountpoint={}", path.display());
        let Some(program) = programs::qemu_storage_daemon() else {
            not_run("a file system by FUSE needs qemu-storage-daemon: run .ci/qemu");
            return None;
        };
        let mut daemon = Command::new(program);
        daemon.args(["--blockdev", &node, "--export", &export]).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().expect("it was found");
        let mut served = Self { daemon, path };
        let end = Instant::now() + Duration::from_secs(30);
        while fs::metadata(&served.path).is_ok_and(|file| file.dev() == before) {
            let ended = served.daemon.try_wait().expect("our own child").is_some();
            if ended || Instant::now() > end {
                not_run(
                    "a file system by FUSE needs the right to mount it, and a qemu-storage-daemon with it",
                );
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Some(served)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).output();
    }
}
