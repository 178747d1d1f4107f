//! Makes a pipe small that its writer keeps full.
//!
//! A pipe cannot become smaller than what is in it (`F_SETPIPE_SZ`: EBUSY), and a writer that waits
//! for room is woken by the read that makes some: it may have filled the pipe again before the
//! reader makes its next system call. So another thread asks for the size all the time: it waits
//! for the lock that the read holds (`pipe->mutex`, fs/pipe.c), and has it before the writer is
//! awake. Where there is no processor for that thread, and the writer was faster, the pipe becomes
//! as small as it can.

use crate::size::to_usize;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// How much is taken out of the pipe for it to become small: as much as two times an ordinary one.
const MOST_TAKEN_BYTES: usize = 128 << 10;
const READ_BYTES: usize = 64 << 10;
/// Pauses between two attempts, so that the pipe can be read in between.
const SPINS: u32 = 20;

/// Takes what is in a pipe until it has this size, or enough was taken; false if it is larger still.
pub(crate) fn make_small(pipe: BorrowedFd<'_>, bytes: usize, taken: &mut VecDeque<u8>) -> bool {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Without another thread it is tried all the same.
        let _ = std::thread::Builder::new().spawn_scoped(scope, || {
            while !over.load(Ordering::Relaxed) && !shrink(pipe, bytes) {
                (0..SPINS).for_each(|_| std::hint::spin_loop());
            }
        });
        let limit = taken.len() + MOST_TAKEN_BYTES;
        while !shrink(pipe, bytes)
            && taken.len() < limit
            && take(pipe, bytes, taken).is_ok_and(|length| length > 0)
        {}
        over.store(true, Ordering::Relaxed);
    });
    shrink(pipe, bytes)
}

/// Gives the pipe this size, or else the smallest that it can have now. True if it is no larger than wanted.
fn shrink(pipe: BorrowedFd<'_>, bytes: usize) -> bool {
    let Ok(now) = fcntl_getpipe_size(pipe) else { return true };
    if now <= bytes || fcntl_setpipe_size(pipe, bytes).is_ok() {
        return true;
    }
    // From the largest: each one that the pipe takes holds the writer back while the next one is tried.
    let halves = std::iter::successors(Some(now / 2), |size| Some(size / 2)).take_while(|&size| size > bytes);
    for size in halves {
        if fcntl_setpipe_size(pipe, size).is_err() {
            break;
        }
    }
    false
}

/// Takes what is in it, without waiting for more, and asks for the size before anything else is done: the
/// writer that this read wakes needs longer to arrive, even if it finds a processor at once.
fn take(pipe: BorrowedFd<'_>, bytes: usize, taken: &mut VecDeque<u8>) -> io::Result<usize> {
    let waiting = to_usize(rustix::io::ioctl_fionread(pipe)?).min(READ_BYTES);
    // A failure afterwards would lose what was read.
    taken.try_reserve(waiting)?;
    let mut place = [0; READ_BYTES];
    // The rest of this time slice may be too short for both calls.
    std::thread::yield_now();
    let length = rustix::io::read(pipe, &mut place[..waiting])?;
    shrink(pipe, bytes);
    taken.extend(&place[..length]);
    Ok(length)
}
