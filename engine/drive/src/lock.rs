//! QEMU's image locking: bytes of the file that say who uses it how (`block/file-posix.c`,
//! "raw_handle_perm_lock").
//!
//! Byte 100 + n is locked by whoever uses permission n, byte 200 + n by whoever does not want
//! others to. All locks are shared OFD locks: conflicts are found by asking whether an exclusive
//! one would be granted.

use nix::fcntl::{FcntlArg, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

const USED_BASE: i64 = 100;
const UNSHARED_BASE: i64 = 200;
const CONSISTENT_READ: u8 = 0;
const WRITE: u8 = 1;
const WRITE_UNCHANGED: u8 = 2;
const RESIZE: u8 = 3;

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A save: no one else may touch it.
    Write,
    /// A save that puts a new file in the place of this one: it is not written, and guests that are mapped
    /// from it go on; nothing else may use it.
    Replace,
    /// A revert: others may read it.
    Read,
    /// A guest that is mapped from it: it must stay what it is, as long as it is there at all.
    Mapped,
}

impl Use {
    fn used(self) -> &'static [u8] {
        match self {
            Use::Write => &[CONSISTENT_READ, WRITE, RESIZE],
            Use::Read => &[CONSISTENT_READ],
            // Who reads keeps others from replacing the file. That does a mapped guest no harm.
            Use::Replace | Use::Mapped => &[],
        }
    }

    fn unshared(self) -> &'static [u8] {
        match self {
            Use::Write | Use::Replace => &[CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE],
            Use::Read | Use::Mapped => &[WRITE, RESIZE],
        }
    }
}

/// A constant of fcntl.h, which are `int`, for a field that is `short`.
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
const fn short(value: libc::c_int) -> libc::c_short {
    assert!(value as libc::c_short as libc::c_int == value);
    value as libc::c_short
}

const READ_LOCK: libc::c_short = short(libc::F_RDLCK);
const WRITE_LOCK: libc::c_short = short(libc::F_WRLCK);
const UNLOCK: libc::c_short = short(libc::F_UNLCK);

fn byte(at: i64, kind: libc::c_short) -> libc::flock {
    libc::flock { l_type: kind, l_whence: const { short(libc::SEEK_SET) }, l_start: at, l_len: 1, l_pid: 0 }
}

/// Gives all locks back.
///
/// Closing the file does so too, but later than we are gone: the kernel may keep the file of an
/// io_uring request open for some milliseconds after the process has ended, and who opens the image
/// next would find it in use.
pub(crate) fn unlock_image(file: &File) {
    let mut all = byte(USED_BASE, UNLOCK);
    all.l_len = 2 * (UNSHARED_BASE - USED_BASE);
    // Nothing to be done if it fails; the file is about to be closed.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&all));
}

/// What came of asking for a name's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameLock {
    Taken,
    /// Another save has it.
    Held,
    /// Directories cannot be locked there.
    Impossible,
}

/// How often a name's lock is asked for, and the longest pause in between.
const NAME_LOCK_ATTEMPTS: u32 = 4;
const NAME_LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Locks a name in a directory, for as long as the descriptor is open: a byte of the *directory*,
/// whose place is the hash of the name. It leaves nothing behind, goes with the process even if
/// that is killed, and needs no file that others would see.
///
/// A directory cannot be opened for writing, so there is no exclusive lock on it. As with images,
/// the lock is a shared one, and whoever finds that an exclusive one would not be granted gives
/// way. If two do so at once, one of them comes back first.
///
/// # Errors
///
/// The operating system's: there is no random number.
pub(crate) fn lock_name(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<NameLock> {
    let at = hash(name);
    for attempt in 0..NAME_LOCK_ATTEMPTS {
        match fcntl(directory, FcntlArg::F_OFD_SETLK(&byte(at, READ_LOCK))) {
            Ok(_) => {}
            // A file system on which only files can be locked.
            Err(_) => return Ok(NameLock::Impossible),
        }
        let mut asked = byte(at, WRITE_LOCK);
        match fcntl(directory, FcntlArg::F_OFD_GETLK(&mut asked)) {
            Err(_) => return Ok(NameLock::Impossible),
            Ok(_) if asked.l_type == UNLOCK => return Ok(NameLock::Taken),
            Ok(_) => {}
        }
        fcntl(directory, FcntlArg::F_OFD_SETLK(&byte(at, UNLOCK)))?;
        if attempt + 1 < NAME_LOCK_ATTEMPTS {
            let mut random = [0];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            std::thread::sleep(NAME_LOCK_PAUSE * u32::from(random[0]) / 256);
        }
    }
    Ok(NameLock::Held)
}

/// FNV-1a, as a place that a lock can have.
fn hash(name: &[u8]) -> i64 {
    let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 2).cast_signed()
}

/// Takes the locks for `how`, which last as long as the file is open, or until [`unlock_image`].
///
/// # Errors
///
/// `WouldBlock` when another process, a running QEMU for instance, uses the file in a way that does
/// not go along.
pub(crate) fn lock_image(file: &File, how: Use) -> io::Result<()> {
    let own = how.used().iter().map(|n| USED_BASE + i64::from(*n));
    let own = own.chain(how.unshared().iter().map(|n| UNSHARED_BASE + i64::from(*n)));
    for at in own {
        fcntl(file, FcntlArg::F_OFD_SETLK(&byte(at, READ_LOCK)))?;
    }
    let others = how.used().iter().map(|n| UNSHARED_BASE + i64::from(*n));
    let others = others.chain(how.unshared().iter().map(|n| USED_BASE + i64::from(*n)));
    for at in others {
        let mut asked = byte(at, WRITE_LOCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked))?;
        if asked.l_type != UNLOCK {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process uses it (a running QEMU, or a save or postcopy revert that is not over)",
            ));
        }
    }
    Ok(())
}
