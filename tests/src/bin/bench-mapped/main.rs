//! The speed of mapped reverts with real QEMU: how soon the guest runs, how fast it is at once, and
//! what many clones of one image cost. All ways are measured in turns in one run.
//!
//! `cargo bench-mapped [ROUNDS [CLONES]]`: rounds (9), paused clones of a guest with 256 MiB (100).

mod clones;
mod saved;
mod start;

use snapshot_tests::{Guest, Version};

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|text| text.parse().ok());
    let rounds = arguments.next().unwrap_or(9);
    let count = arguments.next().unwrap_or(100);
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each_that(Version::maps_read_only) {
        start::measure(&binary, guest, rounds);
        clones::measure(&binary, guest, count);
    }
}
