//! What stops a command.

use snapshot_engine::{Class, Failure, error_text};
use std::io;

/// Why a command could not give its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed.
    #[error("{what}: {error}")]
    Io {
        /// The file, or what was done.
        what: String,
        /// Why.
        error: io::Error,
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
    #[error("{what}: {}", error_text(&**.failure))]
    Engine {
        /// The file.
        what: String,
        /// Why.
        failure: Box<Failure>,
    },
    /// What was asked for is not there, or does not go together.
    #[error("{0}")]
    Usage(String),
    /// The reader of our output is gone.
    #[error("stdout: closed")]
    Closed,
}

impl Error {
    /// Names the file that an operation on it failed for.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what: what.to_string(), error }
    }

    /// The error of a write to stdout.
    #[must_use]
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Io { what: "stdout".to_owned(), error }
        }
    }

    /// The exit status that says so: 1 the input is wrong, 2 it could not be done.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Wrong(_) => 1,
            Self::Engine { failure, .. } if failure.class() == Class::InputWrong => 1,
            Self::Closed => 0,
            _ => 2,
        }
    }
}
