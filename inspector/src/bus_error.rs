//! What happens where a mapped file has no byte any more: another program has cut it, or its disk
//! gives the page back no more. The kernel says so by SIGBUS, and to this program it is an I/O error
//! like any other: exit status 2.

use signal_hook::consts::SIGBUS;
use signal_hook::low_level;
use std::io;

/// Exit status of what could not be done.
const COULD_NOT: i32 = 2;
/// Made beforehand: nothing may be allocated in the handler, nor formatted.
const LINE: &[u8] = b"snapinspect: Input/output error: a file was cut by another program while it \
was read, or its disk failed\n";

/// From now on SIGBUS ends the process with one line on stderr and status 2: to be called once, at
/// the start of a program.
///
/// A file that is being written then has no name, and is gone; only where the file system has no
/// such files a hidden one stays.
///
/// # Errors
///
/// The operating system's.
#[allow(unsafe_code, reason = "a signal handler")]
pub fn end_on_bus_error() -> io::Result<()> {
    // SAFETY: the handler makes two system calls, takes neither memory nor locks, and never
    // returns.
    unsafe { low_level::register(SIGBUS, || end()) }.map(drop)
}

fn end() -> ! {
    let _ = rustix::io::write(io::stderr(), LINE);
    low_level::exit(COULD_NOT)
}
