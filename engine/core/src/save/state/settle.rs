//! The states at the first device section: RAM is complete, and the input is not read.

use super::Advance;
use super::taking_tail::TakingTail;
use super::{Counts, State};
use crate::failure::{Doing, Failure};
use crate::ids::Ids;
use crate::machine::{Action, IoId};
use crate::memory;
use crate::pool::Pool;
use crate::save::could_not;
use crate::save::job::Job;
use crate::save::store::Store;
use crate::save::tail::Tail;
use crate::save::target::Way;
use snapshot_image::Reserved;

/// Every page is written.
#[derive(Debug)]
pub(in crate::save) struct Settling {
    store: Box<Store>,
    way: Way,
    /// Where the first device section is in the stream.
    tail_at: u64,
}

impl Settling {
    pub(in crate::save) fn new(store: Box<Store>, way: Way, tail_at: u64) -> Self {
        Self { store, way, tail_at }
    }

    pub(in crate::save) fn advance(mut self, job: &mut Job, pool: &mut Pool) -> Advance {
        if !self.store.is_idle() {
            return Advance::wait(State::Settling(self));
        }
        self.store.abandon(pool);
        if let Err(error) =
            memory::probe(self.store.reserve_bytes(&job.leader), "the VM state and its tables")
        {
            return Advance::fail(State::Settling(self), error.into());
        }
        let Self { store, way, tail_at } = self;
        let normal_pages = store.normal_pages;
        let layout = store.writer.layout();
        let counts = Counts { nonzero_pages: store.index.nonzero_pages(), normal_pages, layout };
        let vm_state = job.leader.vm_state(&job.decoder, normal_pages);
        match store.reserve(vm_state) {
            Ok((reserved, steps)) => {
                job.steps.start(steps);
                Advance::on(State::Reserving(Reserving { reserved, way, counts, tail_at }))
            }
            Err(error) => Advance::fail_without(could_not(error)),
        }
    }

    pub(in crate::save) fn poll(
        &mut self,
        pool: &mut Pool,
        ids: &mut Ids,
    ) -> Result<Option<Action>, Failure> {
        self.store.poll(pool, ids)
    }

    /// A completion, good or bad; false if the operation is no page's.
    pub(in crate::save) fn done(&mut self, id: IoId, pool: &mut Pool) -> bool {
        self.store.done(id, pool)
    }

    pub(in crate::save) fn into_store(self) -> Box<Store> {
        self.store
    }
}

/// The VM state's space is reserved by writing it, and all is made durable.
#[derive(Debug)]
pub(in crate::save) struct Reserving {
    reserved: Reserved,
    way: Way,
    counts: Counts,
    tail_at: u64,
}

impl Reserving {
    pub(in crate::save) fn advance(self, job: &mut Job) -> Advance {
        if !job.steps.is_done() {
            return Advance::wait(State::Reserving(self));
        }
        let action: fn(IoId) -> Action = match self.way {
            Way::InPlace => return Advance::on(self.taking_tail(job)),
            Way::Link => |id| Action::Link { id },
            Way::Replace => |id| Action::ProbeReplace { id },
        };
        let id = job.ids.next();
        job.actions.push_back(action(id));
        Advance::on(State::Claiming(Claiming { id, reserved: self }))
    }

    fn taking_tail(self, job: &Job) -> State {
        let tail = Tail::new(job.config.no_vmdesc, self.tail_at);
        State::TakingTail(TakingTail::new(self.reserved, self.way, self.counts, tail))
    }
}

/// The new file gets the image's name, or it is found out whether it can replace the image: what
/// can fail because of a name or a directory is to fail now, while the source still has bytes to
/// send.
#[derive(Debug)]
pub(in crate::save) struct Claiming {
    pub(in crate::save) id: IoId,
    reserved: Reserving,
}

impl Claiming {
    pub(in crate::save) fn claimed(self, job: &Job) -> State {
        self.reserved.taking_tail(job)
    }

    /// The operation has failed.
    pub(in crate::save) fn unclaimed(self) -> State {
        State::Reserving(self.reserved)
    }

    /// The new file will have the image's name, if the operation ends well.
    pub(in crate::save) fn links(&self) -> bool {
        self.reserved.way == Way::Link
    }

    pub(in crate::save) fn doing(&self) -> Doing {
        if self.links() { Doing::GiveName } else { Doing::ProbeReplace }
    }
}
