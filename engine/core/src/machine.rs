//! What a machine and its driver say to each other.
//!
//! A driver runs [`Machine`]s in one loop: it carries out every [`Action`] that [`Machine::poll`]
//! hands out (starting it, not waiting for it), waits until something happens, and reports that
//! with [`Machine::handle`]. Clock, disk and channel are data here; nothing in this crate performs
//! I/O.
//!
//! Rules that hold for every driver:
//!
//! * An action with an [`IoId`] is answered by exactly one [`Event::Done`] with this id, in any
//!   order. Actions are *not* ordered among each other: a machine that needs an order waits for the
//!   completion.
//! * In each [`Lane`], [`Action::Send`]s go out in the order in which they were handed out, and are
//!   reported as byte counts by [`Event::Sent`] in that order.
//! * At most one [`Action::ReadInput`] is under way. A machine that asks for none has paused its input.
//! * After [`Action::Finish`] the driver performs nothing more and asks for the outcome.

use crate::identity::Assigned;
use crate::pool::{BufferId, Pool};
use snapshot_image::HostOffset;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Names one operation under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// A piece of a disk operation: the bytes `range` of its buffer at `at` in the image file.
///
/// Both ends and the place in the file are multiples of 4096, as `O_DIRECT` asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where in the image file.
    pub at: HostOffset,
    /// Which bytes of the buffer.
    pub range: Range<usize>,
}

/// Bytes of a buffer that follow a header on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The buffer; it stays taken until [`Event::Sent`] has covered it.
    pub buffer: BufferId,
    /// Which bytes of it.
    pub range: Range<usize>,
}

/// Header bytes of a piece of output: short ones (every page but the first of a block) without an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// The first `.1` bytes of the array.
    Short([u8; 23], u8),
    /// Anything longer.
    Long(Vec<u8>),
}

impl Header {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Header {
    fn from(bytes: &[u8]) -> Self {
        let mut short = [0; 23];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(bytes);
                Self::Short(short, length)
            }
            _ => Self::Long(bytes.to_vec()),
        }
    }
}

/// One of the connections to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The stream.
    Main,
    /// Requested pages only (capability `postcopy-preempt`): a second connection.
    Preempt,
}

/// Something that the user may want to know at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Milestone {
    /// The guest is a clone: these NICs get other addresses, the others keep theirs.
    Identity {
        /// Each NIC with its old and its new address.
        assigned: Arc<[Assigned]>,
    },
    /// The devices are on their way, and the destination asks for the pages that they touch. Should
    /// it fail while it loads them, there is no guest yet and nothing to be recovered.
    Serving {
        /// UUID of the snapshot.
        uuid: Option<[u8; 16]>,
    },
    /// The destination has loaded the devices: the guest runs. From now on it depends on a server,
    /// and an interrupted postcopy can be recovered.
    Running {
        /// UUID of the snapshot: what a recovery has to name. Without one there is no recovery.
        uuid: Option<[u8; 16]>,
    },
    /// A guest that waited for a server goes on with this one.
    Resumed {
        /// UUID of the snapshot.
        uuid: Option<[u8; 16]>,
    },
}

/// What a machine wants done.
///
/// A driver answers an operation that it does not know ([`Action::id`]) with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Read what has arrived, at least one byte, into `range` of `buffer`; answered by [`Event::Input`],
    /// [`Event::InputEnd`] or [`Event::InputFailed`]. Never reads ahead of what it was asked for.
    ReadInput {
        /// The buffer.
        buffer: BufferId,
        /// The bytes that may be filled.
        range: Range<usize>,
    },
    /// Let about this many bytes pile up between the writer and us: resize the input pipe
    /// (`F_SETPIPE_SZ`, tried again at every following read while it fails with `EBUSY`), as far as
    /// the system allows it. With a page or less the writer is held back: what comes is read at
    /// once. Not answered.
    LimitInput {
        /// What may pile up.
        bytes: usize,
    },
    /// Create a new, empty file in the image's directory, without a name if the file system can do
    /// that (`O_TMPFILE`); from its completion on every disk action means that file.
    CreateTemporary {
        /// Answered by [`Event::Done`].
        id: IoId,
    },
    /// Read all pieces; a short read at the end of the file is filled with zeros (a hole), any
    /// other is an error.
    Read {
        /// Answered by [`Event::Done`].
        id: IoId,
        /// Lent to the operation until it is done.
        buffer: BufferId,
        /// Where from.
        pieces: Vec<Piece>,
    },
    /// Write all pieces, completely.
    Write {
        /// Answered by [`Event::Done`].
        id: IoId,
        /// Lent to the operation until it is done.
        buffer: BufferId,
        /// Where to.
        pieces: Vec<Piece>,
    },
    /// Where does the next data lie, at `from` or behind (`SEEK_DATA`, `SEEK_HOLE`)? A file system
    /// that cannot tell answers that everything is data.
    NextData {
        /// Answered by [`Event::Done`] with [`Completed::Data`].
        id: IoId,
        /// Where to begin.
        from: HostOffset,
    },
    /// Set the file's length in bytes.
    SetLength {
        /// Answered by [`Event::Done`].
        id: IoId,
        /// The new length.
        length_bytes: u64,
    },
    /// Make everything that was written durable (`fdatasync`, or `fsync` where the length changed).
    Flush {
        /// Answered by [`Event::Done`].
        id: IoId,
    },
    /// Hold this much space of the file system behind the end of the file, without making it
    /// longer, so that a copy-on-write file system has it for what is written a second time; 0
    /// gives it back.
    Ballast {
        /// Answered by [`Event::Done`].
        id: IoId,
        /// How much, in bytes.
        bytes: u64,
    },
    /// Give the new file the image's name, and make that durable (sync the directory). It takes the
    /// place of an interrupted save that was inspected there; any other file there is an error.
    /// After an error it has no name.
    Link {
        /// Answered by [`Event::Done`].
        id: IoId,
    },
    /// Take the image's name from the new file again, if it is still its name; an error if it is not.
    Unlink {
        /// Answered by [`Event::Done`].
        id: IoId,
    },
    /// Find out whether [`Replace`](Self::Replace) will be possible, as far as that can be known;
    /// the image stays as it is.
    ProbeReplace {
        /// Answered by [`Event::Done`].
        id: IoId,
    },
    /// Put the new file in the place of the image that was inspected, and make that durable (sync
    /// the directory): the commit point of a replaced image. If another file lies there now, that
    /// one stays, and this is an error.
    Replace {
        /// Answered by [`Event::Done`].
        id: IoId,
    },
    /// Send to the peer, behind everything that was sent before in this lane.
    Send {
        /// Which of the connections.
        lane: Lane,
        /// First these bytes,
        header: Header,
        /// then these.
        body: Option<Body>,
    },
    /// Let no more than about this many bytes pile up between the main lane and the peer: set the
    /// size of the output pipe (`F_SETPIPE_SZ`) or socket buffer (`SO_SNDBUF`), as far as the
    /// system allows it. A later one replaces it. Not answered.
    LimitOutput {
        /// What may pile up.
        bytes: usize,
    },
    /// Tell the user. Not answered.
    Announce(Milestone),
    /// Report [`Event::Tick`] at this time at the latest; a later one replaces it, `None` cancels.
    WakeAt {
        /// Milliseconds of the driver's clock, as in [`Event::Tick`].
        tick_ms: Option<u64>,
    },
    /// The job has ended, well or not.
    Finish,
}

