//! The states at the end of a save that went well.

use super::drain::Left;
use super::{Advance, Answering};
use super::{Counts, State};
use crate::machine::{Action, IoId};
use crate::save::job::Job;
use crate::save::target::Way;
use snapshot_image::Sealed;

/// Tail, root and headers are written; the commit protocol is the image's.
#[derive(Debug)]
pub(in crate::save) struct Sealing {
    sealed: Sealed,
    way: Way,
    counts: Counts,
}

impl Sealing {
    pub(in crate::save) fn new(sealed: Sealed, way: Way, counts: Counts) -> Self {
        Self { sealed, way, counts }
    }

    pub(in crate::save) fn advance(self, job: &mut Job) -> Advance {
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
    pub(in crate::save) fn is_committing(&self, job: &Job) -> bool {
        self.way != Way::Replace && job.steps.flushes() > 0
    }

    /// What is to be taken back if the save fails now.
    pub(in crate::save) fn left(self) -> Left {
        match self.way {
            Way::InPlace => Left::Seal(self.sealed),
            Way::Link => Left::Name(Some(self.sealed)),
            Way::Replace => Left::Nothing,
        }
    }
}

/// The new file, which is sealed, replaces the old snapshot.
#[derive(Debug)]
pub(in crate::save) struct Replacing {
    pub(in crate::save) id: IoId,
    pub(in crate::save) counts: Counts,
}
