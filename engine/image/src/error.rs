//! What can be wrong with an image. Each error's text is its own part: its cause, where it has one, is its
//! `source()`. What can be done about it, with the options of a program, is that program's to say.

use crate::feature::Feature;
use crate::types::GuestOffset;

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It is something else.
    #[error("not a qcow2 image: magic {found:#010x}{}, expected 0x514649fb", what_it_is(*.found))]
    NotQcow2 {
        /// The first four bytes.
        found: u32,
    },
    /// It is too short to be an image.
    #[error("not a qcow2 image: {found} bytes long")]
    TooShort {
        /// Its length.
        found: u64,
    },
    /// A version without the fields that are needed.
    #[error("qcow2 version {found}, expected 3")]
    Version {
        /// The version.
        found: u32,
    },
    /// The cluster size.
    #[error("cluster size {found} bytes, expected 64 KiB to 2 MiB")]
    ClusterSize {
        /// The size.
        found: u64,
    },
    /// The width of refcounts.
    #[error("refcounts of {found} bits, expected 1, 2, 4, … 64")]
    RefcountWidth {
        /// The width.
        found: u32,
    },
    /// A feature with which a snapshot cannot be stored or found.
    #[error("the image has {0}; it was not made for a snapshot and is left alone")]
    Foreign(Feature),
    /// Unknown incompatible features.
    #[error("unknown incompatible features {bits:#x}")]
    UnknownFeatures {
        /// The bits.
        bits: u64,
    },
    /// Data of another program.
    #[error("the image holds data at guest offset {:#x} that is no snapshot; it is left alone", .at.0)]
    HoldsData {
        /// Where the data was found first.
        at: GuestOffset,
    },
    /// It cannot hold the RAM.
    #[error("the image is too small: virtual size {found} bytes, this guest needs {needed}")]
    TooSmall {
        /// Its virtual size.
        found: u64,
        /// What is needed.
        needed: u64,
    },
    /// Clusters in which a linear image cannot be.
    #[error("a linear image has clusters of 64 KiB to 1 MiB, found {found} bytes")]
    LinearClusters {
        /// The cluster size.
        found: u64,
    },
    /// The image says that its RAM lies in one piece for each block, and its tables say otherwise.
    #[error(
        "not linear: the cluster at guest offset {:#x} lies at offset {found:#x}, expected {}",
        .at.0,
        place(.expected.as_ref())
    )]
    NotLinear {
        /// The cluster's place in the virtual disk.
        at: GuestOffset,
        /// Its place in the file, as the tables have it.
        found: u64,
        /// Where it would be mapped from; `None`: it is no RAM.
        expected: Option<u64>,
    },
    /// Something is longer than it can be.
    #[error("{what} is {found} bytes long, the limit is {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// Its length in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A QCOW2 structure is damaged.
    #[error("damaged qcow2 {structure} at offset {at:#x}: {what}")]
    Damaged {
        /// Which.
        structure: &'static str,
        /// Where in the file.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A save into it was interrupted.
    #[error("not a complete snapshot: a save was interrupted")]
    Interrupted,
    /// Nothing in it says that it holds a snapshot.
    #[error("not a complete snapshot: it has no VM-state header")]
    NoVmState,
    /// It holds no snapshot that is whole.
    #[error("not a complete snapshot: {0}")]
    NoSnapshot(&'static str),
    /// The extension and its feature bit do not go together.
    #[error("changed by another program, or damaged: {0}")]
    Unverifiable(&'static str),
    /// A checksum.
    #[error("{what} at guest offset {:#x}: checksum {found:#010x}, expected {expected:#010x}", .at.0)]
    Checksum {
        /// Of what.
        what: &'static str,
        /// Where.
        at: GuestOffset,
        /// What was computed.
        found: u32,
        /// What is stored.
        expected: u32,
    },
    /// A page's checksum.
    #[error(
        "ram block \"{}\" offset {offset:#x}: page checksum {found:#010x}, expected {expected:#010x}",
        .block.escape_ascii()
    )]
    Page {
        /// The block's name.
        block: Vec<u8>,
        /// The page's byte offset in it.
        offset: u64,
        /// What was computed.
        found: u32,
        /// What is stored.
        expected: u32,
    },
    /// A field of the snapshot's own structures.
    #[error("snapshot {what} {found:#x}, expected {expected}")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it can be.
        expected: &'static str,
    },
    /// The sections before RAM.
    #[error("the snapshot's preamble is wrong")]
    Leader(#[source] migration_stream::Error),
}

/// For programs whose errors are all I/O errors: `InvalidData`, with the [`ImageError`] inside.
impl From<ImageError> for std::io::Error {
    fn from(error: ImageError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn place(at: Option<&u64>) -> String {
    at.map_or_else(|| "none".to_owned(), |at| format!("{at:#x}"))
}

fn what_it_is(magic: u32) -> &'static str {
    match magic.to_be_bytes() {
        [0, 0, 0, 0] => " (a raw image, or nothing)",
        [b'Q', b'E', b'V', b'M'] => " (a migration stream)",
        [b'L', b'i', b'b', b'v'] => " (a libvirt save file)",
        [b'K', b'D', b'M', b'V'] => " (vmdk)",
        [b'v', b'h', b'd', b'x'] => " (vhdx)",
        _ => "",
    }
}
