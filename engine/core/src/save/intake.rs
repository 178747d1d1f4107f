//! The input buffer: bytes of the stream that have arrived and were not yet understood.

use crate::machine::Action;
use crate::memory::OutOfMemory;
use crate::pool::{BufferId, Pool};
use std::ops::Range;

/// What one read may bring at the most, as long as records are small.
pub(crate) const INPUT_BYTES: usize = 1 << 20;
/// The same where there is no memory for more.
const SMALL_INPUT_BYTES: usize = 64 << 10;
/// A record (early devices, a block list) may need this much at once.
pub(crate) const RECORD_LIMIT_BYTES: usize = 80 << 20;

/// Bytes of the stream, in one buffer that is refilled behind a partial record.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    buffer: Option<BufferId>,
    capacity: usize,
    /// What has arrived and was not consumed.
    held: Range<usize>,
    reading: bool,
    pub(crate) ended: bool,
    /// Bytes that ever arrived.
    pub(crate) received_bytes: u64,
}

impl Intake {
    /// The buffer, and which bytes of it are the stream's next ones.
    pub(crate) fn held(&self) -> Option<(BufferId, Range<usize>)> {
        self.buffer.map(|buffer| (buffer, self.held.clone()))
    }

    /// The next `length` bytes have been understood.
    pub(crate) fn consume(&mut self, length: usize) {
        self.held.start += length;
    }

    /// A read is under way.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading
    }

    /// This many bytes arrived.
    pub(crate) fn arrived(&mut self, bytes: usize) {
        self.reading = false;
        self.held.end += bytes;
        self.received_bytes += bytes as u64;
    }

    /// The input is over, well or not.
    pub(crate) fn stopped(&mut self) {
        self.reading = false;
        self.ended = true;
    }

    /// Asks for at most `most` bytes more, so that `needed` in all can be held; `None` if that is
    /// more than any record may need.
    pub(crate) fn refill(
        &mut self,
        pool: &mut Pool,
        needed: usize,
        most: usize,
    ) -> Result<Option<Action>, OutOfMemory> {
        if needed > RECORD_LIMIT_BYTES {
            return Ok(None);
        }
        let buffer = match self.buffer {
            Some(buffer) if needed <= self.capacity => {
                pool.bytes_mut(buffer).copy_within(self.held.clone(), 0);
                buffer
            }
            old => {
                let capacity = needed.next_power_of_two().max(INPUT_BYTES);
                let small = needed.next_power_of_two().max(SMALL_INPUT_BYTES);
                // Draining a source must go on, however slowly.
                let (capacity, larger) = match pool.take(capacity) {
                    Ok(larger) => (capacity, larger),
                    Err(_) => (small, pool.take(small)?),
                };
                self.capacity = capacity;
                if let Some(old) = old {
                    let (from, to) = pool.pair(old, larger);
                    to[..self.held.len()].copy_from_slice(&from[self.held.clone()]);
                    pool.release(old);
                }
                larger
            }
        };
        self.buffer = Some(buffer);
        self.held = 0..self.held.len();
        self.reading = true;
        let end = self.capacity.min(self.held.end + most);
        Ok(Some(Action::ReadInput { buffer, range: self.held.end..end }))
    }
}
