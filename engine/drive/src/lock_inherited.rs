//! `lock`: the small step before a QEMU whose guest is mapped from an image.

use crate::descriptor::duplicate;
use crate::lock::{Use, lock_image};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;

/// Why a descriptor's file is not locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// It has none, or the file cannot be locked.
    #[error("file descriptor {fd}")]
    Io {
        /// Its number.
        fd: RawFd,
        /// What the operating system reports.
        source: io::Error,
    },
    /// It is a pipe, a terminal, a folder.
    #[error("file descriptor {fd}: not a regular file")]
    NotAFile {
        /// Its number.
        fd: RawFd,
    },
}

/// Locks the image behind descriptor number `fd` as a mapped guest's.
///
/// The lock belongs to the open file description (fcntl(2), `F_OFD_SETLK`), which this process has
/// from the one that started it: it outlives this process, and ends when the last process closes
/// the descriptor.
///
/// # Errors
///
/// There is no such descriptor, it is not open for reading, or another process writes to the image.
pub fn lock_inherited(fd: RawFd) -> Result<(), LockError> {
    let failed = |source| LockError::Io { fd, source };
    let file = File::from(duplicate(fd).map_err(failed)?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(LockError::NotAFile { fd });
    }
    lock_image(&file, Use::Mapped).map_err(failed)
}
