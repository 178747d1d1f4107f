//! The destination's side of postcopy, as a state machine (`enum PostcopyState`, migration/postcopy-ram.h,
//! and the `loadvm_postcopy_handle_*` functions of migration/savevm.c).

use crate::command::Command;
use crate::prelude::*;
use core::fmt;

/// How far a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum IncomingState {
    /// Precopy, and postcopy was not announced.
    None,
    /// Postcopy may follow.
    Advise,
    /// Pages that will come again are being thrown away.
    Discard,
    /// Pages are placed one by one, missing ones requested; the package is being loaded.
    Listening,
    /// The guest runs.
    Running,
    /// Everything has come.
    End,
}

impl fmt::Display for IncomingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "NONE",
            Self::Advise => "ADVISE",
            Self::Discard => "DISCARD",
            Self::Listening => "LISTENING",
            Self::Running => "RUNNING",
            Self::End => "END",
        })
    }
}

/// Something came that may not come now. A QEMU destination fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} in state {state}{}", if .why.is_empty() { String::new() } else { format!(": {why}") })]
pub struct OutOfOrder {
    /// What came.
    pub what: &'static str,
    /// The state.
    pub state: IncomingState,
    /// The rule, where the state alone does not say it.
    pub why: &'static str,
}

/// The state of a destination.
#[derive(Debug, Clone)]
pub struct Incoming {
    state: IncomingState,
    return_path: bool,
    /// ADVISE had page sizes: RAM comes in postcopy, too.
    ram: bool,
    eof: bool,
    paused: bool,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { state: IncomingState::None, return_path: false, ram: false, eof: false, paused: false }
    }
}

impl Incoming {
    /// How far it is.
    #[must_use]
    pub fn state(&self) -> IncomingState {
        self.state
    }

    /// The source has opened the return path.
    #[must_use]
    pub fn has_return_path(&self) -> bool {
        self.return_path
    }

    /// The main channel broke while the guest ran, and no other has resumed yet.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Pages are placed one by one.
    #[must_use]
    pub fn is_postcopy(&self) -> bool {
        matches!(self.state, IncomingState::Listening | IncomingState::Running)
    }

    fn refuse(&self, what: &'static str, why: &'static str) -> OutOfOrder {
        OutOfOrder { what, state: self.state, why }
    }

    /// Takes a command; `packaged` is whether it stood in a package.
    ///
    /// # Errors
    ///
    /// It may not come now.
    pub fn command(&mut self, command: &Command<'_>, packaged: bool) -> Result<(), OutOfOrder> {
        use IncomingState as S;
        match (command, self.state) {
            // A second one only makes QEMU warn.
            (Command::OpenReturnPath, _) => self.return_path = true,
            (Command::Ping(_), _) if self.return_path => {}
            (Command::Ping(_), _) => return Err(self.refuse("PING", "there is no return path")),
            (Command::PostcopyAdvise(advise), S::None) => {
                self.ram = advise.is_some();
                self.state = S::Advise;
            }
            (Command::PostcopyAdvise(_), _) => return Err(self.refuse("POSTCOPY_ADVISE", "")),
            (Command::PostcopyRamDiscard { .. }, S::Advise | S::Discard) => self.state = S::Discard,
            (Command::PostcopyRamDiscard { .. }, _) => {
                return Err(self.refuse("POSTCOPY_RAM_DISCARD", ""));
            }
            // QEMU prepares the discards here if none has come, which sets the state back: RUN is refused
            // then.
            (Command::PostcopyListen, S::Advise) if self.ram => self.state = S::Discard,
            (Command::PostcopyListen, S::Advise | S::Discard) => self.state = S::Listening,
            (Command::PostcopyListen, _) => return Err(self.refuse("POSTCOPY_LISTEN", "")),
            (Command::PostcopyRun, S::Listening) => {
                self.state = if self.eof { S::End } else { S::Running };
            }
            (Command::PostcopyRun, S::Discard) => {
                return Err(self.refuse("POSTCOPY_RUN", "no RAM was discarded before LISTEN"));
            }
            (Command::PostcopyRun, _) => return Err(self.refuse("POSTCOPY_RUN", "")),
            // Its length and bytes would be read from the main channel: the destination hangs.
            (Command::Packaged(_), _) if packaged => {
                return Err(self.refuse("PACKAGED", "it is inside a package"));
            }
            (Command::Packaged(_) | Command::SwitchoverStart | Command::EnableColo, _) => {}
            (Command::RecvBitmap(_), S::Running) if self.paused => {}
            (Command::RecvBitmap(_), _) => return Err(self.refuse("RECV_BITMAP", "postcopy is not paused")),
            // Anywhere else QEMU ignores it with a message.
            (Command::PostcopyResume, _) => self.paused = false,
        }
        Ok(())
    }

    /// A page, zero or with its content. Others cannot be placed in postcopy: `plain` is false for them.
    ///
    /// # Errors
    ///
    /// It may not come now.
    pub fn page(&self, plain: bool) -> Result<(), OutOfOrder> {
        match self.state {
            _ if self.paused => Err(self.refuse("a page", "postcopy is paused")),
            IncomingState::End => Err(self.refuse("a page", "")),
            IncomingState::Listening | IncomingState::Running if !plain => {
                Err(self.refuse("a compressed page", "postcopy places whole pages"))
            }
            _ => Ok(()),
        }
    }

