//! RAM of a precopy: read ahead through the ring, sent in the order of the block list.

use super::emit::Emitter;
use super::mapped::Sent;
use super::metadata::Image;
use super::output::Output;
use super::plan::{Plan, Planned};
use super::ring::Ring;
use super::{read_metadata, wrong};
use crate::failure::Failure;
use crate::machine::{IoId, Lane};
use crate::pool::Pool;

/// Slices are read ahead while they hold less than this.
const READ_AHEAD_BYTES: usize = 16 << 20;
/// And while they are fewer than this: runs of zero pages hold nothing.
const READ_AHEAD_SLICES: usize = 64;
/// Output is handed out while less than this has not left: more would only wait in the driver.
const UNSENT_BYTES: u64 = 2 << 20;
/// RAM in the order of the block list.
#[derive(Debug)]
pub(crate) struct Precopy {
    pub(crate) emitter: Emitter,
    pub(crate) sent: Sent,
    plan: Plan,
    planned_all: bool,
    ring: Ring,
    pub(crate) done_pages: u64,
}

impl Precopy {
    /// Nothing is planned yet.
    pub(crate) fn new(emitter: Emitter, sent: Sent) -> Self {
        let (plan, ring) = (Plan::default(), Ring::default());
        Self { emitter, sent, plan, planned_all: false, ring, done_pages: 0 }
    }

    /// A read has ended: of which block, and from which offset.
    pub(crate) fn read_done(&mut self, id: IoId) -> Option<(usize, u64)> {
        self.ring.done(id)
    }

    /// Reads ahead, and hands out the next slice if it is there and the channel can take it.
    pub(crate) fn advance(
        &mut self,
        fresh_ram: bool,
        image: &mut Image,
        output: &mut Output,
        pool: &mut Pool,
    ) -> Result<bool, Failure> {
        let mut advanced = false;
        if !self.planned_all && pool.taken_bytes() < READ_AHEAD_BYTES && self.ring.len() < READ_AHEAD_SLICES {
            match self.plan.next(&self.sent, &mut image.reader, pool, &mut image.reads.ids).map_err(wrong)? {
                Planned::Slice(slice, read) => {
                    let (id, action) = read.unzip();
                    self.ring.push(slice, id);
                    output.actions.extend(action);
                    advanced = true;
                }
                Planned::Need(at, length) => {
                    advanced = read_metadata(&mut image.reads, at, length, output, pool)?
                }
                Planned::NoMemory(error) => return Err(error.into()),
                Planned::End => self.planned_all = true,
            }
        }
        if output.unsent_bytes(Lane::Main) < UNSENT_BYTES
            && let Some(slice) = self.ring.pop_ready()
        {
            // What is sent of a mapped block replaces a copy, which need not be zero.
            let fresh_ram = fresh_ram && !self.sent.is_mapped(slice.block);
            let result = self.emitter.slice(&slice, image.reader.layout(), fresh_ram, output, pool);
            if let Some(buffer) = slice.buffer {
                output.release(buffer, pool);
            }
            self.done_pages += slice.pages;
            result?;
            advanced = true;
        }
        Ok(advanced)
    }

    /// Every slice has been handed out.
    pub(crate) fn is_over(&self) -> bool {
        self.planned_all && self.ring.is_empty()
    }
}
