//! Input: how much is read at once, and how much may wait in the pipe.

use super::Run;
use crate::disk::io_error;
use crate::small_pipe::make_small;
use snapshot_engine::{Event, Machine};
use std::io::Read;
use std::ops::Range;
use std::time::Duration;

/// A source writes few pages at a time, and a wake-up costs more than moving them does: input is
/// left alone for so long that reads find about this many 64ths of what can pile up. A pipe of 64
/// KiB is full with ten pages and their headers, 40 KiB: each second header takes a page of the
/// pipe's.
const READ_AIM: Range<usize> = 12..28;
/// What can pile up as long as nothing else is known: what a pipe has from the beginning.
pub(super) const INPUT_BYTES: usize = 64 << 10;
/// The shortest time that input is left alone, if at all, and the longest.
pub(super) const IDLE_DELAY: Range<Duration> = Duration::from_micros(50)..Duration::from_millis(1);

impl Run<'_> {
    pub(super) fn read_input<M: Machine>(&mut self, machine: &mut M) {
        let (Some((buffer, range)), Some(input)) = (self.reading.take(), self.driver.channel.input()) else {
            return;
        };
        let place = &mut self.pool.bytes_mut(buffer)[range.clone()];
        if !self.taken.is_empty() {
            let bytes = self.taken.read(place).unwrap_or(0);
            return machine.handle(Event::Input { bytes }, &mut self.pool);
        }
        let read = rustix::io::read(input, place);
        // Now it is empty: the writer is not awake yet.
        self.limit_input();
        match read {
            Ok(0) => machine.handle(Event::InputEnd, &mut self.pool),
            Ok(bytes) => {
                if range.len() >= INPUT_BYTES {
                    self.idle_delay = idle_delay(self.idle_delay, bytes, self.input_bytes);
                }
                machine.handle(Event::Input { bytes }, &mut self.pool);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                self.reading = Some((buffer, range));
            }
            Err(error) => machine.handle(Event::InputFailed(io_error(&error.into())), &mut self.pool),
        }
    }

    /// Empties the input pipe and makes it small at once: a machine that reads little at a time
    /// would always leave too much in it. What is in it has been written as far as the writer
    /// knows, so nothing is lost by taking it.
    pub(super) fn empty_input(&mut self) {
        let Some(bytes) = self.limiting_input.filter(|_| !self.emptied) else { return };
        if let Some(input) = self.driver.channel.input()
            && self.driver.channel.input_limit().is_some()
        {
            // Once: what the machine reads until it is done with that may be the last that it is to see.
            self.limiting_input = (!make_small(input, bytes, &mut self.taken)).then_some(bytes);
            self.input_bytes = self.driver.channel.input_limit().unwrap_or(INPUT_BYTES);
            self.emptied = true;
        }
    }

    /// Resizes the input pipe, if that is still to be done.
    pub(super) fn limit_input(&mut self) {
        let channel = &self.driver.channel;
        if self.limiting_input.take_if(|bytes| channel.limit_input(*bytes)).is_some() {
            self.input_bytes = channel.input_limit().unwrap_or(INPUT_BYTES);
        }
    }
}

/// How long input is to be left alone after a read that found `bytes`, of which `most` can pile up.
pub(super) fn idle_delay(last: Option<Duration>, bytes: usize, most: usize) -> Option<Duration> {
    let (shortest, longest) = (IDLE_DELAY.start, IDLE_DELAY.end);
    let (little, much) = (most / 64 * READ_AIM.start, most / 64 * READ_AIM.end);
    match last {
        Some(time) if bytes > much => Some(time / 2).filter(|time| *time >= shortest),
        None if bytes > much => None,
        Some(time) if bytes < little => Some((time * 2).min(longest)),
        None => Some(shortest),
        same => same,
    }
}
