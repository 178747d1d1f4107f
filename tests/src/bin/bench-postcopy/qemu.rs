//! Real QEMU: time to run, time until all pages are there, requests with and without a hot set.

use serde_json::json;
use snapshot_engine::HotSet;
use snapshot_image::crc32c;
use snapshot_tests::table::{Table, Target, median};
use snapshot_tests::tool::qemu_snapshot;
use snapshot_tests::{Binary, Config, Guest, Outcome, Qemu, ToImage, Workload, exec_uri};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What precedes the ranges of a hot set.
const MAGIC_AND_UUID_BYTES: usize = 24;

/// A saved guest.
struct Saved {
    config: Config,
    image: PathBuf,
}

/// One revert.
#[derive(Debug, Clone, Copy, Default)]
struct Revert {
    /// From `migrate-incoming` until the guest was seen running, in ms.
    running: f64,
    /// From the tool's start until the destination has loaded the devices, in ms.
    loaded: f64,
    /// From `migrate-incoming` until all pages were there, in ms.
    complete: f64,
    requests: f64,
}

/// Saves a guest that works in the first `limit_mib` of its memory: the rest is zero.
fn save(binary: &Binary, guest: &Guest, folder: &Path, memory_mib: u32, limit_mib: u32) -> Saved {
    save_with(binary, guest, folder, memory_mib, Workload { limit_mib, ..Workload::STEADY })
}

fn save_with(binary: &Binary, guest: &Guest, folder: &Path, memory_mib: u32, workload: Workload) -> Saved {
    let config = Config { memory_mib, workload, ..Config::default() };
    let image = folder.join(format!("{memory_mib}-{}-{}.qcow2", workload.limit_mib, workload.rewrite));
    let mut source = Qemu::start(binary, guest, config.clone());
    source.console().wait_ready();
    source.set_fast();
    assert!(source.background_snapshot_or_skip(), "needs write protection by userfaultfd");
    let save = ToImage { options: "--create", image: &image, stream: None };
    assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
    Saved { config, image }
}

