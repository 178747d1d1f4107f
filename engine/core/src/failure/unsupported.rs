//! What a stream may legally hold and a snapshot cannot.

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
        /// Where the command is.
        offset: u64,
        /// Its name.
        command: &'static str,
    },
    /// COLO keeps two running guests in step; there is nothing to store.
    #[error("offset {offset:#x}: command ENABLE_COLO cannot be stored")]
    Colo {
        /// Where the command is.
        offset: u64,
    },
    /// The stream ends after EOF, without a vmdesc, which was not announced.
    #[error("the stream has no vmdesc, so its end cannot be verified")]
    NoVmdesc,
    /// Nothing follows the RAM.
    #[error("the stream ends without a device section")]
    NoDevices,
    /// Device sections follow, and no RAM has arrived before them.
    #[error("the stream has no RAM before its device sections")]
    NoRam,
    /// A region that is kept in memory grew too large.
    #[error("{region}: more than {limit_bytes} bytes")]
    TooLarge {
        /// Which one.
        region: Region,
        /// The limit, in bytes.
        limit_bytes: u64,
    },
}

impl Unsupported {
    /// The stream is none of a background snapshot, which alone has to be drained: QEMU refuses the
    /// two together.
    pub(crate) fn rules_out_background_snapshot(&self) -> bool {
        matches!(self, Self::Multifd | Self::Postcopy { .. } | Self::Colo { .. })
    }
}

/// A part of the stream that is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Region {
    /// Header, configuration, early devices, START sections.
    BeforeRam,
    /// PART and END sections of other iterables than RAM.
    Iterables,
    /// From the first device section on.
    Devices,
    /// One record, which is understood as a whole.
    Record,
}

impl Region {
    /// As in `the sections before RAM`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BeforeRam => "the sections before RAM",
            Self::Iterables => "iterables other than RAM",
            Self::Devices => "device sections",
            Self::Record => "one record of the stream",
        }
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
