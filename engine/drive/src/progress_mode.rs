//! How progress is shown: an option of each job.

use clap::ValueEnum;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar if stderr is a terminal
    Auto,
    /// One JSON object per line, all other messages included; the last one is the result
    Json,
    /// Not at all
    None,
}
