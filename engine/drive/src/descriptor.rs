//! A descriptor that is known by its number only.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Duplicates descriptor number `fd`, close-on-exec (fcntl(2), `F_DUPFD_CLOEXEC`), and keeps the
/// original from programs that are started, too: while one had it, no peer would see it closed.
///
/// # Errors
///
/// `EBADF` if there is none with this number.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer, touches no memory of ours, and fails for a number
    // that is not open.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: F_SETFD takes an integer, and touches no memory of ours. That it fails is no matter: the
    // descriptor was open a moment ago.
    let _ = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
