//! Why a job failed, and which exit status that is.

use crate::machine::IoError;
use crate::memory::OutOfMemory;
use crate::text::uuid_text;
use snapshot_image::ImageError;

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
    #[error("{0}")]
    Stream(#[from] migration_stream::Error),
    /// The stream is right, but holds something that a snapshot cannot.
    #[error("{0}")]
    Unsupported(#[from] Unsupported),
    /// The image is wrong or unfit.
    #[error("{error}")]
    Image {
        /// What the image crate says.
        error: ImageError,
        /// A save writes the image (could not), a revert reads it (the input is wrong).
        class: Class,
    },
    /// The image holds a snapshot.
    #[error("the image holds a snapshot{}; --overwrite replaces it", uuid_suffix(.uuid.as_ref()))]
    SnapshotExists {
        /// The snapshot's UUID, where it has one.
        uuid: Option<[u8; 16]>,
    },
    /// The image holds what an interrupted save left, but the header says that another program has written to it since.
    #[error(
        "the image holds an interrupted save, and another program has written to it since; --overwrite replaces it"
    )]
    InterruptedThenWritten,
    /// An operation of the driver failed.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done: `write to the image`.
        doing: &'static str,
        /// What the operating system says.
        error: IoError,
    },
    /// The peer takes no more output.
    #[error("the destination closed the connection after {sent} bytes: {error}")]
    PeerClosed {
        /// How much it took.
        sent: u64,
        /// What the operating system says.
        error: IoError,
    },
    /// The destination sent something on the return path that it must not send.
    #[error("return path: {0}")]
    ReturnPath(String),
    /// The destination gave up (SHUT with a status other than 0).
    #[error("the destination reports failure; its own messages say why{}", recovery_hint(*.recoverable))]
    DestinationFailed {
        /// Its guest may be running and wait for another server.
        recoverable: bool,
    },
    /// The return path ended too early.
    #[error(
        "the destination closed the return path{}{}",
        if *.running { "" } else { " before its guest ran; its own messages say why (is postcopy-ram on there?)" },
        recovery_hint(*.recoverable)
    )]
    DestinationGone {
        /// Its guest was running.
        running: bool,
        /// Its guest may be running and wait for another server.
        recoverable: bool,
    },
    /// What the image says of itself could not be read.
    #[error("read the image at offset {offset:#x}: {error}")]
    MetadataRead {
        /// Byte offset in the image's file.
        offset: u64,
        /// What the operating system says.
        error: IoError,
    },
    /// A page that is to be sent could not be read.
    #[error("read block \"{}\" at offset {offset:#x}: {error}", .block.escape_ascii())]
    PageRead {
        /// The block's name.
        block: Vec<u8>,
        /// Byte offset in the block.
        offset: u64,
        /// What the operating system says.
        error: IoError,
    },
    /// Postcopy cannot go on, or not from this image.
    #[error("{0}")]
    Postcopy(String),
    /// The peer was silent for too long.
    #[error("the peer was silent for {seconds} s (--timeout)")]
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
    #[error("{0}")]
    OutOfMemory(#[from] OutOfMemory),
    /// A panic, which is reported where it happens.
    #[error("the program has a bug, which is reported above; nothing was committed")]
    Panicked,
    /// SIGTERM or SIGINT.
    #[error("interrupted by a signal; nothing was committed")]
    Interrupted,
    /// The driver failed before the machine ran: the image is missing, locked, not a regular file.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// The peer was waited for too long.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::SilentLoading { .. })
    }

    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Stream(_) | Self::Unsupported(_) | Self::ReturnPath(_) => Class::InputWrong,
            Self::Image { class, .. } => *class,
            _ => Class::CouldNot,
        }
    }
}

/// What a stream may legally hold and a snapshot cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// RAM travels on other channels.
    #[error("the source uses multifd: its RAM is not in this stream; switch the capability multifd off")]
    Multifd,
    /// QEMU hands RAM over to the next QEMU in memory, and lists its blocks without a page.
    #[error(
        "the stream lists RAM and has no page of it, as in migration mode cpr-exec or cpr-transfer, which hands RAM over in \
         memory; a snapshot needs mode normal"
    )]
    Cpr,
    /// RAM of the block is not in the stream.
    #[error(
        "capability x-ignore-shared: the RAM of block \"{}\" is not in the stream; switch the capability off",
        .block.escape_ascii()
    )]
    IgnoreShared {
        /// The block's name.
        block: Vec<u8>,
    },
    /// The source wants to finish in postcopy.
    #[error(
        "offset {offset:#x}: the source switches to postcopy ({command}); a stream can be stored in precopy only"
    )]
    Postcopy {
        /// Where the command stands.
        offset: u64,
        /// Its name.
        command: &'static str,
    },
    /// COLO keeps two running guests in step; there is nothing to store.
    #[error("offset {offset:#x}: command ENABLE_COLO cannot be stored")]
    Colo {
        /// Where the command stands.
        offset: u64,
    },
    /// The stream ends after EOF, without a vmdesc.
    #[error(
        "the stream has no vmdesc, so its end cannot be verified; a source with suppress-vmdesc=on needs --no-vmdesc"
    )]
    NoVmdesc,
    /// Nothing follows the RAM.
    #[error("the stream ends without a device section")]
    NoDevices,
    /// A region that is kept in memory grew too large.
    #[error("{region}: more than {limit_bytes} bytes")]
    TooLarge {
        /// Which one.
        region: &'static str,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
}

impl Unsupported {
    /// The stream is none of a background snapshot, which alone has to be drained: QEMU refuses the two together.
    pub(crate) fn rules_out_background_snapshot(&self) -> bool {
        matches!(self, Self::Multifd | Self::Postcopy { .. } | Self::Colo { .. })
    }
}

fn recovery_hint(recoverable: bool) -> &'static str {
    if recoverable { "; a guest in postcopy-paused can be recovered with --recover" } else { "" }
}

fn uuid_suffix(uuid: Option<&[u8; 16]>) -> String {
    uuid.map_or_else(String::new, |uuid| format!(" ({})", uuid_text(uuid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_do() {
        let failure = Failure::SnapshotExists { uuid: Some([0x11; 16]) };
        assert_eq!(
            failure.to_string(),
            "the image holds a snapshot (11111111-1111-1111-1111-111111111111); --overwrite replaces it"
        );
        assert_eq!(failure.class(), Class::CouldNot);
        let failure = Failure::from(Unsupported::IgnoreShared { block: b"pc.\x1bram".to_vec() });
        assert_eq!(
            failure.to_string(),
            "capability x-ignore-shared: the RAM of block \"pc.\\x1bram\" is not in the stream; switch the capability off"
        );
        assert_eq!(failure.class(), Class::InputWrong);
    }
}