impl Action {
    /// The operation that [`Event::Done`] will answer for, if there is one.
    #[must_use]
    pub fn id(&self) -> Option<IoId> {
        match self {
            Self::CreateTemporary { id }
            | Self::Read { id, .. }
            | Self::Write { id, .. }
            | Self::NextData { id, .. }
            | Self::SetLength { id, .. }
            | Self::Flush { id }
            | Self::Ballast { id, .. }
            | Self::Link { id }
            | Self::Unlink { id }
            | Self::ProbeReplace { id }
            | Self::Replace { id } => Some(*id),
            Self::ReadInput { .. }
            | Self::LimitInput { .. }
            | Self::Send { .. }
            | Self::LimitOutput { .. }
            | Self::Announce(_)
            | Self::WakeAt { .. }
            | Self::Finish => None,
        }
    }
}

/// What an operation brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completed {
    /// It was done, completely.
    Plain,
    /// [`Action::NextData`]: where data lies, or none up to the end of the file.
    Data(Option<Range<u64>>),
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct IoError {
    /// The operating system's error number (errno(3)), where it was the operating system that failed.
    pub errno: Option<i32>,
    /// What it says, with its number: `No space left on device (os error 28)`.
    pub text: String,
}

impl IoError {
    /// An error of the driver's own.
    pub fn new(text: impl Into<String>) -> Self {
        Self { errno: None, text: text.into() }
    }

    /// Names what it happened to: `vm1.qcow2: No space left on device (os error 28)`.
    #[must_use]
    pub fn of(self, what: impl std::fmt::Display) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }

    /// The operating system's error with this number.
    #[must_use]
    pub fn from_raw_os_error(errno: i32) -> Self {
        Self::from(&io::Error::from_raw_os_error(errno))
    }
}

impl From<&io::Error> for IoError {
    fn from(error: &io::Error) -> Self {
        Self { errno: error.raw_os_error(), text: error.to_string() }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The driver's clock; the first event of every run.
    Tick {
        /// Milliseconds since an arbitrary start.
        now_ms: u64,
    },
    /// [`Action::ReadInput`] brought this many bytes, at the start of its range.
    Input {
        /// At least one.
        bytes: usize,
    },
    /// The input has ended: no more will come.
    InputEnd,
    /// The input failed.
    InputFailed(IoError),
    /// The operation with this id is over. After an error any part of it may have been done.
    Done {
        /// Which one.
        id: IoId,
        /// How it ended.
        result: Result<Completed, IoError>,
    },
    /// This many more bytes of what was to be sent have left.
    Sent {
        /// In which lane.
        lane: Lane,
        /// At least one.
        bytes: u64,
    },
    /// The peer takes no more output, or the output failed.
    OutputFailed(IoError),
    /// The peer answered on the return path. A [`Event::Tick`] comes before it.
    Answer(&'a [u8]),
    /// The peer's return path has ended.
    AnswerEnd,
    /// A second peer connected where one was expected.
    AnotherPeer,
    /// The machine panicked at what it was last told or asked: it has to fail, and may do nothing
    /// that depends on its state being right.
    Broken,
    /// The user wants it to end (SIGTERM, SIGINT): nothing may be committed from now on.
    Interrupted,
}

/// A job that a driver can run.
pub trait Machine {
    /// Takes in one event.
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool);
    /// The next thing to be done; `None` until the next event.
    fn poll(&mut self, pool: &mut Pool) -> Option<Action>;
}

impl<M: Machine> Machine for &mut M {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        (**self).handle(event, pool);
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        (**self).poll(pool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_what_it_happened_to_and_keeps_its_number() {
        let error = IoError::from_raw_os_error(5).of("vm1.qcow2");
        let text = "vm1.qcow2: Input/output error (os error 5)".to_owned();
        assert_eq!(error, IoError { errno: Some(5), text });
    }
}
