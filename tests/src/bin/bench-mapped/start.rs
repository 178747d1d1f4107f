//! How soon a guest runs from the image, and how fast it is in its first second.

use crate::saved::{Saved, Way};
use snapshot_tests::table::{Table, Target, median};
use snapshot_tests::{Binary, Guest};
use std::time::Instant;

/// RAM of the guests, in MiB.
const SIZES: [u32; 3] = [512, 4096, 8192];
/// Which of them is measured in every way.
const MIDDLE: usize = 1;

/// Medians of one size.
struct Medians {
    running: f64,
    postcopy: f64,
    first_time: f64,
    read: f64,
    /// The guest's work in its first second, of that before it was saved.
    work: f64,
    postcopy_work: f64,
    cpu: f64,
}

pub(crate) fn measure(binary: &Binary, guest: &Guest, rounds: usize) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk that is measured");
    let mut table = Table::default();
    Table::head(&format!("{}, mapped reverts, medians of {rounds}", binary.version()));
    let mut all = Vec::new();
    for (number, mib) in SIZES.into_iter().enumerate() {
        let saved = Saved::new(binary, guest, folder.path(), mib);
        let medians = warm(binary, guest, &saved, rounds);
        print(&mut table, mib, &medians, number == MIDDLE);
        if number == MIDDLE {
            cold(&mut table, binary, guest, &saved, rounds.min(3));
        }
        all.push(medians);
        std::fs::remove_file(&saved.image).expect("our own");
    }
    let (small, large) = (all[0].running, all[SIZES.len() - 1].running);
    // 1.1 x, or 2 ms more: whichever is more.
    let limit = (small * 1.1).max(small + 2.0) / small;
    table.line("guest runs, with a record: 8 GiB, of 512 MiB", large / small, "x", Target::AtMost(limit));
    table.end();
}

fn warm(binary: &Binary, guest: &Guest, saved: &Saved, rounds: usize) -> Medians {
    let mut columns: [Vec<f64>; 7] = Default::default();
    saved.read_once();
    for _ in 0..rounds {
        saved.forget();
        let first_time = saved.start(binary, guest, Way::Mapped, "").running;
        let read = saved.read_once();
        let mapped = saved.start(binary, guest, Way::Mapped, "");
        let (running, work) = (mapped.running, mapped.first_second());
        let cpu = mapped.tool_cpu();
        drop(mapped);
        let postcopy = saved.start(binary, guest, Way::Postcopy, "");
        let (later, postcopy_work) = (postcopy.running, postcopy.first_second());
        let before = saved.writes_per_second;
        let row = [running, later, first_time, read, work / before, postcopy_work / before, cpu];
        columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }
    let [running, postcopy, first_time, read, work, postcopy_work, cpu] = columns.map(median);
    Medians { running, postcopy, first_time, read, work, postcopy_work, cpu }
}

fn print(table: &mut Table, mib: u32, of: &Medians, is_middle: bool) {
    let middle = |target| if is_middle { target } else { Target::None };
    let mut line = |what: &str, value, unit, target| {
        table.line(&format!("{mib} MiB: {what}"), value, unit, target);
    };
    line("guest runs, with a record", of.running, "ms", middle(Target::AtMost(20.0)));
    line("guest runs, postcopy=0", of.postcopy, "ms", Target::None);
    line("guest runs: mapped, of postcopy=0", of.running / of.postcopy, "x", Target::AtMost(1.0));
    line("guest runs, first time", of.first_time, "ms", Target::None);
    line("one sequential read of the image", of.read, "ms", Target::None);
    line("first time, of one read", of.first_time / of.read, "x", Target::AtMost(1.1));
    line("work in the first second, of before the save", of.work, "x", Target::AtLeast(0.9));
    line("the same, postcopy=0", of.postcopy_work, "x", Target::None);
    line("CPU of the tool, with a record", of.cpu, "ms", Target::AtMost(10.0));
}

/// With nothing of the image in memory: until the guest runs, and until it has seen all its pages.
fn cold(table: &mut Table, binary: &Binary, guest: &Guest, saved: &Saved, rounds: usize) {
    for way in [Way::Mapped, Way::Postcopy] {
        let (mut running, mut pass) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            saved.cool();
            let start = Instant::now();
            let clone = saved.start(binary, guest, way, "");
            clone.qemu.console().wait_passes(2);
            running.push(clone.running);
            pass.push(start.elapsed().as_secs_f64());
        }
        table.line(&format!("cold, {way:?}: guest runs"), median(running), "ms", Target::None);
        table.line(&format!("cold, {way:?}: two passes done"), median(pass), "s", Target::None);
    }
}
