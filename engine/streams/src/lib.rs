//! Whether stdin, stdout and stderr were open when the program was started.
//!
//! The standard library opens `/dev/null` in place of those that are closed, before `main`, so that
//! no other file gets their number. A program that was started with `>&-` would lose its answer,
//! and report success. So they are looked at before the standard library does, by a function in
//! `.init_array`, which the loader calls (System V ABI, "Initialization and Termination
//! Functions").

use std::sync::atomic::{AtomicU8, Ordering};

/// A bit for each descriptor that was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
// SAFETY: The loader calls what is in this section once, before main and any other thread, with
// arguments that a C function may ignore. `look` needs nothing that main sets up: it makes three
// system calls and stores a byte.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let mut closed = 0;
    for fd in [0, 1, 2] {
        // SAFETY: F_GETFD takes an integer, touches no memory of ours, and fails for a number that
        // is not open.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            closed |= 1 << fd;
        }
    }
    CLOSED.store(closed, Ordering::Relaxed);
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 0.
    Stdin = 0,
    /// Descriptor 1.
    Stdout = 1,
    /// Descriptor 2.
    Stderr = 2,
}

/// Fails if the stream was closed when the program was started, and is `/dev/null` now.
///
/// # Errors
///
/// `EBADF`, as a read or write would have failed.
pub fn check(stream: Stream) -> std::io::Result<()> {
    if CLOSED.load(Ordering::Relaxed) & 1 << stream as u8 == 0 {
        Ok(())
    } else {
        Err(std::io::Error::from_raw_os_error(libc::EBADF))
    }
}
