//! Shows how far a job is.

use crate::cli::ProgressMode;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use snapshot_engine::Progress;
use std::io::{IsTerminal, Write};

/// A bar on a terminal, lines of JSON for programs, or nothing.
#[derive(Debug)]
pub(crate) enum Display {
    Bar(ProgressBar),
    Json { last: Progress },
    None,
}

impl Display {
    pub(crate) fn new(mode: ProgressMode) -> Self {
        match mode {
            ProgressMode::Json => Self::Json { last: Progress::default() },
            ProgressMode::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
                let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                Self::Bar(bar.with_style(
                    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()),
                ))
            }
            ProgressMode::Auto | ProgressMode::None => Self::None,
        }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
            }
            Self::Json { last } if *last != progress => {
                *last = progress;
                let line = serde_json::json!({
                    "done_bytes": progress.done_bytes,
                    "total_bytes": progress.total_bytes,
                    "channel_bytes": progress.channel_bytes,
                });
                // A reader that is gone does not stop the job.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            Self::Json { .. } | Self::None => {}
        }
    }

    pub(crate) fn end(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
