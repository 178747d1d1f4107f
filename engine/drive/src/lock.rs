//! QEMU's image locking: bytes of the file that say who uses it how (`block/file-posix.c`, "raw_handle_perm_lock").
//!
//! Byte 100 + n is locked by whoever uses permission n, byte 200 + n by whoever does not want others to. All locks are
//! shared OFD locks: conflicts are found by asking whether an exclusive one would be granted.

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;

const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;
const CONSISTENT_READ: u8 = 0;
const WRITE: u8 = 1;
const WRITE_UNCHANGED: u8 = 2;
const RESIZE: u8 = 3;

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A save: nobody else may touch it.
    Write,
    /// A revert: others may read it.
    Read,
}

impl Use {
    fn used(self) -> &'static [u8] {
        match self {
            Use::Write => &[CONSISTENT_READ, WRITE, RESIZE],
            Use::Read => &[CONSISTENT_READ],
        }
    }

    fn unshared(self) -> &'static [u8] {
        match self {
            Use::Write => &[CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE],
            Use::Read => &[WRITE, RESIZE],
        }
    }
}

fn byte(at: i64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or(0),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Gives all locks back.
///
/// Closing the file does so too, but later than we are gone: the kernel may keep the file of an io_uring request open for
/// some milliseconds after the process has ended, and who opens the image next would find it in use.
pub(crate) fn unlock_image(file: &File) {
    let mut all = byte(USED_BASE, libc::F_UNLCK);
    all.l_len = 2 * (UNSHARED_BASE - USED_BASE);
    // Nothing to be done if it fails; the file is about to be closed.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&all));
}

/// Takes the locks for `how`, which last as long as the file is open, or until [`unlock_image`].
///
/// # Errors
///
/// `WouldBlock` when another process, a running QEMU for instance, uses the file in a way that does not go along.
pub(crate) fn lock_image(file: &File, how: Use) -> io::Result<()> {
    let own = how.used().iter().map(|n| USED_BASE + i64::from(*n));
    let own = own.chain(how.unshared().iter().map(|n| UNSHARED_BASE + i64::from(*n)));
    for at in own {
        fcntl(file, FcntlArg::F_OFD_SETLK(&byte(at, libc::F_RDLCK)))?;
    }
    let others = how.used().iter().map(|n| UNSHARED_BASE + i64::from(*n));
    let others = others.chain(how.unshared().iter().map(|n| USED_BASE + i64::from(*n)));
    for at in others {
        let mut asked = byte(at, libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
        if libc::c_int::from(asked.l_type) != libc::F_UNLCK {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process uses it (a running QEMU?)",
            ));
        }
    }
    Ok(())
}
