//! How far long work is, on stderr: a bar on a terminal after a second, lines of JSON for programs,
//! or nothing.

use crate::walk::Progress;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Work that is done before has no bar.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// Between two lines of JSON.
const INTERVAL: Duration = Duration::from_millis(200);

/// How progress is reported on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A bar if stderr is a terminal, and the work takes longer than a second
    Auto,
    /// One JSON object per line (docs/messages.md)
    Json,
    /// Not at all
    None,
}

/// What the command line says; set once, before anything is read.
static MODE: OnceLock<Mode> = OnceLock::new();

/// Chooses how this process reports progress.
pub(crate) fn choose(mode: Mode) {
    // Only the first choice counts: there is one command in a process.
    let _ = MODE.set(mode);
}

/// Reports one piece of work; what it has drawn goes with it.
#[derive(Debug)]
pub(crate) struct Meter {
    what: &'static str,
    start: Instant,
    last: Option<Instant>,
    bar: Option<ProgressBar>,
    mode: Mode,
}

impl Meter {
    /// Begins: `what` is done, as in `reading`.
    pub(crate) fn new(what: &'static str) -> Self {
        let mode = match MODE.get().copied().unwrap_or(Mode::None) {
            Mode::Auto if !std::io::stderr().is_terminal() => Mode::None,
            mode => mode,
        };
        Self { what, start: Instant::now(), last: None, bar: None, mode }
    }

    /// So many bytes are done, of so many where that is known.
    pub(crate) fn at(&mut self, done: u64, total: Option<u64>) {
        match self.mode {
            Mode::None => {}
            Mode::Json => self.line(done, total),
            Mode::Auto if self.bar.is_some() || self.start.elapsed() >= SHOWN_AFTER => self.draw(done, total),
            Mode::Auto => {}
        }
    }

    fn line(&mut self, done: u64, total: Option<u64>) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        let object = serde_json::json!({
            "type": "progress", "phase": self.what, "done_bytes": done, "total_bytes": total,
            "seconds": (self.start.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        });
        // A reader that is gone does not stop the work.
        let _ = writeln!(std::io::stderr(), "{object}");
    }

    fn draw(&mut self, done: u64, total: Option<u64>) {
        let what = self.what;
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let template = match total {
                Some(_) => "{msg} {bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
                None => "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}",
            };
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style).with_message(what)
        });
        bar.set_position(done);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// For a walk over an input.
pub(crate) fn bar() -> Option<Progress> {
    let mut meter = Meter::new("reading");
    (meter.mode != Mode::None).then(|| -> Progress { Box::new(move |done, total| meter.at(done, total)) })
}
