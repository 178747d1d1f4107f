//! Pages of 2 MiB, which a system has only where they were reserved.

use std::fs;

use crate::not_run;

/// Whether `count` reserved pages of 2 MiB are free; some are reserved first where that is needed
/// and allowed (root). Where it is not, the test is to return: this has said why, or failed in CI.
#[must_use]
pub fn huge_pages_or_skip(count: u64) -> bool {
    if free() < count {
        // Where it fails, the count says so.
        let _ = fs::write("/proc/sys/vm/nr_hugepages", (count + 16).to_string());
    }
    let enough = free() >= count;
    if !enough {
        not_run(&format!("no {count} free huge pages of 2 MiB (vm.nr_hugepages)"));
    }
    enough
}

fn free() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
