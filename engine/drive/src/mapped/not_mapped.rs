//! Why nothing is left out of the stream.

use super::command_line::CommandLineError;
use super::descriptors::DescriptorError;
use super::maps::MapsError;
use super::own::OwnError;
use super::peer::PeerError;
use super::refusal::Refusal;
use crate::unpack::RamFilesError;
use snapshot_engine::Failure;
use std::io;
use std::path::PathBuf;

/// Why nothing is left out of the stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMapped {
    /// No block of the image can be mapped.
    #[error(
        "the image has the dense layout, in which RAM does not lie in one piece; needed: the linear layout"
    )]
    Dense,
    /// What is mapped could be anything.
    #[error("the image's checksums do not count ({0}), so what is mapped from it proves nothing")]
    Unverified(&'static str),
    #[error(transparent)]
    Own(OwnError),
    #[error(transparent)]
    Peer(PeerError),
    /// The destination may not be looked at.
    #[error("the mappings of {process} cannot be looked at: {right}")]
    Hidden {
        process: String,
        right: String,
        #[source]
        source: io::Error,
    },
    #[error("{process}: its list of mappings is not as the kernel writes it")]
    Maps {
        process: String,
        #[source]
        source: MapsError,
    },
    #[error("{process}: its command line")]
    CommandLine {
        process: String,
        #[source]
        source: CommandLineError,
    },
    #[error("{process} at the other end of the channel has no RAM block mapped from the image")]
    Nothing { process: String },
    #[error("{process}: {refusal}")]
    Block { process: String, refusal: Refusal },
    #[error("{process}")]
    Descriptors {
        process: String,
        #[source]
        source: DescriptorError,
    },
    #[error("{0} has ended, or has closed the channel, while its mappings were looked at")]
    Gone(String),
    #[error("the mappings of {0} have changed while the image was verified")]
    Changed(String),
    #[error("the image was changed while it was verified")]
    ImageChanged,
    #[error("{} holds the RAM of another snapshot, or of another state of this one", .0.display().to_string().escape_debug())]
    OtherSnapshot(PathBuf),
    #[error("the RAM files prove nothing")]
    RamFiles(#[source] RamFilesError),
    #[error(
        "{} is mapped by {} as well; needed: files that are this guest's own, as it may write to them",
        .path.display().to_string().escape_debug(),
        .others.join(" and ")
    )]
    NotAlone { path: PathBuf, others: Vec<String> },
}

impl NotMapped {
    /// What can be done about it with this program's options.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Dense => Some("--create --layout=linear makes such an image"),
            Self::Descriptors { source: DescriptorError::Writable(_), .. } => {
                Some("for an older QEMU, unpack makes files that --ram-files names")
            }
            Self::OtherSnapshot(_) | Self::RamFiles(_) => Some("unpack makes them anew"),
            _ => None,
        }
    }
}

impl From<NotMapped> for Failure {
    fn from(error: NotMapped) -> Self {
        Self::refused(error)
    }
}
