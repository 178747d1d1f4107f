//! What ends a job. An error says what failed; its cause is its [`source`](std::error::Error::source).

use migration_stream::protocol::{OutOfOrder, ReceivedBitmapError};
use std::io;

/// Why a source or a destination gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is wrong.
    #[error(transparent)]
    Stream(#[from] migration_stream::Error),
    /// Something came that may not come now.
    #[error("offset {offset:#x}")]
    OutOfOrder {
        /// Offset in the stream, behind what came.
        offset: u64,
        /// What, and in which state.
        source: OutOfOrder,
    },
    /// The stream can be read, but no destination can do what it says.
    #[error("offset {offset:#x}: {text}")]
    Refused {
        /// Offset in the stream.
        offset: u64,
        /// What, and what was expected.
        text: String,
    },
    /// The peer's messages are wrong.
    #[error("return path: {0}")]
    ReturnPath(String),
    /// A bitmap on the return path is wrong.
    #[error("return path: RECV_BITMAP of block \"{block}\"")]
    ReceivedBitmap {
        /// The block.
        block: String,
        /// What is wrong.
        source: ReceivedBitmapError,
    },
    /// The kernel refused something.
    #[error("{step}")]
    Io {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// There is no userfaultfd.
    #[error("userfaultfd")]
    Userfaultfd(#[source] io::Error),
    /// The background snapshot failed.
    #[error(transparent)]
    Snapshot(#[from] background_snapshot::Error),
    /// The connection ended where it may not.
    #[error("offset {offset:#x}: the connection ended in state {state}")]
    Closed {
        /// Offset in the stream.
        offset: u64,
        /// How far it was.
        state: String,
    },
    /// No answer arrived.
    #[error("{what}: nothing for {seconds} s")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// What was asked for does not go together.
    #[error("{0}")]
    Incompatible(&'static str),
    /// Memory or devices are not what they should be.
    #[error("{0}")]
    Wrong(String),
    /// A fault that was asked for ends this end of the migration.
    #[error("ended by fault {0}")]
    Killed(&'static str),
}

impl Error {
    /// Whether the input is wrong (exit status 1), rather than that something could not be done (2).
    #[must_use]
    pub fn is_wrong_input(&self) -> bool {
        !matches!(
            self,
            Self::Io { .. }
                | Self::Userfaultfd(_)
                | Self::Snapshot(_)
                | Self::Timeout { .. }
                | Self::Incompatible(_)
                | Self::Killed(_)
        )
    }
}

/// Names the step that failed.
pub(super) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { step, source }
}
