//! The speed of postcopy reverts: how soon the guest runs, when all its pages are there, and how
//! long it waits for a page that it touches. `cargo bench-postcopy [ROUNDS]` (5).

mod faults;
mod qemu;

use snapshot_tests::{Guest, Version};

fn main() {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    faults::measure(rounds);
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each() {
        qemu::measure(&binary, guest, rounds);
    }
}
