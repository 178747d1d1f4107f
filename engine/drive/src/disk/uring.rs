//! Disk operations by io_uring (io_uring(7)).

use super::operations::{Call, DEPTH, Kind, Operations};
use super::{Finished, Work, wake};
use io_uring::{IoUring, opcode, squeue, types};
use snapshot_engine::IoId;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// io_uring_enter(2): look for completions (`IORING_ENTER_GETEVENTS`).
const ENTER_GETEVENTS: u32 = 1;
/// How long a kernel that refuses requests is asked again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a new ring is asked whether it works at all.
const ATTEMPTS: u32 = 100;

/// One ring, used by one thread.
pub(super) struct Uring {
    ring: IoUring,
    /// Completions are worked off when this thread asks for them, instead of interrupting it.
    deferred: bool,
    operations: Operations,
    signal: Arc<OwnedFd>,
    /// Names of the requests in the ring that the kernel has not taken.
    offered: VecDeque<u64>,
    /// Since when it takes none.
    refused_since: Option<Instant>,
    /// It was asked long enough: nothing is submitted any more.
    given_up: bool,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("deferred", &self.deferred)
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// # Errors
    ///
    /// The kernel has no io_uring, or does not allow it: a filter can refuse each of its system
    /// calls by itself.
    pub(super) fn new(signal: &Arc<OwnedFd>) -> io::Result<Self> {
        // Since Linux 6.1; an older kernel refuses flags that it does not know.
        let deferring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(DEPTH);
        let (mut ring, deferred) = match deferring {
            Ok(ring) => (ring, true),
            Err(_) => (IoUring::new(DEPTH)?, false),
        };
        try_out(&mut ring)?;
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        Ok(Self {
            ring,
            deferred,
            operations: Operations::default(),
            signal: Arc::clone(signal),
            offered: VecDeque::new(),
            refused_since: None,
            given_up: false,
        })
    }

    pub(super) fn submit(&mut self, file: &Arc<File>, id: IoId, work: Work) {
        if self.operations.begin(file, id, work) {
            self.push();
        } else {
            // Nothing will come from the kernel for it.
            wake(&self.signal);
        }
    }

    /// Hands waiting requests to the kernel, as many as there is room for.
    fn push(&mut self) {
        while let Some(call) = self.operations.next_call() {
            // SAFETY: `Call` promises that its bytes stay valid and untouched until the answer is
            // reported, which happens in `finished` when the kernel has completed this entry, and
            // in `Drop`, which waits for that.
            let pushed = unsafe { self.ring.submission().push(&entry(&call)) };
            if pushed.is_err() {
                // Full only while the kernel has not taken what was submitted before.
                self.operations.put_back(call.name);
                break;
            }
            self.offered.push_back(call.name);
        }
        if !self.offered.is_empty() && !self.given_up {
            match self.ring.submit() {
                Ok(taken) => {
                    self.offered.drain(..taken.min(self.offered.len()));
                    self.refused_since = None;
                }
                // Interrupted, or out of memory for now: the entries stay in the queue and go with
                // the next call.
                Err(_) => {
                    let since = *self.refused_since.get_or_insert_with(Instant::now);
                    self.given_up = since.elapsed() >= PATIENCE;
                }
            }
        }
        if self.given_up {
            self.fail_offered();
        }
    }

    /// Answers for requests that the kernel has never seen, nor will.
    fn fail_offered(&mut self) {
        while let Some(call) = self.operations.next_call() {
            self.offered.push_back(call.name);
        }
        for name in self.offered.drain(..) {
            self.operations.answered(name, -i64::from(libc::EIO));
            wake(&self.signal);
        }
    }

    pub(super) fn finished(&mut self) -> Vec<Finished> {
        if self.deferred && self.operations.in_kernel() > 0 {
            // SAFETY: no argument is passed, so the kernel reads no memory but the ring's own.
            let entered =
                unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, ENTER_GETEVENTS, None) };
            // Interrupted: what has completed is seen the next time.
            drop(entered);
        }
        self.take_answers();
        self.push();
        self.operations.finished()
    }

    fn take_answers(&mut self) {
        for entry in self.ring.completion() {
            let mut answer = i64::from(entry.result());
            if answer == -i64::from(libc::ECANCELED)
                && let Some(call) = self.operations.call_in_kernel(entry.user_data())
            {
                answer = carry_out(&call);
            }
            self.operations.answered(entry.user_data(), answer);
        }
    }
}

/// Sends a request that does nothing through the ring, and waits for its answer.
fn try_out(ring: &mut IoUring) -> io::Result<()> {
    // SAFETY: the request names no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
    let mut result = Ok(0);
    for _ in 0..ATTEMPTS {
        result = ring.submit_and_wait(1);
        if ring.completion().next().is_some() {
            return Ok(());
        }
        match &result {
            // It may be short of memory for a moment.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => break,
            Ok(_) => {}
        }
    }
    result.and_then(|_| Err(io::Error::other("a request is never answered")))
}

/// Carries a request out here and now that the kernel has given back: it needs a thread for one
/// that blocks, and none may be made for this user any more (`RLIMIT_NPROC`). Returns what the
/// kernel would have answered.
fn carry_out(call: &Call) -> i64 {
    let (length, at) = (call.length as usize, call.at.cast_signed());
    let done = match call.kind {
        // SAFETY: The kernel has answered the request, so it has let go of its bytes; `Call`
        // promises that `length` bytes are valid and touched by no one else until this answer is
        // reported, and the operation keeps the file open.
        Kind::Read => (unsafe { libc::pread(call.file, call.address.cast(), length, at) }) as i64,
        // SAFETY: As above.
        Kind::Write => (unsafe { libc::pwrite(call.file, call.address.cast(), length, at) }) as i64,
        // SAFETY: It takes a descriptor that the operation keeps open, and touches no memory of ours.
        Kind::Flush => i64::from(unsafe { libc::fsync(call.file) }),
    };
    if done < 0 { -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { done }
}

fn entry(call: &Call) -> squeue::Entry {
    let file = types::Fd(call.file);
    match call.kind {
        Kind::Read => opcode::Read::new(file, call.address, call.length).offset(call.at).build(),
        Kind::Write => opcode::Write::new(file, call.address, call.length).offset(call.at).build(),
        Kind::Flush => opcode::Fsync::new(file).build(),
    }
    .user_data(call.name)
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.operations.close();
        // The kernel may still write to the buffers: they must not go before it has answered.
        while self.operations.in_kernel() > 0 {
            let waited = match self.given_up {
                false => self.ring.submit_and_wait(1),
                // SAFETY: no argument is passed, so the kernel reads no memory but the ring's own.
                true => unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, ENTER_GETEVENTS, None) },
            };
            match waited {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The ring is broken, and whether the kernel is done cannot be known.
                Err(_) => self.operations.leak(),
            }
            self.take_answers();
            // A short answer asks for more; not any longer.
            self.operations.close();
        }
    }
}
