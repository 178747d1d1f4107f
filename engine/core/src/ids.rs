//! Names for operations under way.

use crate::machine::IoId;

/// Hands out every [`IoId`] of one machine, each once.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    next: u64,
}

impl Ids {
    pub(crate) fn next(&mut self) -> IoId {
        self.next += 1;
        IoId(self.next)
    }
}
