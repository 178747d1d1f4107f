//! Disk operations under way: one queue, carried out by io_uring, Linux AIO or threads.

mod native;
mod operations;
mod threads;
mod uring;

#[cfg(test)]
mod tests;

use crate::block_options::Aio;
use native::Native;
use rustix::event::{EventfdFlags, eventfd};
use snapshot_engine::machine::Piece;
use snapshot_engine::{Buffer, BufferId, Completed, IoError, IoId};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use threads::Threads;
use uring::Uring;

/// What is to be done with the file.
#[derive(Debug)]
pub(crate) enum Work {
    /// Fill the pieces of the buffer.
    Read(BufferId, Buffer, Vec<Piece>),
    /// Write the pieces of the buffer.
    Write(BufferId, Buffer, Vec<Piece>),
    /// Make everything written durable.
    Flush,
}

/// An operation that is over, with the buffer it had on loan.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: IoId,
    pub(crate) buffer: Option<(BufferId, Buffer)>,
    pub(crate) result: Result<Completed, IoError>,
}

#[derive(Debug)]
enum Backend {
    Threads(Threads),
    Native(Box<Native>),
    Uring(Box<Uring>),
}

/// Operations under way on one file.
#[derive(Debug)]
pub(crate) struct DiskQueue {
    backend: Backend,
    /// Readable when something has finished.
    signal: Arc<OwnedFd>,
}

/// The operating system's text, with its number.
pub(crate) fn io_error(error: &io::Error) -> IoError {
    IoError::from(error)
}

/// Makes the signal readable.
fn wake(signal: &OwnedFd) {
    // Fails only when the count is at its end, and then it is readable.
    let _ = rustix::io::write(signal, &1u64.to_ne_bytes());
}

impl DiskQueue {
    /// A queue of the kind that was asked for; without a wish io_uring, or threads where the kernel
    /// refuses it.
    ///
    /// # Errors
    ///
    /// The operating system refuses what was asked for.
    pub(crate) fn new(aio: Option<Aio>) -> io::Result<Self> {
        let signal = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let backend = match aio {
            Some(Aio::Threads) => Backend::Threads(Threads::new(&signal)?),
            Some(Aio::Native) => Backend::Native(Box::new(Native::new(&signal)?)),
            Some(Aio::IoUring) => Backend::Uring(Box::new(Uring::new(&signal)?)),
            None => match Uring::new(&signal) {
                Ok(uring) => Backend::Uring(Box::new(uring)),
                Err(_) => Backend::Threads(Threads::new(&signal)?),
            },
        };
        Ok(Self { backend, signal })
    }

    /// Starts an operation.
    pub(crate) fn submit(&mut self, file: &Arc<File>, id: IoId, work: Work) {
        match &mut self.backend {
            Backend::Threads(threads) => threads.submit(file, id, work),
            Backend::Native(native) => native.submit(file, id, work),
            Backend::Uring(uring) => uring.submit(file, id, work),
        }
    }

    /// What has finished since the last call.
    pub(crate) fn finished(&mut self) -> Vec<Finished> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.signal, &mut count);
        match &mut self.backend {
            Backend::Threads(threads) => threads.finished(),
            Backend::Native(native) => native.finished(),
            Backend::Uring(uring) => uring.finished(),
        }
    }

    /// Becomes readable when something has finished.
    pub(crate) fn signal(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}
