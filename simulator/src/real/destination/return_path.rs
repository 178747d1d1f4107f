//! What a destination says, and how it misbehaves where that is asked for.

use crate::real::channel::Output;
use crate::real::error::{Error, at};
use crate::real::faults::{Fault, Faults};
use crate::real::memory::GuestMemory;
use crate::size::at_most_u32;
use migration_stream::protocol::put_received_bitmap;
use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};
use std::io::Write;

/// The direction to the source.
#[derive(Debug)]
pub(super) struct ReturnPath {
    output: Option<Output>,
    /// The source has opened it.
    open: bool,
    /// The block of the last request on this connection.
    block: Option<usize>,
    /// The connection broke, and the source has not said RESUME yet: requests wait for that.
    paused: bool,
    faults: Faults,
    /// A request that fault *reorder* holds back.
    held: Option<(usize, usize)>,
    /// Requests sent.
    pub(super) requests: u64,
}

impl ReturnPath {
    pub(super) fn new(output: Option<Output>, faults: Faults) -> Self {
        Self { output, open: false, block: None, paused: false, faults, held: None, requests: 0 }
    }

    /// The source opens it.
    pub(super) fn open(&mut self) -> Result<(), String> {
        self.open = true;
        if self.output.is_some() {
            Ok(())
        } else {
            Err("OPEN_RETURN_PATH on a connection of one direction".to_owned())
        }
    }

    /// A new connection.
    pub(super) fn reconnect(&mut self, output: Option<Output>) {
        self.output = output;
        self.block = None;
    }

    /// The connection is broken.
    pub(super) fn disconnect(&mut self) {
        self.output = None;
        self.paused = true;
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.faults.has(Fault::Silent) || !self.open {
            return Ok(());
        }
        let Some(output) = &mut self.output else { return Ok(()) };
        if let Some(delay) = self.faults.delay() {
            std::thread::sleep(delay);
        }
        output.write_all(bytes).map_err(at("write to the return path"))
    }

    fn message(&mut self, message: &ReturnPathMessage<'_>) -> Result<(), Error> {
        let mut bytes = Vec::new();
        put_return_path_message(&mut bytes, message);
        self.send(&bytes)
    }

    pub(super) fn pong(&mut self, value: u32) -> Result<(), Error> {
        self.message(&ReturnPathMessage::Pong(value))
    }

    pub(super) fn shut(&mut self, status: u32) -> Result<(), Error> {
        self.message(&ReturnPathMessage::Shut(status))
    }

    pub(super) fn resume_ack(&mut self) -> Result<(), Error> {
        self.paused = false;
        self.message(&ReturnPathMessage::ResumeAck(1))
    }

    /// Which pages of a block are there.
    pub(super) fn received(
        &mut self,
        name: &[u8],
        pages: u64,
        has: impl Fn(u64) -> bool,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        put_return_path_message(&mut bytes, &ReturnPathMessage::ReceivedBitmap(name));
        put_received_bitmap(&mut bytes, pages, has);
        self.send(&bytes)
    }

    /// Requests a host page; a request that finds the connection broken is repeated by RESUME.
    pub(super) fn request(&mut self, memory: &GuestMemory, block: usize, offset: usize) -> Result<(), Error> {
        if self.paused {
            return Ok(());
        }
        if self.faults.has(Fault::Reorder) {
            // Two by two; a lone one goes when the next comes, or with `flush`.
            match self.held.take() {
                None => self.held = Some((block, offset)),
                Some((earlier, earlier_offset)) => {
                    self.request_now(memory, block, offset)?;
                    self.request_now(memory, earlier, earlier_offset)?;
                }
            }
            return Ok(());
        }
        self.request_now(memory, block, offset)
    }

    /// Sends what is held back.
    pub(super) fn flush(&mut self, memory: &GuestMemory) -> Result<(), Error> {
        match self.held.take().filter(|_| !self.paused) {
            Some((block, offset)) => self.request_now(memory, block, offset),
            None => Ok(()),
        }
    }

    fn request_now(&mut self, memory: &GuestMemory, block: usize, offset: usize) -> Result<(), Error> {
        let known = &memory.blocks()[block];
        let mut name = &known.name[..];
        let (mut start, mut length) = (offset as u64, known.host_page as u64);
        if self.faults.has(Fault::RequestUnknownBlock) {
            name = b"nobody's block";
            self.block = None;
        }
        if self.faults.has(Fault::RequestOutside) {
            start = known.mapping.length() as u64;
        }
        if self.faults.has(Fault::RequestUnaligned) {
            start += length / 2;
        }
        if self.faults.has(Fault::RequestOverlapping) && start + 2 * length <= known.mapping.length() as u64 {
            length *= 2;
        }
        if self.faults.has(Fault::RequestHuge) {
            (start, length) = (0, known.mapping.length() as u64);
        }
        let length = at_most_u32(length);
        for _ in 0..self.faults.storm() {
            let named = (self.block.replace(block) != Some(block)).then_some(name);
            self.requests += 1;
            self.message(&ReturnPathMessage::RequestPages { block: named, start, length })?;
        }
        self.faults.event()
    }
}
