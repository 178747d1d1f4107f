//! The states before a byte of the stream is read.

use super::Advance;
use super::State;
use super::ram::Preamble;
use crate::machine::{Action, Completed, IoId};
use crate::pool::Pool;
use crate::save::job::Job;
use crate::save::target::{Found, NewFile, Target, TargetFinder};

/// The image is inspected: is there something that must not be overwritten?
#[derive(Debug)]
pub(in crate::save) struct Inspecting {
    finder: Box<TargetFinder>,
}

impl Inspecting {
    pub(in crate::save) fn new(finder: TargetFinder) -> Self {
        Self { finder: Box::new(finder) }
    }

    pub(in crate::save) fn advance(mut self, job: &mut Job, pool: &mut Pool) -> Advance {
        match self.finder.poll(pool, &mut job.ids) {
            Ok(Some(Found::Action(action))) => {
                job.actions.push_back(action);
                Advance::on(State::Inspecting(self))
            }
            Ok(Some(Found::Target(Target::NewFile(new)))) => Advance::on(State::Creating(Creating::new(new))),
            Ok(Some(Found::Target(target))) => Advance::on(State::Preamble(Preamble::new(target))),
            Ok(None) => Advance::wait(State::Inspecting(self)),
            Err(failure) => Advance::fail(State::Inspecting(self), failure),
        }
    }

    pub(in crate::save) fn done(&mut self, id: IoId, completed: Option<Completed>, pool: &mut Pool) {
        self.finder.done(id, completed, pool);
    }
}

/// A new file is created, in which the snapshot goes.
#[derive(Debug)]
pub(in crate::save) struct Creating {
    new: NewFile,
    /// The operation, once it is under way.
    pub(in crate::save) id: Option<IoId>,
}

impl Creating {
    pub(in crate::save) fn new(new: NewFile) -> Self {
        Self { new, id: None }
    }

    pub(in crate::save) fn advance(mut self, job: &mut Job) -> Advance {
        if self.id.is_some() {
            return Advance::wait(State::Creating(self));
        }
        let id = job.ids.next();
        self.id = Some(id);
        job.actions.push_back(Action::CreateTemporary { id });
        Advance::on(State::Creating(self))
    }

    /// The file is there.
    pub(in crate::save) fn created(self) -> State {
        State::Preamble(Preamble::new(Target::NewFile(self.new)))
    }
}
