//! What a revert is to do, and what it has done.

use super::mapped::MappedBlock;
use super::postcopy::{PostcopyConfig, PostcopySummary};
use crate::identity::IdentityConfig;
use snapshot_image::Verification;

/// Configuration of a revert.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RevertConfig {
    /// Length in bytes of the image file.
    pub image_length_bytes: u64,
    /// Limits for what the leader holds.
    pub stream: migration_stream::Options,
    /// Go on without checksums, or against them being gone.
    pub allow_unverified: bool,
    /// The destination's RAM is private and new: zero pages need not be sent.
    pub fresh_ram: bool,
    /// The longest wait for the destination, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Where there is no such limit: the longest wait for a destination whose guest does not run
    /// yet, in milliseconds. Not for one that is being recovered.
    pub loading_timeout_ms: Option<u64>,
    /// What the destination has mapped from the image, as was proved: it is not sent.
    pub mapped: Vec<MappedBlock>,
    /// The guest is a clone: which of its NICs get other addresses.
    pub identity: Option<IdentityConfig>,
    /// The guest runs before all its pages are there.
    pub postcopy: Option<PostcopyConfig>,
}

impl RevertConfig {
    /// A verified precopy revert from an image of this length, which waits for its destination as
    /// long as that takes.
    #[must_use]
    pub fn new(image_length_bytes: u64) -> Self {
        Self {
            image_length_bytes,
            stream: migration_stream::Options::default(),
            allow_unverified: false,
            fresh_ram: false,
            timeout_ms: None,
            loading_timeout_ms: None,
            mapped: Vec::new(),
            identity: None,
            postcopy: None,
        }
    }

    /// The same with what `change` does to it.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevertSummary {
    /// UUID of the snapshot, where it has one.
    pub uuid: Option<[u8; 16]>,
    /// Whether the image was verified.
    pub verification: Verification,
    /// Pages sent with their content.
    pub normal_pages: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Bytes of RAM that were not sent, because the destination has mapped them from the image.
    pub mapped_bytes: u64,
    /// Bytes of output.
    pub sent_bytes: u64,
    /// What happened in postcopy, if it was one.
    pub postcopy: Option<PostcopySummary>,
}
