//! Why a clone does not get the MAC addresses that it was to get.

use super::mac::Mac;
use std::fmt;

/// Why a revert does not give its guest the identity that it was to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The guest has its devices already.
    #[error("a guest that is to be recovered has its devices already, and their addresses")]
    Recovery,
    /// Without a description of the device sections no NIC can be found in them.
    #[error("the snapshot has no vmdesc, so the NICs in its device sections cannot be found")]
    NoVmdesc,
    /// The description and the sections do not go together.
    #[error("the device sections cannot be told apart, so the NICs in them cannot be found")]
    Sections(#[source] migration_stream::Error),
    /// No NIC has a name that begins so.
    #[error("the snapshot has no NIC \"{given}\"; it has {}", list(.found))]
    UnknownDevice {
        /// What was asked for.
        given: String,
        /// The NICs of the snapshot.
        found: Vec<String>,
    },
    /// More than one NIC has a name that begins so.
    #[error("\"{given}\" may be any of {}", list(.matches))]
    Ambiguous {
        /// What was asked for.
        given: String,
        /// The NICs that may be meant.
        matches: Vec<String>,
    },
    /// Two orders for one NIC.
    #[error("NIC \"{device}\" is named twice")]
    NamedTwice {
        /// The NIC.
        device: String,
    },
    /// It is not known what is to become of a NIC.
    #[error("NIC \"{device}\" is given no new MAC, and is not said to keep its own")]
    Undecided {
        /// The NIC.
        device: String,
    },
    /// A NIC whose section cannot be rewritten safely.
    #[error("NIC \"{device}\" cannot be given a new MAC: {why}")]
    Unproved {
        /// The NIC.
        device: String,
        /// What is not as it has to be.
        why: Unproved,
    },
    /// A NIC whose MAC is the one on the command line of the destination, which has to know it first.
    #[error(
        "NIC \"{device}\" has the MAC that its destination was started with (mac=…): it has to be \
         the same there and here, so it cannot be chosen here"
    )]
    OfTheDestination {
        /// The NIC.
        device: String,
    },
    /// Two NICs of the clone would have one address, or one would not get a new one.
    #[error("NIC \"{device}\" would have the MAC {mac}, which {of} has")]
    Taken {
        /// The NIC.
        device: String,
        /// The address.
        mac: Mac,
        /// Whose it is.
        of: String,
    },
    /// More NICs than any machine has.
    #[error("the snapshot has {found} NICs, expected at most {limit}")]
    TooMany {
        /// How many it has.
        found: usize,
        /// How many are followed.
        limit: usize,
    },
}

/// What is not as it has to be in the section of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unproved {
    /// This kind of NIC is not rewritten.
    Kind {
        /// QEMU's name of its state (`vmsd_name`).
        vmsd: String,
    },
    /// It is not known, but has a field that may be a MAC.
    Unknown {
        /// Path of the field.
        field: String,
    },
    /// Its section is not cut by what the vmdesc says.
    Cut,
    /// It was sent before RAM.
    Early,
    /// A field that it always has is missing, or there twice, or has another size.
    Field(&'static str),
    /// The bytes of a place are no MAC of one NIC.
    NoMac {
        /// The place.
        place: &'static str,
        /// What is there.
        found: [u8; 6],
    },
    /// The copies of one thing differ.
    Copies(&'static str),
    /// A checksum over the place is wrong.
    Checksum(&'static str),
    /// What is inside a field has another structure than QEMU writes.
    Structure(&'static str),
    /// A virtio device whose transport is not walked.
    Transport,
    /// The MAC is not in the stream: only the destination's command line has it.
    NotInStream,
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { vmsd } => {
                write!(f, "devices of the kind \"{}\" are not rewritten", vmsd.escape_debug())
            }
            Self::Unknown { field } => {
                write!(
                    f,
                    "this kind of device is not known, and its field {} may be a MAC",
                    field.escape_debug()
                )
            }
            Self::Cut => f.write_str("its section does not end where the vmdesc says"),
            Self::Early => f.write_str("its section was sent before RAM"),
            Self::Field(name) => write!(f, "its field {name} is missing, there twice, or of another size"),
            Self::NoMac { place, found } => {
                write!(f, "{place} holds ")?;
                found.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(", which is no MAC of one NIC")
            }
            Self::Copies(what) => write!(f, "the copies of {what} differ"),
            Self::Checksum(what) => write!(f, "the checksum of {what} is wrong"),
            Self::Structure(what) => write!(f, "{what} is not as QEMU writes it"),
            Self::Transport => {
                f.write_str("it is connected by neither PCI nor MMIO, or its state is not as QEMU writes it")
            }
            Self::NotInStream => f.write_str(
                "its MAC is not in the stream: it is the one that the destination is started with (mac=…)",
            ),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}
