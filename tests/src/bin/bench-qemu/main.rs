//! The speed of save and revert with real QEMU, as ratios: all ways are measured in turns in one
//! run on one machine, and the median is reported, with what it is meant to be. Absolute numbers of a
//! machine that others use, too, mean little.
//!
//! `cargo bench-qemu [MIB [ROUNDS]]`: RAM of the guest (2048), rounds (5).

mod contestant;

use contestant::{Contestant, Save, Way, started};
use snapshot_tests::table::{Table, Target, median};
use snapshot_tests::{Binary, Guest, Version};
use std::process::Command;
use std::time::Duration;

/// All saves of each contestant, in turns.
fn measure_saves(
    contestants: &[Contestant],
    binary: &Binary,
    guest: &Guest,
    mib: u32,
    rounds: usize,
) -> Vec<Vec<Save>> {
    let gib = f64::from(mib) / 1024.0;
    let mut source = started(binary, guest, mib);
    let mut saves = vec![Vec::new(); contestants.len()];
    for _ in 0..rounds {
        for (contestant, saves) in contestants.iter().zip(&mut saves) {
            saves.push(contestant.save(&mut source, gib));
        }
    }
    source.console().assert_sound();
    source.quit();
    saves
}

/// Takes as much memory as a guest will, and gives it back. Where this machine is a guest itself,
/// its host may have taken what is free, and the first to use it would wait for that: up to several
/// times as long as a revert takes.
fn back_memory(mib: u32) {
    std::hint::black_box(vec![1_u8; (mib as usize) << 20]);
}

/// Seconds of all reverts of each contestant, in turns.
fn measure_reverts(
    contestants: &[Contestant],
    binary: &Binary,
    guest: &Guest,
    mib: u32,
    rounds: usize,
    cold: bool,
) -> Vec<Vec<f64>> {
    let mut reverts = vec![Vec::new(); contestants.len()];
    for _ in 0..rounds {
        for (contestant, reverts) in contestants.iter().zip(&mut reverts) {
            if cold {
                contestant.cool();
            }
            back_memory(mib);
            reverts.push(contestant.revert(binary, guest, mib));
        }
    }
    reverts
}

fn tell_saves(table: &mut Table, contestants: &[Contestant], saves: &[Vec<Save>], gib: f64) {
    let of = |saves: &[Save], value: fn(&Save) -> f64| median(saves.iter().map(value));
    let cat = contestants.iter().position(|c| c.way == Way::Cat).expect("always there");
    let plain = &saves[cat];
    for (contestant, saves) in contestants.iter().zip(saves) {
        let name = contestant.way.name();
        let ours = matches!(contestant.way, Way::Ours { .. });
        let target = |target| if ours { target } else { Target::None };
        if contestant.way == Way::Cat {
            table.line("save, cat and sync: time", of(saves, |s| s.seconds), "s", Target::None);
        } else {
            let ratio = of(saves, |s| s.seconds) / of(plain, |s| s.seconds);
            let limit = target(Target::AtMost(1.15));
            table.line(&format!("save, {name}: time, of cat"), ratio, "x", limit);
        }
        let progress = of(saves, |s| s.guest_writes) / of(plain, |s| s.guest_writes);
        // A stopped guest makes none.
        if contestant.way != Way::Cat && progress > 0.0 {
            let limit = target(Target::AtLeast(0.95));
            table.line(&format!("save, {name}: guest's progress, of that with cat"), progress, "x", limit);
        }
        // QEMU itself is no measure: it runs the guest meanwhile.
        if !matches!(contestant.way, Way::MappedRam { .. }) {
            let (cpu, peak) = (of(saves, |s| s.cpu_per_gib), of(saves, |s| s.peak_mib));
            table.line(&format!("save, {name}: CPU time"), cpu, "s per GiB", target(Target::AtMost(0.35)));
            let limit = target(Target::AtMost(128.0 + 1.5 * gib));
            table.line(&format!("save, {name}: memory"), peak, "MiB", limit);
        }
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let size = contestant.file_bytes() as f64 / f64::from(1 << 20);
        table.line(&format!("save, {name}: size on disk"), size, "MiB", Target::None);
    }
}

fn tell_reverts(table: &mut Table, contestants: &[Contestant], reverts: &[Vec<f64>], cold: bool) {
    let name = if cold { "cold" } else { "warm" };
    let cat = contestants.iter().position(|c| c.way == Way::Cat).expect("always there");
    let plain = median(reverts[cat].iter().copied());
    table.line(&format!("revert {name}, exec:cat: time"), plain, "s", Target::None);
    for (contestant, reverts) in contestants.iter().zip(reverts) {
        if contestant.way == Way::Cat {
            continue;
        }
        let target = match contestant.way {
            // What goes past the page cache comes from the disk, however warm the page cache is.
            Way::Ours { direct } if cold || !direct => Target::AtMost(1.05),
            _ => Target::None,
        };
        let ratio = median(reverts.iter().copied()) / plain;
        table.line(&format!("revert {name}, {}: time, of cat", contestant.way.name()), ratio, "x", target);
    }
}

fn measure(binary: &Binary, guest: &Guest, mib: u32, rounds: usize) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk that is measured");
    let contestants: Vec<_> =
        Way::all(binary.version()).into_iter().map(|way| Contestant::new(way, folder.path())).collect();
    let saves = measure_saves(&contestants, binary, guest, mib, rounds);
    let mut table = Table::default();
    Table::head(&format!("{}, {mib} MiB of RAM, medians of {rounds}", binary.version()));
    tell_saves(&mut table, &contestants, &saves, f64::from(mib) / 1024.0);
    for cold in [false, true] {
        let reverts = measure_reverts(&contestants, binary, guest, mib, rounds, cold);
        tell_reverts(&mut table, &contestants, &reverts, cold);
    }
    table.end();
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mib = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2048);
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    assert!(Command::new("/usr/bin/time").arg("true").status().is_ok(), "needs /usr/bin/time (package time)");
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each() {
        measure(&binary, guest, mib, rounds);
        std::thread::sleep(Duration::from_secs(1));
    }
}
