//! Ends the wait for a peer that says nothing.

use crate::machine::Action;

/// Watches whether anything was heard from the peer within a given time.
#[derive(Debug)]
pub(crate) struct Watch {
    timeout_ms: Option<u64>,
    /// When the present wait is over; none before the first tick.
    deadline_ms: Option<u64>,
    heard: bool,
}

impl Watch {
    pub(crate) fn new(timeout_ms: Option<u64>) -> Self {
        Self { timeout_ms, deadline_ms: None, heard: false }
    }

    /// The peer did something.
    pub(crate) fn heard(&mut self) {
        self.heard = true;
    }

    /// When to look again.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// The clock says `now_ms`; `waiting` is whether it is the peer's turn. Returns when to look again.
    ///
    /// # Errors
    ///
    /// The peer was silent for so many seconds.
    pub(crate) fn tick(&mut self, now_ms: u64, waiting: bool) -> Result<Option<Action>, u64> {
        let Some(timeout_ms) = self.timeout_ms else { return Ok(None) };
        match self.deadline_ms {
            Some(deadline) if now_ms < deadline => return Ok(None),
            Some(_) if waiting && !self.heard => return Err(timeout_ms / 1000),
            _ => {}
        }
        self.heard = false;
        let deadline = now_ms + timeout_ms;
        self.deadline_ms = Some(deadline);
        Ok(Some(Action::WakeAt { tick_ms: Some(deadline) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_noticed_and_a_slow_one_is_not() {
        let mut watch = Watch::new(Some(1000));
        assert_eq!(watch.tick(5, true).unwrap(), Some(Action::WakeAt { tick_ms: Some(1005) }));
        watch.heard();
        assert_eq!(watch.tick(1005, true).unwrap(), Some(Action::WakeAt { tick_ms: Some(2005) }));
        assert_eq!(watch.tick(2004, true).unwrap(), None);
        assert_eq!(watch.tick(2005, false).unwrap(), Some(Action::WakeAt { tick_ms: Some(3005) }));
        assert_eq!(watch.tick(3005, true), Err(1));
    }
}
