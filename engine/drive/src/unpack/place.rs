//! Where the files lie while they are not all whole, and how they get their names.
//!
//! A folder that is not there yet is made beside its name, hidden, and renamed when everything in it is
//! durable. One that is there, and empty, may be the root of a file system: the files are made in it. Either
//! way a file has no name until all of its block is in it (`O_TMPFILE`), so that a killed unpack leaves an
//! empty folder; where the file system has no such files, hidden ones. The manifest comes last: a folder
//! without one is not whole.

use crate::folder::{FileId, Folder};
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Guest RAM is secret.
const FOLDER_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);

/// A folder that is to have files, all of them or none.
#[derive(Debug)]
pub(super) struct Place {
    /// As the user calls it.
    path: PathBuf,
    /// Where the files are made; locked, so that no other unpack is at work in it or removes it.
    work: OwnedFd,
    /// The folder beside `path` that becomes it, and the one that both lie in.
    hidden: Option<(Folder, OsString)>,
    /// Names in `work` that mean files of ours.
    names: Vec<OsString>,
    done: bool,
}

/// A file that has no name yet.
#[derive(Debug)]
pub(super) struct NewRamFile {
    pub(super) file: File,
    /// The hidden name that it has where it cannot be without.
    hidden: Option<OsString>,
}

impl Place {
    /// Makes the folder `path` ready: it is not there, or is empty and belongs to this user alone. Adds to
    /// `found` what killed unpacks left beside it, a line for each, which is gone now.
    ///
    /// # Errors
    ///
    /// The operating system's, or why the folder cannot be used.
    pub(super) fn prepare(path: &Path, found: &mut Vec<String>) -> io::Result<Self> {
        let opened = rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let (work, hidden) = match opened {
            Ok(work) => {
                check_usable(&work)?;
                (work, None)
            }
            Err(Errno::NOENT) => {
                let parent = Folder::of(&without_slashes(path))?;
                if parent.stat(parent.name())?.is_some() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "a symbolic link to nothing"));
                }
                sweep(&parent, found);
                let name = parent.hidden_name()?;
                rustix::fs::mkdirat(parent.fd(), &name, FOLDER_MODE)?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                (rustix::fs::openat(parent.fd(), &name, flags, Mode::empty())?, Some((parent, name)))
            }
            Err(error) => return Err(error.into()),
        };
        let place = Self { path: path.to_owned(), work, hidden, names: Vec::new(), done: false };
        if !lock(&place.work) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another unpack is at work in it"));
        }
        Ok(place)
    }

    /// Path of a file in the folder, as it will be.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes an empty file that will be called `name`.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(super) fn create(&mut self, name: &str) -> io::Result<NewRamFile> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.work, ".", flags | OFlags::TMPFILE, FILE_MODE) {
            Ok(file) => return Ok(NewRamFile { file: file.into(), hidden: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        // No other file has such a name: none of a block begins with a dot.
        let hidden = OsString::from(format!(".{name}.partial"));
        let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(&self.work, &hidden, flags | create, FILE_MODE)?;
        self.names.push(hidden.clone());
        Ok(NewRamFile { file: file.into(), hidden: Some(hidden) })
    }

    /// Gives a file its name, which must be free.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(super) fn publish(&mut self, new: &NewRamFile, name: &str) -> io::Result<()> {
        match &new.hidden {
            None => {
                let from = format!("/proc/self/fd/{}", new.file.as_raw_fd());
                rustix::fs::linkat(CWD, from, &self.work, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            Some(hidden) => {
                if rustix::fs::accessat(&self.work, name, rustix::fs::Access::EXISTS, AtFlags::empty())
                    .is_ok()
                {
                    return Err(Errno::EXIST.into());
                }
                rustix::fs::renameat(&self.work, hidden, &self.work, name)?;
            }
        }
        self.names.push(name.into());
        Ok(())
    }

    /// All files have their names: gives the folder its own, and makes that durable.
    ///
    /// # Errors
    ///
    /// The operating system's; another program has put something there. Nothing is left then.
    pub(super) fn finish(mut self) -> io::Result<()> {
        sync(&self.work)?;
        if let Some((parent, hidden)) = &self.hidden {
            // Of folders only an empty one is replaced (rename(2)).
            rustix::fs::renameat(parent.fd(), hidden, parent.fd(), parent.name())?;
            self.done = true;
            sync(parent.fd())?;
        }
        self.done = true;
        Ok(())
    }
}

impl Drop for Place {
    /// Removes what was made. What another program has made unremovable is left.
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for name in &self.names {
            let _ = rustix::fs::unlinkat(&self.work, name, AtFlags::empty());
        }
        if let Some((parent, hidden)) = &self.hidden {
            let _ = rustix::fs::unlinkat(parent.fd(), hidden, AtFlags::REMOVEDIR);
        }
    }
}

/// Makes the names in a folder durable, where the file system can do that.
fn sync(folder: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn lock(folder: &OwnedFd) -> bool {
    match rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => false,
        // Where folders cannot be locked, names that are taken end the second of two.
        Ok(()) | Err(_) => true,
    }
}

/// `ram/` names the same as `ram`.
fn without_slashes(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[..end]))
}

/// A folder that is there is taken only if nothing is in it, and no one else can put anything there.
fn check_usable(folder: &OwnedFd) -> io::Result<()> {
    let entries = Dir::read_from(folder)?;
    for entry in entries {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"));
        }
    }
    let stat = rustix::fs::fstat(folder)?;
    crate::trust::check_alone(&stat, &[rustix::process::geteuid().as_raw()])
        .map_err(|why| io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Removes hidden folders that killed unpacks with this name left.
fn sweep(parent: &Folder, found: &mut Vec<String>) {
    if !parent.is_readable() {
        return;
    }
    // A folder that cannot be listed is one that says nothing.
    let Ok(entries) = Dir::read_from(parent.fd()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_bytes();
        if !parent.is_hidden_name(name) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let shown = name.to_string_lossy().escape_debug().to_string();
        match remove_leftover(parent, name) {
            Ok(true) => found.push(format!("removed {shown}, which an unpack that was killed left")),
            Ok(false) => {}
            Err(error) => found.push(format!("{shown}: perhaps an unpack that was killed left it: {error}")),
        }
    }
}

/// Removes a hidden folder of this user in which no unpack is at work. Whether it did.
fn remove_leftover(parent: &Folder, name: &OsStr) -> io::Result<bool> {
    let Some(stat) = parent.stat(name)? else { return Ok(false) };
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if !is_folder || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(parent.fd(), name, flags, Mode::empty())?;
    let is_locked = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok();
    if !is_locked || FileId::of(&folder)? != FileId::from(&stat) {
        return Ok(false);
    }
    for entry in Dir::read_from(&folder)?.flatten() {
        if entry.file_type() == FileType::RegularFile {
            rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(parent.fd(), name, AtFlags::REMOVEDIR)?;
    Ok(true)
}
