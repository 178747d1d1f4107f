//! Shows how far a job is.

use crate::progress_mode::ProgressMode;
use crate::words::{has_room, json_line};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use snapshot_engine::Progress;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A bar on a terminal, lines of JSON for programs, or nothing.
#[derive(Debug)]
pub(crate) enum Display {
    Bar(ProgressBar),
    Json { start: Instant, last: Progress },
    None,
}

impl Display {
    pub(crate) fn new(mode: ProgressMode) -> Self {
        match mode {
            ProgressMode::Json => Self::Json { start: Instant::now(), last: Progress::default() },
            ProgressMode::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
                let template = "{msg:8} {bar:40} {binary_bytes} of {binary_total_bytes} RAM, {binary_bytes_per_sec}, {eta} left";
                Self::Bar(bar.with_style(
                    ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()),
                ))
            }
            ProgressMode::Auto | ProgressMode::None => Self::None,
        }
    }

    pub(crate) fn show(&mut self, progress: Progress) {
        match self {
            // Of what the next line replaces nothing is lost.
            Self::Bar(_) | Self::Json { .. } if !has_room(Duration::ZERO) => {}
            Self::Bar(bar) => {
                bar.set_message(progress.phase);
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
            }
            Self::Json { start, last } if *last != progress => {
                *last = progress;
                let seconds = (start.elapsed().as_secs_f64() * 1e3).round() / 1e3;
                json_line(&progress_object(&progress, seconds));
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

fn progress_object(progress: &Progress, seconds: f64) -> serde_json::Value {
    serde_json::json!({
        "type": "progress",
        "phase": progress.phase,
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "channel_bytes": progress.channel_bytes,
        "seconds": seconds,
        "bytes_per_second": rate(progress.channel_bytes, seconds),
    })
}

/// Bytes of the channel in a second, on average since the start.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { (bytes as f64 / seconds).round() } else { 0.0 }
}
