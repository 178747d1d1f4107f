//! After a panic.

use super::intake::{INPUT_BYTES, Intake};
use super::{Phase, SaveMachine};
use crate::failure::Failure;
use crate::pool::Pool;
use crate::steps::StepRunner;

impl SaveMachine {
    /// The machine panicked, and what it was told then is lost, a completion or bytes of the stream. Nothing is stored any more,
    /// and nothing understood: a live source is drained to its end.
    pub(super) fn broken(&mut self) {
        self.failure.get_or_insert(Failure::Panicked);
        self.lost = true;
        self.deferred = None;
        self.steps = StepRunner::default();
        // The driver waits for what is under way when it ends.
        self.in_flight = 0;
        let ended = self.intake.ended;
        self.intake = Intake::default();
        self.intake.ended = ended;
        self.ending = self.intake.ended || !self.config.live;
        self.phase = Phase::Stream;
    }

    /// Drops whatever comes, up to the end.
    pub(super) fn drop_all(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        if self.intake.is_reading() {
            return Ok(false);
        }
        if let Some((_, held)) = self.intake.held() {
            self.intake.consume(held.len());
        }
        if self.intake.ended {
            self.ending = true;
            return Ok(true);
        }
        self.refill(pool, 1, INPUT_BYTES)
    }
}
