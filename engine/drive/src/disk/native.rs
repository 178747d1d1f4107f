//! Disk operations by Linux AIO (io_submit(2)); the interface is `linux/aio_abi.h`.
//!
//! The kernel carries out requests on files opened with `O_DIRECT` only behind our back; on others
//! `io_submit` would block, so `file.aio=native` needs `cache.direct=on`.

use super::operations::{Call, DEPTH, Kind, Operations};
use super::{Finished, Work, wake};
use snapshot_engine::IoId;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null;
use std::sync::Arc;

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
const IOCB_CMD_FSYNC: u16 = 2;
/// The completion is counted by the eventfd `event_fd`.
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb`: what is to be done. The kernel copies it before `io_submit` returns.
#[repr(C)]
#[derive(Debug, Default)]
struct ControlBlock {
    data: u64,
    /// Two 32-bit fields in the order of the machine's endianness, both zero.
    key_and_rw_flags: u64,
    opcode: u16,
    priority: i16,
    file: u32,
    address: u64,
    length_bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event`: what came of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct CompletionEvent {
    data: u64,
    control_block: u64,
    /// Bytes done, or a negative error number.
    result: i64,
    result2: i64,
}

const _: () = assert!(size_of::<ControlBlock>() == 64 && size_of::<CompletionEvent>() == 32);

/// One context of the kernel.
#[derive(Debug)]
pub(super) struct Native {
    context: libc::c_ulong,
    operations: Operations,
    signal: Arc<OwnedFd>,
}

fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Native {
    /// # Errors
    ///
    /// `EAGAIN` if the system's limit (`/proc/sys/fs/aio-max-nr`) is reached, `ENOSYS` if the
    /// kernel has no AIO.
    pub(super) fn new(signal: &Arc<OwnedFd>) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word to `context`, which must hold zero before and does.
        check(unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut context) })?;
        Ok(Self { context, operations: Operations::default(), signal: Arc::clone(signal) })
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
        let calls: Vec<Call> = std::iter::from_fn(|| self.operations.next_call()).collect();
        let mut blocks: Vec<ControlBlock> = calls.iter().map(|call| self.control_block(call)).collect();
        let mut pointers: Vec<*mut ControlBlock> =
            blocks.iter_mut().map(|block| block as *mut ControlBlock).collect();
        let mut taken = 0;
        while taken < calls.len() {
            let rest = &mut pointers[taken..];
            // SAFETY: `rest` points to as many control blocks, which outlive the call. The bytes
            // that they name stay valid and untouched until the answer is reported (`Call` promises
            // it), which happens in `take_answers` after the kernel's completion event; `Drop`
            // waits for those that are still to come.
            let result = check(unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, rest.len(), rest.as_mut_ptr())
            });
            match result {
                Ok(0) => break,
                Ok(count) => taken += count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => break,
                    // The first of the rest cannot be done; the others are to be tried.
                    number => {
                        let number = i64::from(number.unwrap_or(libc::EIO));
                        self.operations.answered(calls[taken].name, -number);
                        wake(&self.signal);
                        taken += 1;
                    }
                },
            }
        }
        for call in calls[taken.min(calls.len())..].iter().rev() {
            self.operations.put_back(call.name);
        }
    }

    fn control_block(&self, call: &Call) -> ControlBlock {
        let opcode = match call.kind {
            Kind::Read => IOCB_CMD_PREAD,
            Kind::Write => IOCB_CMD_PWRITE,
            Kind::Flush => IOCB_CMD_FSYNC,
        };
        ControlBlock {
            data: call.name,
            opcode,
            // Descriptors of open files are not negative.
            file: call.file.cast_unsigned(),
            address: call.address.expose_provenance() as u64,
            // The kernel refuses a flush that names bytes; its request has none.
            length_bytes: u64::from(call.length),
            // The kernel refuses a place behind 2^63.
            offset: call.at.cast_signed(),
            flags: IOCB_FLAG_RESFD,
            event_fd: self.signal.as_raw_fd().cast_unsigned(),
            ..ControlBlock::default()
        }
    }

    pub(super) fn finished(&mut self) -> Vec<Finished> {
        if self.operations.in_kernel() > 0 {
            // Interrupted: what has completed is seen the next time.
            let _ = self.take_answers(false);
        }
        self.push();
        self.operations.finished()
    }

    /// Reports completions, as many as there are; with `wait` at least one.
    fn take_answers(&mut self, wait: bool) -> io::Result<()> {
        let mut events = [CompletionEvent::default(); DEPTH as usize];
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if wait { null() } else { &raw const no_time };
        // SAFETY: the kernel writes at most `events.len()` events to `events`, and reads `no_time`;
        // both outlive the call.
        let count = check(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                libc::c_long::from(wait),
                events.len(),
                events.as_mut_ptr(),
                timeout,
            )
        })?;
        for event in &events[..count] {
            self.operations.answered(event.data, event.result);
        }
        Ok(())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.operations.close();
        // The kernel may still write to the buffers: they must not go before it has answered.
        while self.operations.in_kernel() > 0 {
            match self.take_answers(true) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whether the kernel is done cannot be known.
                Err(_) => self.operations.leak(),
            }
            // A short answer asks for more; not any longer.
            self.operations.close();
        }
        // SAFETY: the context is ours and not used any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
