//! Why a revert cannot leave pages out.

/// Why pages cannot be left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappedError {
    /// The snapshot has no block of this name.
    #[error("block \"{}\" is mapped, but the snapshot has no block of this name", .block.escape_ascii())]
    UnknownBlock {
        /// The name.
        block: Vec<u8>,
    },
    /// The block does not lie in one piece of the file.
    #[error("block \"{}\" is mapped, but the image has the dense layout", .block.escape_ascii())]
    Dense {
        /// The block's name.
        block: Vec<u8>,
    },
    /// What is mapped could be anything.
    #[error("the image's checksums do not count ({reason}), so what is mapped from it proves nothing")]
    Unverified {
        /// Why they do not.
        reason: &'static str,
    },
    /// A destination that waits for pages has its RAM by itself (QEMU refuses `postcopy-ram` with
    /// such memory).
    #[error("a block that is mapped from the image cannot be reverted in postcopy")]
    Postcopy,
}
