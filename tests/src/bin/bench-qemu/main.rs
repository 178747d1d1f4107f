//! The speed of save and revert with real QEMU, as ratios: each pair is measured in turns in one run on one machine,
//! and the median is told. Absolute numbers of a machine that others use, too, mean little.
//!
//! `cargo bench-qemu [MIB [ROUNDS]]`: RAM of the guest (2048), rounds (5).

use snapshot_tests::{Binary, Config, Guest, Outcome, Qemu, Version, Workload, tool::qemu_snapshot};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// One measured save.
#[derive(Debug, Clone, Copy)]
struct Save {
    seconds: f64,
    /// CPU seconds of the tool, per GiB of RAM.
    cpu_per_gib: f64,
    /// The tool's largest resident set, in MiB.
    peak_mib: f64,
    /// Pages that the guest wrote per second meanwhile.
    guest_writes: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `/usr/bin/time` around the command gives CPU time and memory of what QEMU starts.
fn timed(command: &str, report: &Path) -> String {
    format!("exec:/usr/bin/time -o {} -f '%U %S %M' {command}", report.display())
}

fn report(path: &Path, gib: f64) -> (f64, f64) {
    let text = fs::read_to_string(path).unwrap_or_default();
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [user, system, kib] => ((user + system) / gib, kib / 1024.0),
        _ => (f64::NAN, f64::NAN),
    }
}

fn started(binary: &Binary, guest: &Guest, mib: u32) -> Qemu {
    let config = Config { memory_mib: mib, workload: Workload::default(), ..Config::default() };
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.set_parameters(serde_json::json!({ "max-bandwidth": 64_u64 << 30 }));
    source.set_capabilities(&[("background-snapshot", true)]);
    source
}

fn save(source: &mut Qemu, command: &str, gib: f64) -> Save {
    // QEMU 10.0 says "completed" a moment before it can migrate again.
    std::thread::sleep(Duration::from_millis(500));
    let times = source.home().join("times");
    let before = source.console().writes();
    let start = Instant::now();
    assert_eq!(source.save(&timed(command, &times)), Outcome::Completed, "{}", source.stderr());
    let seconds = start.elapsed().as_secs_f64();
    let writes = source.console().writes().wrapping_sub(before);
    let (cpu_per_gib, peak_mib) = report(&times, gib);
    Save { seconds, cpu_per_gib, peak_mib, guest_writes: f64::from(writes) / seconds }
}

fn revert(binary: &Binary, guest: &Guest, mib: u32, command: &str) -> f64 {
    let config = Config { memory_mib: mib, ..Config::default() };
    let mut destination = Qemu::start(binary, guest, config.incoming());
    let start = Instant::now();
    assert_eq!(
        destination.revert(&format!("exec:{command}")),
        Outcome::Completed,
        "{}",
        destination.stderr()
    );
    let seconds = start.elapsed().as_secs_f64();
    destination.console().wait_passes(1);
    seconds
}

/// Drops a file from the page cache (`posix_fadvise`, which needs it to be clean).
fn cool(path: &Path) {
    let file = File::open(path).expect("the file that was just written");
    file.sync_all().expect("a file can be synced");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
}

fn line(what: &str, value: f64, unit: &str, target: &str) {
    println!("{what:<58} {value:>9.3} {unit:<12} target {target}");
}

fn measure(binary: &Binary, guest: &Guest, mib: u32, rounds: usize) {
    let gib = f64::from(mib) / 1024.0;
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk that is measured");
    let (image, file) = (folder.path().join("vm.qcow2"), folder.path().join("stream"));
    let tool = qemu_snapshot().display();
    let ours = format!("{tool} --create --overwrite {}", absolute(&image));
    let ours_direct = format!("{ours},cache.direct=on");
    let cat = format!("sh -c 'cat > {0} && sync {0}'", absolute(&file));
    let mut source = started(binary, guest, mib);
    let (mut buffered, mut direct, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        buffered.push(save(&mut source, &ours, gib));
        plain.push(save(&mut source, &cat, gib));
        direct.push(save(&mut source, &ours_direct, gib));
    }
    source.quit();
    let of = |saves: &[Save], value: fn(&Save) -> f64| median(saves.iter().map(value).collect());
    for (name, saves) in [("save", &buffered), ("save, cache.direct=on", &direct)] {
        line(
            &format!("{name}: time, of cat > FILE and sync"),
            of(saves, |s| s.seconds) / of(&plain, |s| s.seconds),
            "x",
            "<= 1.15",
        );
        line(
            &format!("{name}: guest's progress, of that with cat"),
            of(saves, |s| s.guest_writes) / of(&plain, |s| s.guest_writes),
            "x",
            ">= 0.95",
        );
        line(&format!("{name}: CPU time"), of(saves, |s| s.cpu_per_gib), "s per GiB", "<= 0.35");
        line(
            &format!("{name}: memory"),
            of(saves, |s| s.peak_mib),
            "MiB",
            &format!("<= {:.0}", 128.0 + 1.5 * gib),
        );
    }
    line("for comparison, cat: CPU time", of(&plain, |s| s.cpu_per_gib), "s per GiB", "-");
    let (ours, cat) = (format!("{tool} --revert {}", absolute(&image)), format!("cat {}", absolute(&file)));
    for cold in [false, true] {
        let (mut reverts, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            if cold {
                [&image, &file].into_iter().for_each(|path| cool(path));
            }
            reverts.push(revert(binary, guest, mib, &ours));
            plain.push(revert(binary, guest, mib, &cat));
        }
        let name = if cold { "revert, cold" } else { "revert, warm" };
        line(&format!("{name}: time, of exec:cat FILE"), median(reverts) / median(plain), "x", "<= 1.05");
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).expect("a path").display().to_string()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mib = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(2048);
    let rounds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    assert!(Command::new("/usr/bin/time").arg("true").status().is_ok(), "needs /usr/bin/time (package time)");
    let Some(guest) = Guest::built_or_skip() else { return };
    for version in Version::ALL {
        let Some(binary) = version.binary_or_skip() else { continue };
        println!("{version}, {mib} MiB of RAM, medians of {rounds}");
        measure(&binary, guest, mib, rounds);
        std::thread::sleep(Duration::from_secs(1));
    }
}
