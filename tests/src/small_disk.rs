//! A disk that is full soon.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use test_support::not_run;

/// A file system in memory with room for so many bytes; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one. Where this needs more rights than the test has, the test is to return: this has said why, or failed in
    /// CI.
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
