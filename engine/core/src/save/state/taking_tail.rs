//! The state in which the device tail arrives.

use super::Advance;
use super::commit::Sealing;
use super::drain::Left;
use super::{Counts, State};
use crate::failure::Failure;
use crate::memory;
use crate::pool::Pool;
use crate::save::could_not;
use crate::save::job::Job;
use crate::save::tail::{TAIL_READ_BYTES, Tail};
use crate::save::target::Way;
use crate::size::to_usize;
use snapshot_image::Reserved;

/// Memory that verifying a tail takes, for each of its bytes.
const PARSED_VMDESC: usize = 8;

/// Device sections, EOF and vmdesc are collected, and verified when the stream ends.
#[derive(Debug)]
pub(in crate::save) struct TakingTail {
    reserved: Reserved,
    way: Way,
    counts: Counts,
    tail: Tail,
}

/// What came of it.
enum Taken {
    Wait,
    On,
    /// It is whole, and verified.
    Whole,
}

impl TakingTail {
    pub(in crate::save) fn new(reserved: Reserved, way: Way, counts: Counts, tail: Tail) -> Self {
        Self { reserved, way, counts, tail }
    }

    pub(in crate::save) fn advance(mut self, job: &mut Job, pool: &mut Pool) -> Advance {
        match self.take(job, pool) {
            Ok(Taken::Wait) => Advance::wait(State::TakingTail(self)),
            Ok(Taken::On) => Advance::on(State::TakingTail(self)),
            Ok(Taken::Whole) => self.seal(job),
            Err(failure) => Advance::fail(State::TakingTail(self), failure),
        }
    }

    fn take(&mut self, job: &mut Job, pool: &mut Pool) -> Result<Taken, Failure> {
        if !job.steps.is_done() || job.intake.is_reading() {
            return Ok(Taken::Wait);
        }
        if let Some((input, held)) = job.intake.held() {
            self.tail.push(&pool.bytes(input)[held.clone()])?;
            job.intake.consume(held.len());
        }
        if job.intake.ended || (job.return_path && self.tail.looks_whole()) {
            // The vmdesc as a tree takes about so many times its length.
            memory::probe(self.tail.bytes.len() * PARSED_VMDESC, "the vmdesc")?;
            self.tail.verify(&job.decoder)?;
            memory::probe(self.tail.bytes.len() * 2, "the device sections on their way to the image")?;
            return Ok(Taken::Whole);
        }
        if let Some(capacity) = self.tail.missing_capacity() {
            memory::probe(to_usize(capacity), "room for the device sections")?;
            self.tail.capacity = capacity;
            job.steps.start(self.reserved.grow_tail(capacity).map_err(could_not)?);
            return Ok(Taken::On);
        }
        job.refill(pool, 1, TAIL_READ_BYTES)?;
        Ok(Taken::Wait)
    }

    fn seal(self, job: &mut Job) -> Advance {
        match self.reserved.seal(&self.tail.bytes) {
            Ok((sealed, steps)) => {
                job.steps.start(steps);
                Advance::on(State::Sealing(Sealing::new(sealed, self.way, self.counts)))
            }
            Err(error) => Advance::fail_leaving(could_not(error), Left::name_of(self.way)),
        }
    }

    /// The new file has the image's name.
    pub(in crate::save) fn is_named(&self) -> bool {
        self.way == Way::Link
    }

    /// What is to be taken back if the save fails now.
    pub(in crate::save) fn left(self) -> Left {
        Left::name_of(self.way)
    }
}