    /// The end mark, of the main channel in postcopy.
    ///
    /// # Errors
    ///
    /// It may not come now.
    pub fn end_of_stream(&mut self, packaged: bool) -> Result<(), OutOfOrder> {
        if packaged {
            return Err(self.refuse("the end mark", "it is inside a package"));
        }
        match self.state {
            // The listen thread is done before the package is loaded.
            IncomingState::Listening if !self.eof => self.eof = true,
            IncomingState::Running | IncomingState::None | IncomingState::Advise => {
                self.state = IncomingState::End;
            }
            _ => return Err(self.refuse("the end mark", "")),
        }
        Ok(())
    }

    /// The main channel broke. True if the destination waits for a new one; false if it ends.
    pub fn broken(&mut self) -> bool {
        self.paused = self.state == IncomingState::Running;
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{DiscardRange, PostcopyAdvise};

    const ADVISE: Command<'static> =
        Command::PostcopyAdvise(Some(PostcopyAdvise { page_size_summary: 4096, target_page_size: 4096 }));

    fn discard() -> Command<'static> {
        Command::PostcopyRamDiscard { block: b"a", ranges: vec![DiscardRange { start: 0, length: 4096 }] }
    }

    fn run(commands: &[Command<'_>]) -> Result<IncomingState, String> {
        let mut incoming = Incoming::default();
        for command in commands {
            incoming.command(command, false).map_err(|error| error.to_string())?;
        }
        Ok(incoming.state())
    }

    #[test]
    fn the_usual_order_is_accepted() {
        let mut incoming = Incoming::default();
        incoming.page(false).unwrap();
        assert!(!incoming.has_return_path());
        for (command, state, postcopy) in [
            (ADVISE, "ADVISE", false),
            (Command::OpenReturnPath, "ADVISE", false),
            (Command::Packaged(&[]), "ADVISE", false),
            (discard(), "DISCARD", false),
            (discard(), "DISCARD", false),
            (Command::PostcopyListen, "LISTENING", true),
            (Command::Ping(3), "LISTENING", true),
            (Command::PostcopyRun, "RUNNING", true),
        ] {
            incoming.command(&command, false).unwrap();
            assert_eq!((&incoming.state().to_string()[..], incoming.is_postcopy()), (state, postcopy));
        }
        assert!(incoming.has_return_path());
        incoming.page(true).unwrap();
        assert!(incoming.page(false).is_err());
        incoming.end_of_stream(false).unwrap();
        assert_eq!((&incoming.state().to_string()[..], incoming.is_postcopy()), ("END", false));
        assert!(incoming.page(true).is_err());
    }

    #[test]
    fn bitmaps_are_asked_for_in_a_pause_only() {
        let running =
            [ADVISE, discard(), Command::PostcopyListen, Command::PostcopyRun, Command::RecvBitmap(b"a")];
        assert!(run(&running).unwrap_err().contains("postcopy is not paused"), "{:?}", run(&running));
    }

    #[test]
    fn the_end_mark_may_overtake_run() {
        let mut incoming = Incoming::default();
        for command in [ADVISE, discard(), Command::PostcopyListen] {
            incoming.command(&command, false).unwrap();
        }
        incoming.end_of_stream(false).unwrap();
        assert_eq!(incoming.state(), IncomingState::Listening);
        assert!(incoming.end_of_stream(false).is_err());
        incoming.command(&Command::PostcopyRun, true).unwrap();
        assert_eq!(incoming.state(), IncomingState::End);
    }

    #[test]
    fn what_qemu_refuses_is_refused() {
        let check = |commands: &[Command<'_>], expected: &str| {
            assert_eq!(run(commands).unwrap_err(), expected);
        };
        check(&[Command::Ping(1)], "PING in state NONE: there is no return path");
        check(&[discard()], "POSTCOPY_RAM_DISCARD in state NONE");
        check(&[ADVISE, ADVISE], "POSTCOPY_ADVISE in state ADVISE");
        check(&[Command::PostcopyListen], "POSTCOPY_LISTEN in state NONE");
        check(
            &[ADVISE, Command::PostcopyListen, Command::PostcopyRun],
            "POSTCOPY_RUN in state DISCARD: no RAM was discarded before LISTEN",
        );
        check(&[ADVISE, Command::PostcopyRun], "POSTCOPY_RUN in state ADVISE");
        check(&[Command::RecvBitmap(b"a")], "RECV_BITMAP in state NONE: postcopy is not paused");
        let nested = Incoming::default().command(&Command::Packaged(&[]), true).unwrap_err();
        assert_eq!(nested.to_string(), "PACKAGED in state NONE: it is inside a package");
        let eof = Incoming::default().end_of_stream(true).unwrap_err();
        assert_eq!(eof.to_string(), "the end mark in state NONE: it is inside a package");
    }

    #[test]
    fn dirty_bitmaps_alone_need_no_discard() {
        let commands = [Command::PostcopyAdvise(None), Command::PostcopyListen, Command::PostcopyRun];
        assert_eq!(run(&commands).unwrap(), IncomingState::Running);
    }

    #[test]
    fn only_a_running_guest_is_recovered() {
        let mut incoming = Incoming::default();
        for command in [ADVISE, discard(), Command::PostcopyListen] {
            incoming.command(&command, false).unwrap();
        }
        assert!(!incoming.clone().broken());
        incoming.command(&Command::PostcopyRun, true).unwrap();
        let early = incoming.command(&Command::RecvBitmap(b"a"), false).unwrap_err();
        assert_eq!(early.to_string(), "RECV_BITMAP in state RUNNING: postcopy is not paused");
        assert!(!incoming.is_paused());
        assert!(incoming.broken() && incoming.is_paused());
        assert!(incoming.page(true).is_err());
        incoming.command(&Command::RecvBitmap(b"a"), false).unwrap();
        incoming.command(&Command::PostcopyResume, false).unwrap();
        assert!(!incoming.is_paused());
        incoming.page(true).unwrap();
    }
}
