//! A disk that is full soon.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use test_support::not_run;

/// A file system with room for so many bytes; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one. Where this needs more rights than the test has, the test is to return: this has
    /// said why, or failed in CI.
    ///
    /// # Panics
    ///
    /// If there is no temporary folder.
    #[must_use]
    pub fn mounted_or_skip(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = format!("size={bytes},mode=700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path());
        let done = mount.output().is_ok_and(|output| output.status.success());
        if !done {
            not_run("a small disk needs the right to mount a tmpfs");
        }
        done.then_some(Self { folder })
    }

    /// Mounts a new file system of this kind (`btrfs`, `xfs`) of so many bytes, in a file. Where
    /// this needs more than the test has, the test is to go on without: this has said why, or
    /// failed in CI.
    ///
    /// # Panics
    ///
    /// If there is no temporary folder.
    #[must_use]
    pub fn formatted_or_skip(kind: &str, bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(bytes).expect("a sparse file");
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = done(Command::new(format!("mkfs.{kind}")).args(["-q", "-f"]).arg(file.path()));
        let mounted =
            made && done(Command::new("mount").args(["-o", "loop"]).arg(file.path()).arg(folder.path()));
        if !mounted {
            not_run(&format!(
                "a disk with {kind} needs mkfs.{kind}, a loop device, and the right to mount it"
            ));
        }
        // The loop device keeps the file, whose name can go.
        mounted.then_some(Self { folder })
    }

    /// Path of a file on it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.folder.path());
    }
}

/// Lazily: whoever still has a file open does not keep the folder.
fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("--lazy").arg(path).status();
}
