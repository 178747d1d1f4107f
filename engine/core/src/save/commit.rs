//! The end of a save, well or not: the new file gets its name, the old snapshot is replaced, or what was begun is undone.

use super::target::Way;
use super::{Phase, SaveMachine};
use crate::failure::Doing;
use crate::machine::Action;

/// What a failed save would leave behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing that could pass for a snapshot.
    Nothing,
    /// The new file under the image's name.
    Name,
    /// A file that may say that it is complete, and cannot be removed.
    Seal,
}

impl SaveMachine {
    /// RAM and its tables are durable. What can fail because of a name or a directory is to fail now, while the source still
    /// has bytes to send.
    pub(super) fn claim_name(&mut self) {
        let id = match self.way {
            Way::InPlace => {
                self.phase = Phase::Tail;
                return;
            }
            Way::Link | Way::Replace => self.ids.next(),
        };
        self.actions.push_back(match self.way {
            Way::Replace => Action::ProbeReplace { id },
            Way::InPlace | Way::Link => Action::Link { id },
        });
        self.phase = Phase::Claim(id);
    }

    /// The name is claimed, or could not be.
    pub(super) fn claimed(&mut self, well: bool) -> Doing {
        if well {
            self.phase = Phase::Tail;
        }
        match self.way {
            Way::Replace => Doing::ProbeReplace,
            Way::InPlace | Way::Link => {
                self.left = if well { Left::Name } else { Left::Nothing };
                Doing::GiveName
            }
        }
    }

    /// The stream was whole, and the seal is about to be written.
    pub(super) fn begin_seal(&mut self) {
        if self.way == Way::InPlace {
            self.left = Left::Seal;
        }
        self.phase = Phase::Seal;
    }

    /// Everything is written and durable.
    pub(super) fn sealed(&mut self) {
        if self.way == Way::Replace {
            let id = self.ids.next();
            self.actions.push_back(Action::Replace { id });
            self.phase = Phase::Replace(id);
        } else {
            self.answer(0);
        }
    }

    /// The operation that makes the snapshot one may be under way.
    pub(super) fn is_committing(&self) -> bool {
        match self.phase {
            Phase::Replace(_) | Phase::Answer | Phase::Finished => true,
            Phase::Seal => self.way != Way::Replace && self.steps.flushes() > 0,
            _ => false,
        }
    }

    /// The save has failed, and nothing is under way: the next thing that takes back what it has done, or the answer.
    pub(super) fn undo(&mut self) {
        match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::Nothing => self.answer(1),
            Left::Name => {
                let id = self.ids.next();
                self.actions.push_back(Action::Unlink { id });
                self.phase = Phase::Unlink(id);
            }
            Left::Seal => {
                if let Some(sealed) = self.sealed.take() {
                    self.steps.start(sealed.unseal());
                }
            }
        }
    }
}
