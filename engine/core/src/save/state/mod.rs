//! The states of a save, a file for each step, and how one follows another.

pub(super) mod begin;
pub(super) mod commit;
pub(super) mod drain;
pub(super) mod ram;
pub(super) mod settle;
pub(super) mod taking_tail;

use crate::failure::Failure;
use crate::machine::{Action, IoId};
use crate::pool::Pool;
use crate::save::job::Job;
use crate::save::store::Store;
use begin::{Creating, Inspecting};
use commit::{Replacing, Sealing};
use drain::{Draining, Dropping, Left, Undoing};
use migration_stream::return_path::ReturnPathMessage;
use ram::{Preamble, Ram};
use settle::{Claiming, Reserving, Settling};
use snapshot_image::Layout;
use taking_tail::TakingTail;

/// Where a save is, with what belongs to that state only.
#[derive(Debug)]
pub(super) enum State {
    Inspecting(Inspecting),
    Creating(Creating),
    Preamble(Preamble),
    Ram(Ram),
    Settling(Settling),
    Reserving(Reserving),
    Claiming(Claiming),
    TakingTail(TakingTail),
    Sealing(Sealing),
    Replacing(Replacing),
    Draining(Draining),
    Dropping(Dropping),
    Undoing(Undoing),
    Answering(Answering),
    /// How it ended.
    Finished(Result<Counts, Failure>),
    /// While the state goes on; afterwards only if that panicked.
    Moved {
        /// The new file has the image's name.
        named: bool,
        /// The save had failed.
        failure: Option<Failure>,
    },
}

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// Pages in the image; all others are zero.
    pub(super) nonzero_pages: u64,
    /// PAGE records, repeats counted.
    pub(super) normal_pages: u64,
    /// How RAM lies in the image.
    pub(super) layout: Layout,
}

/// What came of going on: the state now, and whether something can be done without waiting.
#[derive(Debug)]
pub(super) struct Advance {
    pub(super) state: State,
    pub(super) result: Result<bool, Failure>,
}

impl Advance {
    /// It may go on at once.
    pub(super) fn on(state: State) -> Self {
        Self { state, result: Ok(true) }
    }

    /// Only an event can help.
    pub(super) fn wait(state: State) -> Self {
        Self { state, result: Ok(false) }
    }

    /// Something went wrong in this state.
    pub(super) fn fail(state: State, failure: Failure) -> Self {
        Self { state, result: Err(failure) }
    }

    /// Something went wrong and there is nothing to be taken back; the source may have to be drained.
    pub(super) fn fail_without(failure: Failure) -> Self {
        Self::fail(State::Draining(Draining { failure: failure.clone(), store: None }), failure)
    }

    /// Something went wrong where the source is not drained any more, and this is to be taken back.
    pub(super) fn fail_leaving(failure: Failure, left: Left) -> Self {
        Self::fail(State::Undoing(Undoing { failure: failure.clone(), store: None, left }), failure)
    }
}

/// Everything is durable, or taken back; the answer is on its way to the source.
#[derive(Debug)]
pub(super) struct Answering {
    result: Result<Counts, Failure>,
}

impl Answering {
    pub(super) fn new(result: Result<Counts, Failure>, job: &mut Job) -> Self {
        job.tell(&ReturnPathMessage::Shut(u32::from(result.is_err())));
        Self { result }
    }

    fn advance(self, job: &mut Job) -> Advance {
        if job.unsent_bytes > 0 {
            return Advance::wait(State::Answering(self));
        }
        job.actions.push_back(Action::Finish);
        Advance::on(State::Finished(self.result))
    }
}

impl State {
    /// Goes on as far as possible without waiting.
    pub(super) fn advance(self, job: &mut Job, pool: &mut Pool) -> Advance {
        match self {
            Self::Inspecting(state) => state.advance(job, pool),
            Self::Creating(state) => state.advance(job),
            Self::Preamble(state) => state.advance(job, pool),
            Self::Ram(state) => state.advance(job, pool),
            Self::Settling(state) => state.advance(job, pool),
            Self::Reserving(state) => state.advance(job),
            Self::TakingTail(state) => state.advance(job, pool),
            Self::Sealing(state) => state.advance(job),
            Self::Draining(state) => state.advance(job, pool),
            Self::Dropping(state) => state.advance(job, pool),
            Self::Undoing(state) => state.advance(job, pool),
            Self::Answering(state) => state.advance(job),
            waits @ (Self::Claiming(_) | Self::Replacing(_) | Self::Finished(_) | Self::Moved { .. }) => {
                Advance::wait(waits)
            }
        }
    }

    /// Takes the state for a moment.
    pub(super) fn take(&mut self) -> Self {
        let named = match self {
            Self::TakingTail(state) => state.is_named(),
            Self::Moved { named, .. } => *named,
            Self::Dropping(state) => state.is_named(),
            Self::Undoing(state) => matches!(state.left, Left::Name(_)),
            _ => false,
        };
        let failure = self.failure().cloned();
        std::mem::replace(self, Self::Moved { named, failure })
    }

