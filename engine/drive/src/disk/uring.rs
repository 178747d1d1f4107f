//! Disk operations by io_uring (io_uring(7)).

use super::operations::{Call, DEPTH, Kind, Operations};
use super::{Finished, Work, wake};
use io_uring::{IoUring, opcode, squeue, types};
use snapshot_engine::IoId;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// io_uring_enter(2): look for completions (`IORING_ENTER_GETEVENTS`).
const ENTER_GETEVENTS: u32 = 1;

/// One ring, used by one thread.
pub(super) struct Uring {
    ring: IoUring,
    /// Completions are worked off when this thread asks for them, instead of interrupting it.
    deferred: bool,
    operations: Operations,
    signal: Arc<OwnedFd>,
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
    /// The kernel has no io_uring, or does not allow it.
    pub(super) fn new(signal: &Arc<OwnedFd>) -> io::Result<Self> {
        // Since Linux 6.1; an older kernel refuses flags that it does not know.
        let deferring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(DEPTH);
        let (ring, deferred) = match deferring {
            Ok(ring) => (ring, true),
            Err(_) => (IoUring::new(DEPTH)?, false),
        };
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        Ok(Self { ring, deferred, operations: Operations::default(), signal: Arc::clone(signal) })
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
            // SAFETY: `Call` promises that its bytes stay valid and untouched until the answer is reported, which happens
            // in `finished` when the kernel has completed this entry, and in `Drop`, which waits for that.
            let pushed = unsafe { self.ring.submission().push(&entry(&call)) };
            if pushed.is_err() {
                // Full only while the kernel has not taken what was submitted before.
                self.operations.put_back(call.name);
                break;
            }
        }
        if !self.ring.submission().is_empty() {
            // Interrupted, or out of memory for now: the entries stay in the queue and go with the next call.
            let _ = self.ring.submit();
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
            self.operations.answered(entry.user_data(), i64::from(entry.result()));
        }
    }
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
            match self.ring.submit_and_wait(1) {
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
