//! What stops a command. An error says what was done to what; its cause is its
//! [`source`](std::error::Error::source).

use crate::advice::Advice;
use crate::source::{SourceError, UnpackLimit};
use snapshot_engine::{Class, Failure};
use std::io;

/// Why a command could not give its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("{what}")]
    Io {
        /// The file, or what was done.
        what: String,
        /// What the operating system reports.
        source: io::Error,
    },
    /// The input is nothing that can be inspected.
    #[error("{what}: {why}")]
    Input {
        /// The file.
        what: String,
        /// Why not.
        why: String,
    },
    /// The input is wrong: it could be read up to here.
    #[error("{0}")]
    Wrong(String),
    /// The engine could not save or revert; its failure says whether the input is wrong.
    #[error("{what}")]
    Engine {
        /// The file.
        what: String,
        /// Why.
        #[source]
        failure: Box<Failure>,
    },
    /// What was asked for is not there, or does not go together.
    #[error("{0}")]
    Usage(String),
    /// An error that has no cause, and what can be done about it.
    #[error("{error}")]
    Advised {
        /// The error.
        error: Box<Error>,
        /// What can be done.
        advice: Advice,
    },
    /// The reader of our output is gone.
    #[error("stdout: closed")]
    Closed,
}

impl Error {
    /// Names the file that an operation on it failed for.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }

    /// The error of a write to stdout.
    #[must_use]
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Io { what: "stdout".to_owned(), source: error }
        }
    }

    /// The same error, which has no cause, with what can be done about it.
    pub(crate) fn advised(self, advice: Option<Advice>) -> Self {
        match advice {
            Some(advice) => Self::Advised { error: Box::new(self), advice },
            None => self,
        }
    }

    /// What can be done about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> Option<Advice> {
        match self {
            Self::Advised { advice, .. } => Some(advice.clone()),
            Self::Io { source, .. } => {
                let cause = source.get_ref()?;
                let limit = cause.is::<UnpackLimit>().then_some(Advice::UnpackLimit);
                limit.or_else(|| cause.downcast_ref::<SourceError>()?.advice())
            }
            _ => None,
        }
    }

    /// The exit status that says so: 1 the input is wrong, 2 it could not be done.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Engine { failure, .. } if failure.class() == Class::InputWrong => 1,
            Self::Advised { error, .. } => error.exit_status(),
            Self::Closed => 0,
            _ => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_engine::error_text;

    #[test]
    fn an_error_keeps_its_cause_and_the_program_writes_both() {
        let refused = || io::Error::from_raw_os_error(5);
        let error = Error::io("vm.qcow2")(refused());
        assert_eq!(error.to_string(), "vm.qcow2");
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
        assert_eq!(cause.and_then(io::Error::raw_os_error), Some(5));
        assert_eq!(error_text(&error), "vm.qcow2: Input/output error (os error 5)");
        let failure = Failure::InterruptedThenWritten;
        let text = failure.to_string();
        let error = Error::Engine { what: "vm.stream".to_owned(), failure: Box::new(failure) };
        assert_eq!(error_text(&error), format!("vm.stream: {text}"));
    }
}
