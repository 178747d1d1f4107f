//! Lines on stderr, which must never stop a job: a pipe that no one reads is full after 64 KiB.

use crate::wait::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a line waits for room, until one has waited in vain.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where there is room for so much, a write of no more does not block (pipe(7), `PIPE_BUF`).
const ATOMIC_BYTES: usize = 4096;

static NO_ONE_READS: AtomicBool = AtomicBool::new(false);

/// Writes a line. If no one reads it, it is dropped.
pub(crate) fn say(text: &str) {
    let line = format!("{text}\n");
    for part in line.as_bytes().chunks(ATOMIC_BYTES) {
        if !has_room(PATIENCE) || io::stderr().write_all(part).is_err() {
            return;
        }
    }
}

/// A line can be written within this time.
pub(crate) fn has_room(patience: Duration) -> bool {
    let patience = if NO_ONE_READS.load(Ordering::Relaxed) { Duration::ZERO } else { patience };
    let stderr = io::stderr();
    // What cannot be polled does not block.
    let room = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&timespec(patience))) != Ok(0);
    if !patience.is_zero() || room {
        NO_ONE_READS.store(!room, Ordering::Relaxed);
    }
    room
}

/// Writes a line of JSON to stderr.
pub(crate) fn json_line(object: &Value) {
    say(&object.to_string());
}
