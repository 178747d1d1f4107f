//! The states at the end of a save that went well.

use super::State;
use super::drain::Left;
use super::job::Job;
use super::settle::Counts;
use super::state::{Advance, Answering};
use super::target::Way;
use crate::machine::{Action, IoId};
use snapshot_image::Sealed;

/// Tail, root and headers are written; the commit protocol is the image's.
#[derive(Debug)]
pub(super) struct Sealing {
    sealed: Sealed,
    way: Way,
    counts: Counts,
}

impl Sealing {
    pub(super) fn new(sealed: Sealed, way: Way, counts: Counts) -> Self {
        Self { sealed, way, counts }
    }

    pub(super) fn advance(self, job: &mut Job) -> Advance {
        if !job.steps.is_done() {
            return Advance::wait(State::Sealing(self));
        }
        if self.way == Way::Replace {
            let id = job.ids.next();
            job.actions.push_back(Action::Replace { id });
            return Advance::on(State::Replacing(Replacing { id, counts: self.counts }));
        }
        Advance::on(State::Answering(Answering::new(Ok(self.counts), job)))
    }

    /// The operation that makes the snapshot one may be under way.
    pub(super) fn is_committing(&self, job: &Job) -> bool {
        self.way != Way::Replace && job.steps.flushes() > 0
    }

    /// What is to be taken back if the save fails now.
    pub(super) fn left(self) -> Left {
        match self.way {
            Way::InPlace => Left::Seal(self.sealed),
            Way::Link => Left::Name(Some(self.sealed)),
            Way::Replace => Left::Nothing,
        }
    }
}

/// The new file, which is sealed, replaces the old snapshot.
#[derive(Debug)]
pub(super) struct Replacing {
    pub(super) id: IoId,
    pub(super) counts: Counts,
}
