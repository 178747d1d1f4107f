//! A bar on stderr while long work goes on.

use crate::walk::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Work below this is done before a bar could be read.
const SHOWN_FROM_BYTES: u64 = 256 << 20;

/// The bar; none where stderr is no terminal.
pub(super) fn bar() -> Option<Progress> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::hidden();
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut shown = false;
    Some(Box::new(move |done, total| {
        let large = total.unwrap_or(done) >= SHOWN_FROM_BYTES;
        if large && !shown {
            shown = true;
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        if shown {
            bar.set_length(total.unwrap_or(done));
            bar.set_position(done);
            if total == Some(done) {
                bar.finish_and_clear();
            }
        }
    }))
}
