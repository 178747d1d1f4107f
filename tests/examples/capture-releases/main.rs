//! Captures what `corpus/capture` does not: streams of further releases and of KVM, files with a
//! place for each page, streams without their RAM, and NUMA guests with QEMU's own dump of their
//! memory. An argument takes only the files whose path contains it, `--missing` those that are not
//! there.

#[path = "../capture/keep.rs"]
mod keep;

mod elsewhere;
mod mapped;
mod numa;
mod releases;
mod stopped;

use std::process::ExitCode;

use snapshot_tests::{Guest, Version, Workload, corpus};

const MEMORY_MIB: u32 = 4;
/// The guest's pages are what makes a stream large.
const FEWEST_PAGES: Workload =
    Workload { used_percent: 1, rewrite: 1, interval: 4096, dirty_pages: 0, limit_mib: 0 };

fn main() -> ExitCode {
    let only = std::env::args().nth(1);
    let wanted = |path: &str| match only.as_deref() {
        Some("--missing") => !corpus::root().join(format!("{path}.bin.zst")).exists(),
        Some(part) => path.contains(part),
        None => true,
    };
    let Some(guest) = Guest::built_or_skip() else { return ExitCode::from(2) };
    for version in Version::ALL {
        let takes = [releases::take, mapped::take, elsewhere::take, numa::take];
        if takes.into_iter().any(|take| !take(version, guest, &wanted)) {
            eprintln!("capture-releases: there is no {version}: run .ci/qemu {}", version.number());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
