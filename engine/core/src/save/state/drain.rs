//! The states after a failure: the source is drained, and what the save has left is taken back.
//!
//! QEMU never looks at an exit status, and 7.2 freezes the guest if the reader dies in the middle
//! of a background snapshot. So a live stream is understood and dropped up to the first device
//! section, where the end of this machine makes the source's migration fail and does not hurt its
//! guest.

use super::State;
use super::{Advance, Answering};
use crate::failure::Failure;
use crate::machine::{Action, IoId};
use crate::pool::Pool;
use crate::save::intake::{INPUT_BYTES, Intake};
use crate::save::job::Job;
use crate::save::store::Store;
use crate::save::stream::Read;
use crate::save::target::Way;
use crate::steps::StepRunner;
use snapshot_image::Sealed;

/// What a failed save would leave behind.
#[derive(Debug)]
pub(in crate::save) enum Left {
    /// Nothing that could pass for a snapshot.
    Nothing,
    /// The new file may get the image's name by this operation.
    Claim(IoId),
    /// The new file under the image's name; and how to unseal it, where it may be sealed.
    Name(Option<Sealed>),
    /// The name is being taken away.
    Unlinking(IoId, Option<Sealed>),
    /// A file that may say that it is complete, and cannot be removed.
    Seal(Sealed),
}

impl Left {
    /// Of a save whose seal has not begun.
    pub(in crate::save) fn name_of(way: Way) -> Self {
        match way {
            Way::Link => Self::Name(None),
            Way::InPlace | Way::Replace => Self::Nothing,
        }
    }

    /// Whatever is under way is not heard of any more.
    fn settled(self) -> Self {
        match self {
            Self::Claim(_) | Self::Unlinking(..) => Self::Nothing,
            other => other,
        }
    }
}

/// A live source is drained.
#[derive(Debug)]
pub(in crate::save) struct Draining {
    pub(in crate::save) failure: Failure,
    /// For pages that are in the hands of the disk.
    pub(in crate::save) store: Option<Box<Store>>,
}

impl Draining {
    pub(in crate::save) fn advance(self, job: &mut Job, pool: &mut Pool) -> Advance {
        match job.read_records(pool, true, |_, _, _| Ok(true)) {
            Ok(Read::Wait) => Advance::wait(State::Draining(self)),
            Ok(Read::On | Read::Blocks(_)) => Advance::on(State::Draining(self)),
            // Without memory to drain the source nothing is left to be done for it.
            Ok(Read::DeviceSections { .. } | Read::NoMemory) => Advance::on(State::Undoing(self.undo())),
            Err(failure) => Advance::fail(State::Draining(self), failure),
        }
    }

    pub(in crate::save) fn undo(self) -> Undoing {
        Undoing { failure: self.failure, store: self.store, left: Left::Nothing }
    }
}

/// The machine panicked, and the event of that moment is lost, a completion or bytes of the stream.
/// Nothing is stored any more, and nothing understood: a live source is drained to its end.
#[derive(Debug)]
pub(in crate::save) struct Dropping {
    failure: Failure,
    left: Left,
}

impl Dropping {
    pub(in crate::save) fn new(failure: Failure, left: Left, job: &mut Job) -> Self {
        job.steps = StepRunner::default();
        // The driver waits for what is under way when it ends.
        job.in_flight = 0;
        let ended = job.intake.ended;
        job.intake = Intake::default();
        job.intake.ended = ended;
        Self { failure, left: left.settled() }
    }

    /// Drops whatever comes, up to the end.
    pub(in crate::save) fn advance(self, job: &mut Job, pool: &mut Pool) -> Advance {
        if job.intake.is_reading() {
            return Advance::wait(State::Dropping(self));
        }
        if let Some((_, held)) = job.intake.held() {
            job.intake.consume(held.len());
        }
        if job.intake.ended || job.refill(pool, 1, INPUT_BYTES).is_err() {
            return Advance::on(State::Undoing(self.undo()));
        }
        Advance::wait(State::Dropping(self))
    }

    pub(in crate::save) fn is_named(&self) -> bool {
        matches!(self.left, Left::Name(_))
    }

    pub(in crate::save) fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(in crate::save) fn undo(self) -> Undoing {
        Undoing { failure: self.failure, store: None, left: self.left }
    }
}

/// What is under way is waited for, and what the save has left is taken back.
#[derive(Debug)]
pub(in crate::save) struct Undoing {
    pub(in crate::save) failure: Failure,
    /// For pages that are in the hands of the disk.
    pub(in crate::save) store: Option<Box<Store>>,
    pub(in crate::save) left: Left,
}

impl Undoing {
    pub(in crate::save) fn advance(mut self, job: &mut Job, pool: &mut Pool) -> Advance {
        if let Some(action) = job.steps.poll(pool, &mut job.ids).ok().flatten() {
            job.actions.push_back(action);
            return Advance::on(State::Undoing(self));
        }
        if job.in_flight > 0 {
            return Advance::wait(State::Undoing(self));
        }
        self.left = match self.left.settled() {
            Left::Name(sealed) => {
                let id = job.ids.next();
                job.actions.push_back(Action::Unlink { id });
                Left::Unlinking(id, sealed)
            }
            Left::Seal(sealed) => {
                job.steps.start(sealed.unseal());
                Left::Nothing
            }
            _ => return Advance::on(State::Answering(Answering::new(Err(self.failure), job))),
        };
        Advance::on(State::Undoing(self))
    }

    /// An operation has ended.
    pub(in crate::save) fn done(&mut self, id: IoId, well: bool, job: &mut Job, pool: &mut Pool) {
        let left = std::mem::replace(&mut self.left, Left::Nothing);
        self.left = match left {
            Left::Claim(claim) if claim == id => {
                if well {
                    Left::Name(None)
                } else {
                    Left::Nothing
                }
            }
            // Then at least nothing may take the file for a snapshot.
            Left::Unlinking(unlink, Some(sealed)) if unlink == id && !well => Left::Seal(sealed),
            Left::Unlinking(unlink, _) if unlink == id => Left::Nothing,
            left => {
                if !self.store.as_mut().is_some_and(|store| store.done(id, pool)) {
                    job.steps.done(id, well, pool);
                }
                left
            }
        };
    }
}
