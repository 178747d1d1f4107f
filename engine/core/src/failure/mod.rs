//! Why a job failed, and which exit status that is.
//!
//! Each error says its own part only and names what caused it by
//! [`source`](std::error::Error::source); [`error_text`](crate::error_text) writes all of it in one
//! line. What a user can do about a failure depends on the program, so no text here names an option
//! of one.

mod mapped;
mod return_path;
mod unsupported;

pub use mapped::MappedError;
pub use return_path::{ReturnPathError, ReturnPathErrorKind};
pub use unsupported::{Region, Unsupported};

use crate::identity::IdentityError;
use crate::machine::IoError;
use crate::memory::OutOfMemory;
use crate::text::uuid_text;
use snapshot_image::ImageError;
use std::error::Error;
use std::sync::Arc;

/// Whose fault a failure is: the exit status of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The input was read and is wrong: exit status 1.
    InputWrong,
    /// It could not be done (usage, I/O, an unfit image): exit status 2.
    CouldNot,
}

/// Why a save or a revert failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The migration stream is wrong, or ends too early.
    #[error(transparent)]
    Stream(#[from] migration_stream::Error),
    /// The stream is right, but holds something that a snapshot cannot.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A save cannot write to this image.
    #[error(transparent)]
    UnfitImage(ImageError),
    /// The image that a revert reads is wrong.
    #[error(transparent)]
    WrongImage(ImageError),
    /// The image holds a snapshot, which was not to be replaced.
    #[error("the image holds a snapshot{}", uuid_suffix(.uuid.as_ref()))]
    SnapshotExists {
        /// The snapshot's UUID, where it has one.
        uuid: Option<[u8; 16]>,
    },
    /// The image holds what an interrupted save left, but the header says that another program has
    /// written to it since.
    #[error("the image holds an interrupted save, and another program has written to it since")]
    InterruptedThenWritten,
    /// An operation of the driver failed.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: Doing,
        /// What the operating system reports.
        source: IoError,
    },
    /// The peer takes no more output.
    #[error("the destination closed the connection after {sent} bytes")]
    PeerClosed {
        /// How much it took.
        sent: u64,
        /// What the operating system reports.
        source: IoError,
    },
    /// The destination sent something on the return path that it must not send.
    #[error(transparent)]
    ReturnPath(#[from] ReturnPathError),
    /// The destination gave up (SHUT with a status other than 0).
    #[error("the destination reports failure; its own messages say why")]
    DestinationFailed {
        /// Its guest may be running and wait for another server.
        recoverable: bool,
    },
    /// The return path ended too early.
    #[error(
        "the destination closed the return path{}",
        if *.running { "" } else { " before its guest ran; its own messages say why (is postcopy-ram on there?)" }
    )]
    DestinationGone {
        /// Its guest was running.
        running: bool,
        /// Its guest may be running and wait for another server.
        recoverable: bool,
    },
    /// The image's metadata could not be read.
    #[error("read the image at offset {offset:#x}")]
    MetadataRead {
        /// Byte offset in the image's file.
        offset: u64,
        /// What the operating system reports.
        source: IoError,
    },
    /// A page that is to be sent could not be read.
    #[error("read block \"{}\" at offset {offset:#x}", .block.escape_ascii())]
    PageRead {
        /// The block's name.
        block: Vec<u8>,
        /// Byte offset in the block.
        offset: u64,
        /// What the operating system reports.
        source: IoError,
    },
    /// A postcopy whose destination cannot answer.
    #[error("postcopy needs a return path")]
    NoReturnPath,
    /// The host page sizes of the destination do not fit the snapshot.
    #[error(transparent)]
    HostPages(#[from] HostPagesError),
    /// What the destination has mapped cannot be left out.
    #[error(transparent)]
    Mapped(#[from] MappedError),
    /// The guest cannot be given the identity of a clone.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A recovery from another snapshot than the one whose postcopy was interrupted, or from one
    /// that may be another one.
    #[error("recovery of snapshot {}: {}; two guests must not mix", uuid_text(.wanted), what_is_there(.found.as_ref()))]
    OtherSnapshot {
        /// UUID of the snapshot whose postcopy was interrupted.
        wanted: [u8; 16],
        /// UUID of the snapshot in the image, where it has one.
        found: Option<[u8; 16]>,
    },
    /// A bug: not every page that was looked up would have been sent, or more would have been.
    #[error("{claimed} host pages were looked up, but {sent} sent")]
    PagesLost {
        /// Host pages looked up.
        claimed: u64,
        /// Host pages sent.
        sent: u64,
    },
    /// The peer was silent for too long.
    #[error("the peer was silent for {seconds} s")]
    Silent {
        /// The time allowed, in seconds.
        seconds: u64,
    },
    /// The destination of a revert neither took nor said anything before its guest ran.
    #[error(
        "the destination took and said nothing for {seconds} s while it was to load the snapshot; \
         with the capability multifd it waits for channels that do not exist here: switch multifd off there"
    )]
    SilentLoading {
        /// The time allowed, in seconds.
        seconds: u64,
    },
    /// The system gives no more memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A panic, which is reported where it happens.
    #[error("the program has a bug, which is reported above; nothing was committed")]
    Panicked,
    /// SIGTERM or SIGINT.
    #[error("interrupted by a signal; nothing was committed")]
    Interrupted,
    /// There is no image, and none is to be made.
    #[error("there is no image")]
    NoImage,
    /// The job has not ended yet.
    #[error("the job has not ended")]
    Unfinished,
    /// The driver could not begin: the image is missing, locked, not a regular file.
    #[error(transparent)]
    Refused(Arc<dyn Error + Send + Sync>),
}

