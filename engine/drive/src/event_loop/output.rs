//! Output: what waits to leave, in each lane.

use super::Run;
use crate::disk::io_error;
use crate::last_resort::has_sent;
use snapshot_engine::machine::{Body, Header};
use snapshot_engine::{Event, Lane, Machine};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Pieces that one write gathers; the kernel takes 1024.
const GATHERED_PIECES: usize = 512;

/// Output of one lane.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) pieces: VecDeque<(Header, Option<Body>)>,
    /// Bytes of the first piece that have left.
    pub(super) sent_of_first: usize,
}

impl Queue {
    /// The channel took this many bytes.
    fn took(&mut self, bytes: usize) {
        let mut rest = bytes + self.sent_of_first;
        while let Some((header, body)) = self.pieces.front() {
            let length = header.bytes().len() + body.as_ref().map_or(0, |body| body.range.len());
            if rest < length {
                break;
            }
            rest -= length;
            self.pieces.pop_front();
        }
        self.sent_of_first = rest;
    }
}

impl Run<'_> {
    /// Writes what the chosen lanes take at once.
    pub(super) fn write_outputs<M: Machine>(&mut self, machine: &mut M, lanes: [bool; 2]) {
        for lane in [Lane::Preempt, Lane::Main] {
            if lanes[lane as usize] && !self.output[lane as usize].pieces.is_empty() {
                self.write_output(machine, lane);
            }
        }
    }

    /// Writes as much as the channel takes at once.
    pub(super) fn write_output<M: Machine>(&mut self, machine: &mut M, lane: Lane) {
        let Some(output) = self.driver.channel.output(lane) else { return };
        let queue = &mut self.output[lane as usize];
        let mut slices = Vec::with_capacity(GATHERED_PIECES + 1);
        let mut skip = queue.sent_of_first;
        for (header, body) in &queue.pieces {
            let body =
                body.as_ref().map_or(&[][..], |body| &self.pool.bytes(body.buffer)[body.range.clone()]);
            for bytes in [header.bytes(), body] {
                let from = skip.min(bytes.len());
                skip -= from;
                if from < bytes.len() {
                    slices.push(IoSlice::new(&bytes[from..]));
                }
            }
            if slices.len() >= GATHERED_PIECES {
                break;
            }
        }
        let written = rustix::io::writev(output, &slices);
        drop(slices);
        match written {
            Ok(0) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(bytes) => {
                has_sent();
                queue.took(bytes);
                machine.handle(Event::Sent { lane, bytes: bytes as u64 }, &mut self.pool);
            }
            Err(error) => {
                self.output = Default::default();
                machine.handle(Event::OutputFailed(io_error(&error.into())), &mut self.pool);
            }
        }
    }
}
