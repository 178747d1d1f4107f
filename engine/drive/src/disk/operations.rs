//! What the two kernel interfaces have in common: operations cut into requests, and the kernel's
//! answers put together.

use super::{Finished, Work, io_error};
use snapshot_engine::machine::Piece;
use snapshot_engine::pool::BUFFER_ALIGNMENT_BYTES;
use snapshot_engine::{Buffer, BufferId, Completed, IoError, IoId};
use snapshot_image::HostOffset;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// The most requests that are in the kernel at once; what is more waits here.
pub(super) const DEPTH: u32 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
}

/// An operation whose requests are under way. It owns its buffer until the kernel has answered every one.
#[derive(Debug)]
struct Operation {
    id: IoId,
    file: Arc<File>,
    kind: Kind,
    buffer: Option<(BufferId, Buffer)>,
    /// First byte of the buffer. Taken once: asking the buffer again while the kernel works on
    /// other pieces of it would be a second exclusive reference.
    base: *mut u8,
    /// Answers that are still to come.
    outstanding: usize,
    /// Bytes behind the end of the file, to be zeroed when the kernel has let go of the buffer.
    holes: Vec<Range<usize>>,
    result: Result<(), IoError>,
}

impl Operation {
    fn finish(mut self) -> Finished {
        if let Some((_, buffer)) = &mut self.buffer {
            for hole in &self.holes {
                buffer.bytes_mut()[hole.clone()].fill(0);
            }
        }
        Finished { id: self.id, buffer: self.buffer, result: self.result.map(|()| Completed::Plain) }
    }
}

/// A piece of an operation that is to go to the kernel, or is there.
#[derive(Debug)]
struct Request {
    operation: u64,
    piece: Piece,
}

/// A request as the kernel is to be asked.
#[derive(Debug)]
pub(super) struct Call {
    /// By this name the answer is reported.
    pub(super) name: u64,
    pub(super) file: RawFd,
    pub(super) kind: Kind,
    /// Valid for `length` bytes until the answer is reported; no one else touches them meanwhile.
    /// Null for a flush.
    pub(super) address: *mut u8,
    pub(super) length: u32,
    pub(super) at: u64,
}

/// All operations of a queue.
#[derive(Debug, Default)]
pub(super) struct Operations {
    operations: HashMap<u64, Operation>,
    waiting: VecDeque<Request>,
    in_kernel: HashMap<u64, Request>,
    finished: Vec<Finished>,
    names: u64,
}

impl Operations {
    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// Takes an operation; false if there is nothing to be done for it, so that it has finished already.
    ///
    /// # Panics
    ///
    /// If a piece lies outside its buffer.
    pub(super) fn begin(&mut self, file: &Arc<File>, id: IoId, work: Work) -> bool {
        let (kind, mut buffer, mut pieces) = match work {
            Work::Read(name, buffer, pieces) => (Kind::Read, Some((name, buffer)), pieces),
            Work::Write(name, buffer, pieces) => (Kind::Write, Some((name, buffer)), pieces),
            Work::Flush => (Kind::Flush, None, vec![Piece { at: HostOffset(0), range: 0..0 }]),
        };
        let mut base = std::ptr::null_mut();
        if let Some((_, buffer)) = &mut buffer {
            let bytes = buffer.bytes_mut();
            pieces.retain(|piece| !bytes[piece.range.clone()].is_empty());
            base = bytes.as_mut_ptr();
        }
        let file = Arc::clone(file);
        let outstanding = pieces.len();
        let operation =
            Operation { id, file, kind, buffer, base, outstanding, holes: Vec::new(), result: Ok(()) };
        if pieces.is_empty() {
            self.finished.push(operation.finish());
            return false;
        }
        let name = self.name();
        self.operations.insert(name, operation);
        self.waiting.extend(pieces.into_iter().map(|piece| Request { operation: name, piece }));
        true
    }

    /// The next request for the kernel; from now on it counts as being there.
    pub(super) fn next_call(&mut self) -> Option<Call> {
        if self.in_kernel.len() >= DEPTH as usize {
            return None;
        }
        let request = self.waiting.pop_front()?;
        let name = self.name();
        self.in_kernel.insert(name, request);
        self.call_in_kernel(name)
    }

    /// What the kernel was asked under this name.
    pub(super) fn call_in_kernel(&self, name: u64) -> Option<Call> {
        let request = self.in_kernel.get(&name)?;
        let operation = self.operations.get(&request.operation)?;
        let Piece { at: HostOffset(at), range } = request.piece.clone();
        Some(Call {
            name,
            file: operation.file.as_raw_fd(),
            kind: operation.kind,
            address: operation.base.wrapping_add(range.start),
            // A longer piece than this is answered short, and goes on from there.
            length: u32::try_from(range.len()).unwrap_or(1 << 30),
            at,
        })
    }

    /// The kernel has not taken the request: it is the next one again.
    pub(super) fn put_back(&mut self, name: u64) {
        if let Some(request) = self.in_kernel.remove(&name) {
            self.waiting.push_front(request);
        }
    }

    /// The kernel has answered: bytes done, or a negative error number.
    pub(super) fn answered(&mut self, name: u64, answer: i64) {
        let Some(mut request) = self.in_kernel.remove(&name) else { return };
        let Some(operation) = self.operations.get_mut(&request.operation) else { return };
        let range = request.piece.range.clone();
        match usize::try_from(answer) {
            Ok(_) if operation.kind == Kind::Flush => {}
            Ok(bytes) if bytes >= range.len() => {}
            // The end of the file: what lies behind it is zero. Only that cuts a read inside a
            // block, and the rest is no place for `O_DIRECT` to go on.
            Ok(bytes)
                if operation.kind == Kind::Read && (bytes == 0 || bytes % BUFFER_ALIGNMENT_BYTES != 0) =>
            {
                operation.holes.push(range.start + bytes..range.end);
            }
            Ok(0) => operation.result = Err(IoError::new("the file takes no more bytes")),
            Ok(bytes) => {
                request.piece.at.0 += bytes as u64;
                request.piece.range.start += bytes;
                self.waiting.push_front(request);
                return;
            }
            Err(_) => {
                let error = io::Error::from_raw_os_error(i32::try_from(-answer).unwrap_or(libc::EIO));
                if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
                    self.waiting.push_front(request);
                    return;
                }
                operation.result = Err(io_error(&error));
            }
        }
        operation.outstanding -= 1;
        if operation.outstanding == 0
            && let Some(operation) = self.operations.remove(&request.operation)
        {
            self.finished.push(operation.finish());
        }
    }

    /// Requests in the kernel.
    pub(super) fn in_kernel(&self) -> usize {
        self.in_kernel.len()
    }

    /// What has finished since the last call.
    pub(super) fn finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Nothing more goes to the kernel.
    pub(super) fn close(&mut self) {
        self.waiting.clear();
    }

    /// For a kernel that does not say any more whether it is done with the buffers: they are never freed.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.operations));
        self.in_kernel.clear();
    }
}
