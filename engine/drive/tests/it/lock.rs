//! `lock`: what a mapped guest inherits keeps writers away from its image for as long as it lives.

use super::bed::{said, tool};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A folder with the stream of a guest.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/valid/qemu-10.0-pc.bin.zst");
    let stream = zstd::decode_all(File::open(path).expect("the corpus is there")).expect("packed with zstd");
    fs::write(folder.path().join("stream"), stream).expect("a file");
    folder
}

fn save(folder: &Path, options: &[&str]) -> Output {
    let stream = File::open(folder.join("stream")).expect("a file");
    tool().current_dir(folder).args(options).arg("image").stdin(stream).output().expect("it starts")
}

fn assert_ends(output: &Output, status: i32, wanted: &str) {
    assert_eq!(output.status.code(), Some(status), "{}", said(output));
    assert!(said(output).contains(wanted), "expected {wanted:?} in {:?}", said(output));
}

fn shell(folder: &Path, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("S", env!("CARGO_BIN_EXE_qemu-snapshot")).current_dir(folder);
    shell
}

/// In the place of a guest: `cat`, which has inherited the descriptor with its lock.
struct Holder {
    cat: Child,
}

impl Holder {
    fn start(folder: &Path) -> Self {
        let mut shell = shell(folder, "exec 9<image && $S lock 9 && exec cat");
        let mut cat = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        // It answers when it has the lock.
        cat.stdin.as_mut().expect("a pipe").write_all(b"x").expect("it reads");
        cat.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it has the lock");
        Self { cat }
    }

    /// Inode number and link count of the file that it has.
    fn file(&self) -> (u64, u64) {
        let metadata = fs::metadata(format!("/proc/{}/fd/9", self.cat.id())).expect("it has inherited it");
        (metadata.ino(), metadata.nlink())
    }

    fn end(mut self) {
        drop(self.cat.stdin.take());
        assert!(self.cat.wait().expect("our own child").success());
    }
}

#[test]
fn a_dense_image_is_kept_as_long_as_someone_has_the_descriptor() {
    let folder = folder();
    let folder = folder.path();
    assert_ends(&save(folder, &["--create", "--layout=dense"]), 0, "saved");
    let holders = [Holder::start(folder), Holder::start(folder)];
    let in_use = "cannot lock the image: another process uses it";
    assert_ends(&save(folder, &["--overwrite"]), 2, in_use);
    // Who reads is no one's enemy.
    let output = tool().current_dir(folder).args(["--revert", "image"]).output().expect("it starts");
    assert_ends(&output, 0, "reverted");
    let output = tool().current_dir(folder).args(["unpack", "--ram-files=ram", "image"]).output();
    assert_ends(&output.expect("it starts"), 0, "unpacked");
    let [first, second] = holders;
    first.end();
    assert_ends(&save(folder, &["--overwrite"]), 2, in_use);
    second.end();
    assert_ends(&save(folder, &["--overwrite"]), 0, "saved");
}

/// A linear image is never written in place: a new file takes its name, and the guest has the old one.
#[test]
fn a_linear_image_is_replaced_under_a_guest_that_keeps_its_file() {
    let folder = folder();
    let folder = folder.path();
    assert_ends(&save(folder, &["--create", "--layout=linear"]), 0, "saved");
    let holder = Holder::start(folder);
    let before = holder.file();
    assert_ends(&save(folder, &["--overwrite"]), 0, "saved");
    assert_eq!(holder.file(), (before.0, 0), "the same file, which has no name any more");
    assert_ne!(fs::metadata(folder.join("image")).expect("there").ino(), before.0);
    holder.end();
}

#[test]
fn what_cannot_be_locked_says_so() {
    let folder = folder();
    let folder = folder.path();
    fs::write(folder.join("image"), b"").expect("a file");
    for (script, wanted) in [
        ("$S lock 77", "file descriptor 77: Bad file descriptor"),
        ("$S lock 9 9>>image", "file descriptor 9: Bad file descriptor"),
        ("$S lock 9 9<.", "file descriptor 9: not a regular file"),
        (": | $S lock 0", "file descriptor 0: not a regular file"),
        ("$S lock x", "invalid value 'x' for '<FD>'"),
        ("$S lock -- -1", "file descriptor -1: Bad file descriptor"),
    ] {
        assert_ends(&shell(folder, script).output().expect("a shell"), 2, wanted);
    }
    // A save into a prepared image is under way.
    let mut save = tool().current_dir(folder).arg("image").stdin(Stdio::piped()).spawn().expect("it starts");
    let mut source = save.stdin.take().expect("a pipe");
    source.write_all(b"QEVM\0\0\0\x03").expect("it reads");
    while rustix::io::ioctl_fionread(&source).expect("a pipe") > 0 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let output = shell(folder, "$S lock 9 9<image").output().expect("a shell");
    assert_ends(&output, 2, "file descriptor 9: another process uses it");
    drop(source);
    let _ = save.wait_with_output();
}