    /// The next disk operation: pages before anything else.
    pub(super) fn poll_disk(&mut self, job: &mut Job, pool: &mut Pool) -> Result<Option<Action>, Failure> {
        if self.failure().is_some() {
            return Ok(None);
        }
        let page = match self {
            Self::Ram(state) => state.poll(pool, &mut job.ids)?,
            Self::Settling(state) => state.poll(pool, &mut job.ids)?,
            _ => None,
        };
        match page {
            Some(action) => Ok(Some(action)),
            None => Ok(job.steps.poll(pool, &mut job.ids)?),
        }
    }

    /// The operation of a page has ended; false if it is none.
    pub(super) fn page_done(&mut self, id: IoId, pool: &mut Pool) -> bool {
        match self {
            Self::Ram(state) => state.done(id, pool),
            Self::Settling(state) => state.done(id, pool),
            Self::Draining(state) => state.store.as_mut().is_some_and(|store| store.done(id, pool)),
            _ => false,
        }
    }

    /// Why the save has failed, if it has.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Draining(state) => Some(&state.failure),
            Self::Dropping(state) => Some(state.failure()),
            Self::Undoing(state) => Some(&state.failure),
            Self::Answering(Answering { result }) | Self::Finished(result) => result.as_ref().err(),
            Self::Moved { failure, .. } => failure.as_ref(),
            _ => None,
        }
    }

    /// The state after a failure: nothing more is stored. The first failure is the one that is reported.
    pub(super) fn failed(self, failure: Failure, job: &Job, pool: &mut Pool) -> Self {
        let drains = !job.cannot_drain(&failure);
        let store = |store: Box<Store>, pool: &mut Pool| {
            let mut store = store;
            store.abandon(pool);
            Some(store)
        };
        let (store, drains, left) = match self {
            Self::Inspecting(_) | Self::Creating(_) | Self::Preamble(_) => (None, drains, Left::Nothing),
            Self::Ram(state) => (store(state.into_store(), pool), drains, Left::Nothing),
            Self::Settling(state) => (store(state.into_store(), pool), false, Left::Nothing),
            Self::Claiming(state) if state.links() => (None, false, Left::Claim(state.id)),
            Self::Reserving(_) | Self::Claiming(_) | Self::Replacing(_) => (None, false, Left::Nothing),
            Self::TakingTail(state) => (None, false, state.left()),
            Self::Sealing(state) => (None, false, state.left()),
            Self::Moved { named, .. } => (None, false, if named { Left::Name(None) } else { Left::Nothing }),
            Self::Draining(state) if !drains => return Self::Undoing(state.undo()),
            Self::Dropping(state) if !drains => return Self::Undoing(state.undo()),
            decided @ (Self::Draining(_)
            | Self::Dropping(_)
            | Self::Undoing(_)
            | Self::Answering(_)
            | Self::Finished(_)) => return decided,
        };
        match drains {
            true => Self::Draining(Draining { failure, store }),
            false => Self::Undoing(Undoing { failure, store, left }),
        }
    }

    /// The state after a panic.
    pub(super) fn broken(self, job: &mut Job) -> Self {
        let failure = self.failure().cloned().unwrap_or(Failure::Panicked);
        let left = match self {
            Self::TakingTail(state) => state.left(),
            Self::Sealing(state) => state.left(),
            Self::Moved { named: true, .. } => Left::Name(None),
            Self::Dropping(state) => state.undo().left,
            Self::Undoing(state) => state.left,
            _ => Left::Nothing,
        };
        let dropping = Dropping::new(failure, left, job);
        match job.intake.ended || !job.config.live {
            true => Self::Undoing(dropping.undo()),
            false => Self::Dropping(dropping),
        }
    }

    /// What has begun to commit cannot be called back: how it ends is how it is reported.
    pub(super) fn is_committing(&self, job: &Job) -> bool {
        match self {
            Self::Replacing(_) | Self::Answering(_) | Self::Finished(_) => true,
            Self::Sealing(state) => state.is_committing(job),
            _ => false,
        }
    }

    /// As [`Progress`](crate::Progress) names it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Finished(_) => "end",
            _ if self.failure().is_some() => "drain",
            Self::Inspecting(_) => "inspect",
            Self::Creating(_) => "create",
            Self::Preamble(_) | Self::Ram(_) | Self::Moved { .. } => "stream",
            Self::Settling(_) | Self::Reserving(_) | Self::Claiming(_) => "settle",
            Self::TakingTail(_) => "devices",
            Self::Sealing(_) => "seal",
            Self::Replacing(_) => "replace",
            Self::Answering(_) => "answer",
            Self::Draining(_) | Self::Dropping(_) | Self::Undoing(_) => "drain",
        }
    }
}
