//! Why a block's pages cannot be left out: what was found, and what is needed.

use super::maps::FileKey;
use snapshot_engine::size_text;

/// A block whose memory is not shown to be the image's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ram block \"{}\": {problem}", .block.escape_ascii())]
pub struct Refusal {
    /// The block's name.
    pub block: Vec<u8>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a block's memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The image has no block with this name.
    #[error("the image has none with this name")]
    Unknown,
    /// No object has its name, so nothing says which mapping it is.
    #[error(
        "no memory-backend-file object on the destination's command line has this id, so nothing shows which \
         mapping it is (one that was added later, or read from a file, is not there); needed: offset={needed:#x}"
    )]
    Unnamed {
        /// Where the block lies in the image.
        needed: u64,
    },
    /// Two objects can be meant.
    #[error("{found} objects on the destination's command line have this id, expected one")]
    NamedTwice {
        /// How many there are.
        found: usize,
    },
    /// The object is not memory of the machine.
    #[error(
        "the object with this id is no memory of the machine: no memory-backend=, NUMA memdev= or pc-dimm memdev= \
         names it"
    )]
    Unused,
    /// The object begins elsewhere.
    #[error("its object has offset={found:#x}, needed: offset={needed:#x}")]
    Offset {
        /// Where its object begins in the file.
        found: u64,
        /// Where the block lies in the image.
        needed: u64,
    },
    /// The object is too small.
    #[error("its object has {}, needed: {}", size_text(*.found), size_text(*.needed))]
    Size {
        /// Length of the object's memory in bytes.
        found: u64,
        /// Length of the block in bytes.
        needed: u64,
    },
    /// The destination would write into the image.
    #[error("the image is mapped shared ({letters}) at address {address:#x}, needed: private (share=off)")]
    Shared {
        /// How it is mapped.
        letters: String,
        /// Where.
        address: u64,
    },
    /// The guest could not use it.
    #[error("it is mapped {letters} at address {address:#x}, needed: rwp (readonly=on,rom=off)")]
    Letters {
        /// How it is mapped.
        letters: String,
        /// Where.
        address: u64,
    },
    /// Only a part of it is mapped.
    #[error(
        "{} of it are mapped from the image, at address {address:#x}; needed: all of {} from file offset \
         {base:#x} on, in one piece",
        size_text(*.mapped),
        size_text(*.needed)
    )]
    Part {
        /// How many bytes are, in one piece.
        mapped: u64,
        /// Length of the block in bytes.
        needed: u64,
        /// Where the block lies in the image.
        base: u64,
        /// Where the piece is in the destination.
        address: u64,
    },
    /// Another file is mapped.
    #[error("at address {address:#x} file {found} is mapped, needed: the image, {needed}")]
    OtherFile {
        /// The file.
        found: FileKey,
        /// The image.
        needed: FileKey,
        /// Where in the destination.
        address: u64,
    },
    /// Nothing is mapped.
    #[error("the destination maps no file there, needed: file {needed} from offset {base:#x} on")]
    Nowhere {
        /// The image.
        needed: FileKey,
        /// Where the block lies in it.
        base: u64,
    },
    /// Nothing shows which mapping is the block.
    #[error(
        "the destination has {mappings} mappings of its place in the image, and {objects} objects with \
         offset={base:#x}; needed: one of each"
    )]
    Ambiguous {
        /// Mappings of the block's place in the image.
        mappings: usize,
        /// Objects that begin there.
        objects: usize,
        /// Where the block lies in the image.
        base: u64,
    },
}
