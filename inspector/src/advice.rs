//! What a user can do about an error or a finding. Which option of a program does it is for the program to
//! say.

use migration_stream::ErrorKind;
use snapshot_engine::Failure;
use snapshot_image::{Feature, ImageError};

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Advice {
    /// Read it with another page size.
    PageSize,
    /// Allow more RAM.
    RamLimit,
    /// Allow more bytes to be unpacked.
    UnpackLimit,
    /// Give the multifd channels.
    Channels,
    /// Take the pages of a mapped-ram file from their places.
    Salvage,
    /// Read an image without checks.
    Unverified,
    /// Let `qemu-img` repair an image.
    Repair,
    /// Choose one of several internal snapshots.
    ChooseSnapshot,
    /// Replace an existing file.
    Replace,
    /// Take single blocks instead of the guest's memory.
    SingleBlocks,
    /// List the blocks of main RAM in the order of the NUMA nodes.
    NodeOrder,
    /// Give the address of the block with this name (escaped), or leave it out.
    PlaceBlock(String),
    /// Leave virtual addresses out of a core.
    PhysicalAddresses,
}

impl Advice {
    /// About an error of the stream.
    pub(crate) fn of_stream(error: &ErrorKind) -> Option<Self> {
        match error {
            kind if kind.may_be_of_page_size() => Some(Self::PageSize),
            kind if kind.is_ram_limit() => Some(Self::RamLimit),
            _ => None,
        }
    }

    /// About an error of an image.
    pub(crate) fn of_image(error: &ImageError) -> Option<Self> {
        match error {
            ImageError::Unverifiable(_) => Some(Self::Unverified),
            ImageError::Foreign(Feature::Corrupt | Feature::Dirty) => Some(Self::Repair),
            _ => None,
        }
    }

    /// About a snapshot that cannot be read as a revert reads it.
    pub(crate) fn of_failure(failure: &Failure) -> Option<Self> {
        match failure {
            Failure::WrongImage(error) => Self::of_image(error),
            _ => None,
        }
    }
}
