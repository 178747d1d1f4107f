//! What a destination must not say.

use migration_stream::name_text;
use migration_stream::protocol::ReceivedBitmapError;

/// The destination sent something on the return path that it must not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("return path: {}{kind}", .offset.map_or_else(String::new, |offset| format!("offset {offset:#x}: ")))]
pub struct ReturnPathError {
    /// Byte offset of the message on the return path, where one message is wrong by itself.
    pub offset: Option<u64>,
    /// What is wrong.
    pub kind: ReturnPathErrorKind,
}

/// What is wrong with a message of the return path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnPathErrorKind {
    /// It is no message. This error says where it is.
    #[error(transparent)]
    Message(#[from] migration_stream::Error),
    /// A bitmap of received pages.
    #[error(transparent)]
    Bitmap(#[from] ReceivedBitmapError),
    /// A block that the snapshot does not have.
    #[error("unknown RAM block \"{}\"", name_text(.name))]
    UnknownBlock {
        /// The name.
        name: Vec<u8>,
    },
    /// A message that has no place in a revert.
    #[error("unexpected message")]
    Unexpected,
    /// The first request names no block.
    #[error("a request that names no block, before one that does")]
    NoBlock,
    /// RESUME_ACK has one value only.
    #[error("RESUME_ACK {found}, expected 1")]
    ResumeAck {
        /// The value.
        found: u32,
    },
    /// A request for something else than whole host pages of a block.
    #[error(
        "request for {length:#x} bytes at {start:#x} of block \"{}\", expected whole host pages of {host_page_bytes:#x} bytes \
         below {block_bytes:#x}",
        name_text(.block)
    )]
    Range {
        /// The block's name.
        block: Vec<u8>,
        /// First byte in the block.
        start: u64,
        /// How many bytes.
        length: u64,
        /// Size of the block's host pages.
        host_page_bytes: u64,
        /// Length of the block.
        block_bytes: u64,
    },
    /// A bitmap came twice.
    #[error("a second bitmap of block number {block}")]
    SecondBitmap {
        /// The block's number in the block list.
        block: usize,
    },
    /// A message that answers a question which was not asked.
    #[error("{message} was not asked for")]
    Unasked {
        /// Its name: `RESUME_ACK`.
        message: &'static str,
    },
}

impl From<ReturnPathErrorKind> for ReturnPathError {
    fn from(kind: ReturnPathErrorKind) -> Self {
        Self { offset: None, kind }
    }
}

impl From<ReturnPathErrorKind> for crate::Failure {
    fn from(kind: ReturnPathErrorKind) -> Self {
        Self::ReturnPath(kind.into())
    }
}
