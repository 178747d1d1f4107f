//! What a postcopy revert is to do, and what it has done.

use super::hot_set::HotSet;

/// Configuration of a postcopy revert.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostcopyConfig {
    /// How many of 100 non-zero pages are sent before the guest runs.
    pub percent: u8,
    /// Host page size of the destination in bytes, where nothing else is known.
    pub host_page_bytes: u64,
    /// Host page sizes of single blocks at the destination: name, bytes.
    pub host_pages: Vec<(Vec<u8>, u64)>,
    /// Requested pages go through a second connection.
    pub preempt: bool,
    /// Sent before the guest runs, if it is one of this snapshot, and not while a new one is recorded.
    pub hot_set: Option<HotSet>,
    /// For how long after the guest's start requests are recorded, in milliseconds. Nothing that is
    /// not requested is sent for so long.
    pub record_ms: Option<u64>,
    /// The destination can answer.
    pub can_answer: bool,
    /// Go on with an interrupted postcopy of the snapshot with this UUID.
    pub recover: Option<[u8; 16]>,
}

impl PostcopyConfig {
    /// A postcopy that sends nothing before the guest runs, to a destination that can answer and
    /// has host pages of this size.
    #[must_use]
    pub fn new(host_page_bytes: u64) -> Self {
        Self {
            percent: 0,
            host_page_bytes,
            host_pages: Vec::new(),
            preempt: false,
            hot_set: None,
            record_ms: None,
            can_answer: true,
            recover: None,
        }
    }

    /// The same with what `change` does to it.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What happened in postcopy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PostcopySummary {
    /// Requests of the destination.
    pub requests: u64,
    /// Host pages that were sent because they were requested.
    pub requested_host_pages: u64,
}