impl Failure {
    /// A failure of the driver, before its machine ran.
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(Arc::from(error.into()))
    }

    /// The peer was waited for too long.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::SilentLoading { .. })
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Stream(_) | Self::Unsupported(_) | Self::ReturnPath(_) | Self::WrongImage(_) => {
                Class::InputWrong
            }
            _ => Class::CouldNot,
        }
    }
}

/// What was being done when an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doing {
    /// Reading the stream of a source.
    ReadStream,
    /// Reading the image.
    ReadImage,
    /// Writing to the image, or to the new file.
    WriteImage,
    /// Creating the new file.
    CreateFile,
    /// Giving the new file the image's name.
    GiveName,
    /// Finding out whether the new file can replace the image.
    ProbeReplace,
    /// Replacing the image by the new file.
    Replace,
    /// Removing the new file after a failure.
    RemoveFile,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ReadStream => "read the stream",
            Self::ReadImage => "read the image",
            Self::WriteImage => "write to the image",
            Self::CreateFile => "create a new file beside the image",
            Self::GiveName => "give the new file the image's name",
            Self::ProbeReplace => "make ready to replace the image",
            Self::Replace => "replace the image",
            Self::RemoveFile => "remove the new file",
        })
    }
}

/// Why the host pages of a destination do not fit the RAM blocks of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostPagesError {
    /// A size is given for a block that the snapshot does not have.
    #[error("host page size of block \"{}\": the snapshot has no block of this name", .block.escape_ascii())]
    UnknownBlock {
        /// The name.
        block: Vec<u8>,
    },
    /// A size that no system has.
    #[error(
        "host page size of block \"{}\": {bytes} bytes, expected a power of two, 4 KiB to 64 MiB",
        .block.escape_ascii()
    )]
    Size {
        /// The block's name.
        block: Vec<u8>,
        /// The size.
        bytes: u64,
    },
    /// The block is no whole number of host pages.
    #[error(
        "host page size of block \"{}\": {length} bytes are not whole host pages of {bytes} bytes",
        .block.escape_ascii()
    )]
    Length {
        /// The block's name.
        block: Vec<u8>,
        /// Its length in bytes.
        length: u64,
        /// The size of a host page.
        bytes: u64,
    },
}

fn uuid_suffix(uuid: Option<&[u8; 16]>) -> String {
    uuid.map_or_else(String::new, |uuid| format!(" ({})", uuid_text(uuid)))
}

fn what_is_there(found: Option<&[u8; 16]>) -> String {
    match found {
        Some(found) => format!("the image holds snapshot {}", uuid_text(found)),
        None => "the image's snapshot has no UUID, so it may be another one".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::error_text;

    #[test]
    fn an_error_says_its_part_and_names_its_cause() {
        let failure = Failure::Io { doing: Doing::WriteImage, source: IoError::from_raw_os_error(28) };
        assert_eq!(failure.to_string(), "write to the image");
        let cause = failure.source().and_then(|cause| cause.downcast_ref::<IoError>()).unwrap();
        assert_eq!(cause.errno, Some(28));
        assert_eq!(error_text(&failure), "write to the image: No space left on device (os error 28)");
        let failure = Failure::refused(std::io::Error::from_raw_os_error(13));
        assert_eq!(error_text(&failure), "Permission denied (os error 13)");
    }

    #[test]
    fn whose_fault_it_is_follows_from_the_kind() {
        let image = ImageError::TooShort { found: 3 };
        assert_eq!(Failure::WrongImage(image.clone()).class(), Class::InputWrong);
        assert_eq!(Failure::UnfitImage(image).class(), Class::CouldNot);
        assert_eq!(Failure::SnapshotExists { uuid: None }.class(), Class::CouldNot);
        let failure = Failure::from(Unsupported::IgnoreShared { block: b"pc.\x1bram".to_vec() });
        assert_eq!(
            failure.to_string(),
            "capability x-ignore-shared: the RAM of block \"pc.\\x1bram\" is not in the stream; switch the capability off"
        );
        assert_eq!(failure.class(), Class::InputWrong);
    }

    /// A program that links this crate has options of its own.
    #[test]
    fn no_text_names_an_option() {
        for failure in [
            Failure::SnapshotExists { uuid: Some([0x11; 16]) },
            Failure::InterruptedThenWritten,
            Failure::DestinationFailed { recoverable: true },
            Failure::DestinationGone { running: true, recoverable: true },
            Failure::DestinationGone { running: false, recoverable: false },
            Failure::NoReturnPath,
            HostPagesError::UnknownBlock { block: b"a".to_vec() }.into(),
            Failure::OtherSnapshot { wanted: [1; 16], found: Some([2; 16]) },
            Failure::OtherSnapshot { wanted: [1; 16], found: None },
            Failure::Silent { seconds: 1 },
            Failure::SilentLoading { seconds: 1 },
            Unsupported::NoVmdesc.into(),
        ] {
            assert!(!failure.to_string().contains("--"), "{failure}");
        }
    }
}
