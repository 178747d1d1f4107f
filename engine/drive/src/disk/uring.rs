//! Disk operations by io_uring (io_uring(7)). The only `unsafe` of the engine is in this folder.

use super::{Finished, Work, io_error};
use io_uring::{IoUring, opcode, squeue, types};
use snapshot_engine::machine::Piece;
use snapshot_engine::pool::BUFFER_ALIGNMENT_BYTES;
use snapshot_engine::{Buffer, BufferId, Completed, IoError, IoId};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Entries of the submission queue, and the most pieces that are under way at once.
const ENTRIES: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// An operation whose pieces are under way. It owns its buffer until the kernel has answered for every piece.
#[derive(Debug)]
struct Operation {
    id: IoId,
    file: Arc<File>,
    kind: Kind,
    buffer: Option<(BufferId, Buffer)>,
    /// Answers that are still to come.
    outstanding: usize,
    result: Result<(), IoError>,
}

/// A piece that is to be submitted, or was.
#[derive(Debug, Clone)]
struct Request {
    operation: u64,
    piece: Piece,
}

/// One ring, used by one thread.
pub(crate) struct Uring {
    ring: IoUring,
    operations: HashMap<u64, Operation>,
    next_operation: u64,
    waiting: VecDeque<Request>,
    in_kernel: HashMap<u64, Request>,
    next_request: u64,
    finished: Vec<Finished>,
    signal: Arc<OwnedFd>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring {{ in_kernel: {}, waiting: {} }}", self.in_kernel.len(), self.waiting.len())
    }
}

impl Uring {
    pub(crate) fn new(signal: &Arc<OwnedFd>) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        Ok(Self {
            ring,
            operations: HashMap::new(),
            next_operation: 0,
            waiting: VecDeque::new(),
            in_kernel: HashMap::new(),
            next_request: 0,
            finished: Vec::new(),
            signal: Arc::clone(signal),
        })
    }

    pub(crate) fn submit(&mut self, file: &Arc<File>, id: IoId, work: Work) {
        let (kind, buffer, pieces) = match work {
            Work::Read(name, buffer, pieces) => (Kind::Read, Some((name, buffer)), pieces),
            Work::Write(name, buffer, pieces) => (Kind::Write, Some((name, buffer)), pieces),
            Work::Flush => {
                (Kind::Flush, None, vec![Piece { at: snapshot_image::HostOffset(0), range: 0..0 }])
            }
        };
        let name = self.next_operation;
        self.next_operation += 1;
        let file = Arc::clone(file);
        let operation = Operation { id, file, kind, buffer, outstanding: pieces.len(), result: Ok(()) };
        if pieces.is_empty() {
            self.finished.push(finish(operation));
            // Nothing will come from the kernel for it.
            let _ = rustix::io::write(&*self.signal, &1u64.to_ne_bytes());
            return;
        }
        self.operations.insert(name, operation);
        self.waiting.extend(pieces.into_iter().map(|piece| Request { operation: name, piece }));
        self.push();
    }

    /// Hands waiting pieces to the kernel, as many as there is room for.
    fn push(&mut self) {
        while self.in_kernel.len() < ENTRIES as usize {
            let Some(request) = self.waiting.pop_front() else { break };
            let Some(operation) = self.operations.get_mut(&request.operation) else { continue };
            let name = self.next_request;
            self.next_request += 1;
            let entry = entry_of(operation, &request.piece).user_data(name);
            // SAFETY: the entry points into the operation's buffer, at a range that `entry_of` took as a slice of it.
            // The operation owns the buffer, whose heap memory does not move, until `answer` has counted this entry's
            // completion; `Drop` waits for those that are still to come.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                // The queue has as many entries as may be in the kernel, and every push is followed by a submission.
                self.waiting.push_front(request);
                break;
            }
            self.in_kernel.insert(name, request);
        }
        if let Err(error) = self.ring.submit() {
            // Interrupted, or out of memory for now: the entries stay in the queue and go with the next call.
            debug_assert!(error.kind() != io::ErrorKind::InvalidInput, "{error}");
        }
    }

    pub(crate) fn finished(&mut self) -> Vec<Finished> {
        let answers: Vec<(u64, i32)> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (name, result) in answers {
            self.answer(name, result);
        }
        self.push();
        std::mem::take(&mut self.finished)
    }

    /// The kernel has answered for one piece.
    fn answer(&mut self, name: u64, result: i32) {
        let Some(request) = self.in_kernel.remove(&name) else { return };
        let Some(operation) = self.operations.get_mut(&request.operation) else { return };
        let length = request.piece.range.len();
        match usize::try_from(result) {
            Ok(_) if operation.kind == Kind::Flush => {}
            Ok(0) if operation.kind == Kind::Read => {
                // The end of the file: what lies behind it is zero.
                if let Some((_, buffer)) = &mut operation.buffer {
                    buffer.bytes_mut()[request.piece.range.clone()].fill(0);
                }
            }
            Ok(0) => operation.result = Err(IoError("the file takes no more bytes".to_owned())),
            Ok(bytes)
                if operation.kind == Kind::Read && bytes < length && bytes % BUFFER_ALIGNMENT_BYTES != 0 =>
            {
                // Only the end of the file cuts a read inside a block, and the rest is no place for `O_DIRECT` to go on.
                if let Some((_, buffer)) = &mut operation.buffer {
                    buffer.bytes_mut()[request.piece.range.start + bytes..request.piece.range.end].fill(0);
                }
            }
            Ok(bytes) if bytes < length => {
                let mut rest = request;
                rest.piece.at.0 += bytes as u64;
                rest.piece.range.start += bytes;
                self.waiting.push_front(rest);
                return;
            }
            Ok(_) => {}
            Err(_) if [libc::EINTR, libc::EAGAIN].contains(&-result) => {
                self.waiting.push_front(request);
                return;
            }
            Err(_) => operation.result = Err(io_error(&io::Error::from_raw_os_error(-result))),
        }
        operation.outstanding -= 1;
        if operation.outstanding == 0
            && let Some(operation) = self.operations.remove(&request.operation)
        {
            self.finished.push(finish(operation));
        }
    }
}

fn finish(operation: Operation) -> Finished {
    Finished {
        id: operation.id,
        buffer: operation.buffer,
        result: operation.result.map(|()| Completed::Plain),
    }
}

fn entry_of(operation: &mut Operation, piece: &Piece) -> squeue::Entry {
    let file = types::Fd(operation.file.as_raw_fd());
    let Some((_, buffer)) = &mut operation.buffer else { return opcode::Fsync::new(file).build() };
    let place = &mut buffer.bytes_mut()[piece.range.clone()];
    // Pieces are a few MiB at most.
    let length = u32::try_from(place.len()).unwrap_or(u32::MAX);
    if operation.kind == Kind::Read {
        opcode::Read::new(file, place.as_mut_ptr(), length).offset(piece.at.0).build()
    } else {
        opcode::Write::new(file, place.as_ptr(), length).offset(piece.at.0).build()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.waiting.clear();
        // The kernel may still write to the buffers: they must not go before it has answered.
        while !self.in_kernel.is_empty() {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // The ring is broken, and whether the kernel is done cannot be known: leaking is the safe way out.
                std::mem::forget(std::mem::take(&mut self.operations));
                return;
            }
            let names: Vec<u64> = self.ring.completion().map(|entry| entry.user_data()).collect();
            names.iter().for_each(|name| {
                self.in_kernel.remove(name);
            });
        }
    }
}
