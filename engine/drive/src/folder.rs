//! The directory that an image lies in: opened once, and used by its descriptor from then on.
//!
//! Whatever happens to the path meanwhile (the directory is renamed, one above it becomes
//! unreadable, descriptors run out), the end of a save needs none of it.

use crate::lock::{self, NameLock};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// How much of the image's name goes into the name of a hidden file beside it, which may have 255
/// bytes altogether.
const NAME_BYTES: usize = 200;
/// What a hidden file's name ends with, behind 16 random hexadecimal digits.
const HIDDEN_SUFFIX: &[u8] = b".tmp";
const RANDOM_DIGITS: usize = 16;

/// Which file a name means, or a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&rustix::fs::fstat(file)?))
    }
}

impl From<&Stat> for FileId {
    fn from(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A directory, and the image's name in it.
#[derive(Debug)]
pub(crate) struct Folder {
    directory: OwnedFd,
    /// It may be read: listed, synced, locked. One with mode 0333 can only be passed through.
    readable: bool,
    name: OsString,
}

impl Folder {
    /// Opens the directory of `path`.
    ///
    /// # Errors
    ///
    /// The operating system's; the path has no file name at its end.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        let start = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let (parent, name) = bytes.split_at(start);
        if matches!(name, b"" | b"." | b"..") {
            let what = "names a directory; an image needs the name of a file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let parent = if parent.is_empty() { b"." } else { parent };
        let open = |flags| rustix::fs::openat(CWD, parent, flags | OFlags::CLOEXEC, Mode::empty());
        let (directory, readable) = match open(OFlags::DIRECTORY | OFlags::RDONLY) {
            Err(Errno::ACCESS) => (open(OFlags::DIRECTORY | OFlags::PATH)?, false),
            directory => (directory?, true),
        };
        Ok(Self { directory, readable, name: OsStr::from_bytes(name).to_owned() })
    }

    /// The image's name.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The directory may be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// What has this name, if anything; a symbolic link is itself.
    pub(crate) fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Which file has this name, if there is one.
    pub(crate) fn id(&self, name: &OsStr) -> io::Result<Option<FileId>> {
        Ok(self.stat(name)?.as_ref().map(FileId::from))
    }

    /// Why a file with this name can be neither replaced nor renamed, as far as attributes say so.
    pub(crate) fn obstacle(&self, name: &OsStr) -> io::Result<Option<&'static str>> {
        let attributes = |name: &OsStr, flags| {
            let status = rustix::fs::statx(&self.directory, name, flags, StatxFlags::TYPE);
            // Linux before 4.11: what cannot be asked beforehand fails when it is done.
            match status {
                Err(Errno::NOSYS) => Ok(StatxAttributes::empty()),
                status => status.map(|status| status.stx_attributes),
            }
        };
        let file = attributes(name, AtFlags::SYMLINK_NOFOLLOW)?;
        let folder = attributes(OsStr::new(""), AtFlags::EMPTY_PATH)?;
        Ok(if folder.contains(StatxAttributes::APPEND) {
            Some("its directory is append-only (chattr -a)")
        } else if file.contains(StatxAttributes::MOUNT_ROOT) {
            Some("it is a mount point")
        } else {
            None
        })
    }

    /// A new name for a hidden file that belongs to the image.
    pub(crate) fn hidden_name(&self) -> io::Result<OsString> {
        let mut random = [0; RANDOM_DIGITS / 2];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let mut name = self.hidden_prefix();
        name.extend(format!("{:016x}", u64::from_ne_bytes(random)).bytes());
        name.extend(HIDDEN_SUFFIX);
        Ok(OsString::from_vec(name))
    }

    fn hidden_prefix(&self) -> Vec<u8> {
        let name = self.name.as_bytes();
        [b".", &name[..name.len().min(NAME_BYTES)], b"."].concat()
    }

    /// Whether [`hidden_name`](Self::hidden_name) makes such names.
    pub(crate) fn is_hidden_name(&self, name: &[u8]) -> bool {
        let random = name
            .strip_prefix(&self.hidden_prefix()[..])
            .and_then(|rest| rest.strip_suffix(HIDDEN_SUFFIX))
            .unwrap_or(b"");
        random.len() == RANDOM_DIGITS && random.iter().all(u8::is_ascii_hexdigit)
    }

    /// Removes the name if it means this file. Whether it did.
    pub(crate) fn remove(&self, name: &OsStr, id: FileId) -> io::Result<bool> {
        let is_it = self.id(name)? == Some(id);
        if is_it {
            rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())?;
        }
        Ok(is_it)
    }

    /// Makes names in it durable; `file` lies in it.
    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        if self.readable {
            match rustix::fs::fsync(&self.directory) {
                // A file system that cannot sync directories.
                Err(Errno::INVAL) => {}
                result => return Ok(result?),
            }
        }
        // Without a descriptor that can be synced: the whole file system.
        Ok(rustix::fs::syncfs(file)?)
    }

    /// Takes the lock of the image's name, which lasts as long as this is open: one save at a time.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when another save has it. Where directories cannot be locked there is none:
    /// then the second of two saves fails when it is to give its file the name.
    pub(crate) fn lock_name(&self) -> io::Result<()> {
        if !self.readable {
            return Ok(());
        }
        match lock::lock_name(self.directory.as_fd(), self.name.as_bytes())? {
            NameLock::Taken | NameLock::Impossible => Ok(()),
            NameLock::Held => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "another save with this name is running"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_file_name_is_refused() {
        for path in ["new/", "/", ".", "..", "/tmp/.", "/tmp/..", ""] {
            let error = Folder::of(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("names a directory"), "{path:?}: {error}");
        }
        assert_eq!(Folder::of(Path::new("new")).unwrap().name(), "new");
        assert_eq!(Folder::of(Path::new("/new")).unwrap().name(), "new");
    }

    #[test]
    fn hidden_names_are_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| Folder::of(&folder.path().join(name)).unwrap();
        for name in ["vm", &"n".repeat(255)] {
            let hidden = of(name).hidden_name().unwrap();
            assert!(hidden.len() <= 255);
            assert!(of(name).is_hidden_name(hidden.as_bytes()));
            assert!(!of("another").is_hidden_name(hidden.as_bytes()));
        }
        for name in [".vm..tmp", ".vm.0123456789abcdeg.tmp", ".vm.0123456789abcdef0.tmp", "vm", ""] {
            assert!(!of("vm").is_hidden_name(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn one_save_has_the_name_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| Folder::of(&folder.path().join(name)).unwrap();
        let first = of("vm");
        first.lock_name().unwrap();
        assert_eq!(of("vm").lock_name().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        of("another").lock_name().unwrap();
        drop(first);
        of("vm").lock_name().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a lock leaves nothing");
    }
}
