//! What a revert is to do, and what it has done.

use super::postcopy::{PostcopyConfig, PostcopySummary};
use snapshot_image::Verification;

/// Configuration of a revert.
#[derive(Debug, Clone)]
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
    /// Where there is no such limit: the longest wait for a destination whose guest does not run yet, in milliseconds. Not
    /// for one that is being recovered.
    pub loading_timeout_ms: Option<u64>,
    /// The guest runs before all its pages are there.
    pub postcopy: Option<PostcopyConfig>,
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
    /// Bytes of output.
    pub sent_bytes: u64,
    /// What happened in postcopy, if it was one.
    pub postcopy: Option<PostcopySummary>,
}
