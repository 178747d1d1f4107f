//! How far a job is.

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What the job is doing, as one word: `inspect`, `create`, `stream`, `settle`, `devices`,
    /// `seal`, `replace`, `answer`, `drain` (after a failure) and `end` in a save; `open`,
    /// `precopy`, `postcopy`, `verify`, `close` and `end` in a revert.
    pub phase: &'static str,
    /// Bytes of RAM done (zero pages too).
    pub done_bytes: u64,
    /// Bytes of RAM in all; 0 while that is not known.
    pub total_bytes: u64,
    /// Bytes that went through the channel.
    pub channel_bytes: u64,
}