/// The number before `unit` in the tool's words.
fn number(words: &str, unit: &str) -> f64 {
    let before = words.split_once(unit).map_or("", |(before, _)| before);
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

fn revert(binary: &Binary, guest: &Guest, saved: &Saved, options: &str) -> Revert {
    let mut destination = Qemu::start(binary, guest, saved.config.incoming());
    let postcopy = options.contains("--postcopy");
    destination.set_capabilities(&[("postcopy-ram", postcopy)]);
    let uri = exec_uri(&format!("--revert {options}"), &saved.image);
    let start = Instant::now();
    let since = || start.elapsed().as_secs_f64() * 1e3;
    destination.execute("migrate-incoming", json!({ "uri": uri }));
    let (mut running, mut complete) = (0.0, 0.0);
    while running == 0.0 || complete == 0.0 {
        if running == 0.0 && destination.run_state() == "running" {
            running = since();
        }
        if destination.migration_status() == "completed" {
            complete = since();
        }
    }
    // The tool ends when the destination has said that it is done; its last words may come a moment later.
    std::thread::sleep(std::time::Duration::from_millis(50));
    let words = destination.stderr();
    let loaded = words.lines().find_map(|line| line.split_once("loaded after ")).map_or("", |(_, time)| time);
    Revert {
        running,
        loaded: number(&format!(" {loaded}"), " ms"),
        complete,
        requests: number(&words, " requests"),
    }
}

/// Where the profile of `saved` is.
fn profile(saved: &Saved) -> PathBuf {
    let mut name = saved.image.clone().into_os_string();
    name.push(".hot-set");
    name.into()
}

/// How long the guest waits for a page that it touches, in us: one processor verifies page after
/// page, and nothing comes that it did not ask for. What it needs to verify a page that is there is
/// taken off.
fn fault(binary: &Binary, guest: &Guest, saved: &Saved) -> f64 {
    const SECONDS: f64 = 3.0;
    let mut destination = Qemu::start(binary, guest, saved.config.incoming());
    destination.set_capabilities(&[("postcopy-ram", true)]);
    let tool = qemu_snapshot().display();
    let uri =
        format!("exec:{tool} --revert --postcopy=0 --record-hot-set={SECONDS} {}", saved.image.display());
    destination.execute("migrate-incoming", json!({ "uri": uri }));
    while destination.migration_status() != "completed" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    destination.console().wait_passes(1);
    let start = Instant::now();
    destination.console().wait_passes(1);
    let page = start.elapsed().as_secs_f64() * 1e6 / f64::from(saved.config.memory_mib * 256);
    let recorded = std::fs::read(profile(saved)).expect("it was recorded");
    let hot = HotSet::parse(&recorded).expect("it is whole");
    let pages: u64 = hot.ranges().map(|(_, _, length)| length / 4096).sum();
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let fault = SECONDS * 1e6 / pages as f64;
    fault - page
}

/// Replaces the profile of `saved` by one that is of no use: an eighth of its memory, scattered,
/// the last first.
fn spoil(saved: &Saved) {
    let name = profile(saved);
    let recorded = std::fs::read(&name).expect("it was recorded");
    let mut profile = recorded[..MAGIC_AND_UUID_BYTES].to_vec();
    for page in (0..saved.config.memory_mib * 256).rev().step_by(8) {
        profile.extend([0; 4]);
        profile.extend((u64::from(page) * 4096).to_be_bytes());
        profile.extend(4096_u64.to_be_bytes());
    }
    profile.extend(crc32c(&profile).to_be_bytes());
    std::fs::write(&name, profile).expect("it can be replaced");
}

pub(crate) fn measure(binary: &Binary, guest: &Guest, rounds: usize) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk that is measured");
    let small = save(binary, guest, folder.path(), 512, 512);
    // To fill 8 GiB would take minutes; most of a large guest's memory is zero elsewhere, too.
    let large = save(binary, guest, folder.path(), 8192, 512);
    // Recorded once, for as long as the guest needs to touch all that it works with.
    let hot = save(binary, guest, folder.path(), 512, 64);
    revert(binary, guest, &hot, "--postcopy=0 --record-hot-set=8");
    revert(binary, guest, &small, "--postcopy=0 --record-hot-set=1");
    spoil(&small);
    let ways = [
        (&small, "--fresh-ram"),
        (&small, "--postcopy=0 --no-hot-set"),
        (&large, "--postcopy=0"),
        (&hot, "--postcopy=0 --no-hot-set"),
        (&hot, "--postcopy=0"),
        (&small, "--postcopy=0"),
    ];
    let idle = save_with(binary, guest, folder.path(), 512, Workload::IDLE);
    let mut faults = Vec::new();
    let mut reverts = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for ((saved, options), reverts) in ways.iter().zip(&mut reverts) {
            reverts.push(revert(binary, guest, saved, options));
        }
        faults.push(fault(binary, guest, &idle));
    }
    let of = |way: usize, value: fn(&Revert) -> f64| median(reverts[way].iter().map(value));
    let mut table = Table::default();
    Table::head(&format!("{}, medians of {rounds}", binary.version()));
    let (precopy, plain, large, cold, hot, wrong) = (0, 1, 2, 3, 4, 5);
    for (way, name) in [(plain, "512 MiB"), (large, "8 GiB")] {
        let (loaded, running) = (of(way, |r| r.loaded), of(way, |r| r.running));
        table.line(&format!("{name}: tool's start to devices loaded"), loaded, "ms", Target::AtMost(15.0));
        table.line(
            &format!("{name}: guest runs after migrate-incoming"),
            running,
            "ms",
            Target::AtMost(50.0),
        );
        table.line(&format!("{name}: all pages there"), of(way, |r| r.complete), "ms", Target::None);
    }
    let sizes = of(large, |r| r.running) / of(plain, |r| r.running);
    table.line("guest runs: 8 GiB, of 512 MiB", sizes, "x", Target::AtMost(1.2));
    let all = of(plain, |r| r.complete) / of(precopy, |r| r.complete);
    table.line("512 MiB: all pages there, of our precopy", all, "x", Target::AtMost(1.15));
    table.line("512 MiB: requests", of(plain, |r| r.requests), "", Target::None);
    table.line("one processor, background off: a fault", median(faults), "us", Target::AtMost(60.0));
    let fewer = of(hot, |r| r.requests) / of(cold, |r| r.requests);
    table.line("64 of 512 MiB used: requests, hot set, of without", fewer, "x", Target::AtMost(0.05));
    for (way, name) in [(cold, "without a hot set"), (hot, "with a hot set")] {
        let text = |what: &str| format!("64 of 512 MiB used, {name}: {what}");
        table.line(&text("requests"), of(way, |r| r.requests), "", Target::None);
        table.line(&text("guest runs"), of(way, |r| r.running), "ms", Target::None);
        table.line(&text("all pages there"), of(way, |r| r.complete), "ms", Target::None);
    }
    let cost = of(wrong, |r| r.complete) / of(plain, |r| r.complete);
    table.line("512 MiB: all pages there, wrong hot set, of without", cost, "x", Target::AtMost(1.05));
    table.line("512 MiB: guest runs, wrong hot set", of(wrong, |r| r.running), "ms", Target::None);
    table.end();
}
