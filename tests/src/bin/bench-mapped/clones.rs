//! What many clones of one image cost.

use crate::saved::{Saved, Way};
use serde_json::json;
use snapshot_tests::table::{Table, Target, median};
use snapshot_tests::{Binary, Guest};
use std::fs;
use std::thread;
use std::time::Duration;

const MEMORY_MIB: u32 = 256;
/// Postcopy clones have all of their RAM for themselves: fewer of them say as much.
const POSTCOPY_CLONES: usize = 10;

pub(crate) fn measure(binary: &Binary, guest: &Guest, count: usize) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk that is measured");
    let saved = Saved::new(binary, guest, folder.path(), MEMORY_MIB);
    let mut table = Table::default();
    Table::head(&format!("{}, paused clones of a guest with {MEMORY_MIB} MiB", binary.version()));
    for (way, count) in [(Way::Mapped, count), (Way::Postcopy, count.min(POSTCOPY_CLONES))] {
        let mut cpu = Vec::new();
        let mut clones = Vec::new();
        for _ in 0..count {
            let mut clone = saved.start(binary, guest, way, "");
            if way == Way::Postcopy {
                while clone.qemu.migration_status() != "completed" {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            clone.qemu.execute("stop", json!({}));
            cpu.push(clone.tool_cpu());
            clones.push(clone.qemu);
        }
        let pss = clones.iter().map(|clone| pss_mib(clone.pid()));
        let each = median(pss);
        let mapped = way == Way::Mapped;
        let target = |target| if mapped { target } else { Target::None };
        table.line(&format!("{count} clones, {way:?}: PSS each"), each, "MiB", target(Target::AtMost(18.0)));
        let later = median(cpu.into_iter().skip(1));
        let limit = target(Target::AtMost(10.0));
        table.line(&format!("{count} clones, {way:?}: CPU of the tool, after the first"), later, "ms", limit);
    }
    table.end();
}

/// Proportional set size (proc_pid_smaps(5)).
fn pss_mib(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("our own process");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("documented");
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib / 1024.0
}
