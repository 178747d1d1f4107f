//! The demo with memory, threads and page faults: source under load, background snapshot,
//! `qemu-snapshot`, image, postcopy revert, destination under load.

use crate::{Cli, Result, check, line, quoted, size};
use background_snapshot::{Strategy, Unpopulated};
use std::path::Path;
use std::time::Duration;
use vm_simulator::real::destination::{self, DestinationConfig};
use vm_simulator::real::source::{self, Mode, SourceConfig};
use vm_simulator::real::{Address, Connection, Digest, Faults, Load, Times, Workload};

/// No end is silent for that long.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long the destination's guest works on when everything is there.
const RUN_FOR: Duration = Duration::from_millis(200);

fn load(cli: &Cli, workload: Workload) -> Load {
    Load { workload, threads: 2, rate: 0, seed: cli.seed }
}

/// Microseconds.
fn stalls(times: &Times) -> String {
    let us = |nanoseconds: u64| nanoseconds / 1000;
    format!(
        "p50 {} us, p99 {} us, p99.9 {} us, max {} us",
        us(times.p50),
        us(times.p99),
        us(times.p999),
        us(times.max)
    )
}

fn rate(bytes: u64, time: Duration) -> u64 {
    let milliseconds = time.as_secs() * 1000 + u64::from(time.subsec_millis());
    ((bytes >> 10) * 1000 / milliseconds.max(1)) >> 10
}

pub(super) fn demo(cli: &Cli, tool: &Path, image: &Path) -> Result<Digest> {
    let (tool, image_word) = (quoted(tool)?, quoted(image)?);
    let exec = |command: String| {
        move || Connection::connect(&Address::Exec(command.clone()), TIMEOUT, &Faults::default())
    };
    let unpopulated = Unpopulated::Auto;
    let config = SourceConfig {
        blocks: vec![(b"pc.ram".to_vec(), cli.ram << 20), (b"pc.rom".to_vec(), 128 << 10)],
        fill_percent: cli.nonzero,
        load: load(cli, Workload::HotCold),
        warm_up: Duration::from_millis(200),
        mode: Mode::Background { strategy: Strategy::Copy { pool_pages: 16384 }, unpopulated },
        digest: true,
        ..SourceConfig::default()
    };
    let saved = source::run(&config, exec(format!("exec {tool} --create --layout=linear {image_word}")))?;
    let checked = check(image)?;
    let size = size(image)?;
    let config = DestinationConfig {
        load: load(cli, Workload::Random),
        write_percent: 30,
        digest: saved.digest.clone(),
        run_for: RUN_FOR,
        timeout: TIMEOUT,
        ..DestinationConfig::default()
    };
    let revert = exec(format!("exec {tool} --revert --postcopy=0 {image_word}"));
    let reverted = destination::run(&config, |_| revert())?;

    let milliseconds = |time: Duration| format!("{}.{} ms", time.as_millis(), time.as_micros() / 100 % 10);
    let (normal, zero, stream_bytes) = saved.sent;
    println!();
    line("RAM", &format!("{} MiB: {normal} pages with content, {zero} zero", cli.ram));
    line("save", &format!("{} at {} MiB/s", milliseconds(saved.total), rate(stream_bytes, saved.total)));
    line("  guest stopped", &milliseconds(saved.downtime));
    line("  guest wrote", &format!("{} times meanwhile, {} write faults", saved.accesses, saved.faults.0));
    line("  stall per fault", &stalls(&saved.stalls));
    line("image", &size);
    line("  judged", checked);
    line("postcopy revert", &format!("all there after {}", milliseconds(reverted.time_to_complete)));
    line("  guest runs after", &milliseconds(reverted.time_to_run));
    line("  guest touched", &format!("{} times, {} pages on request", reverted.accesses, reverted.requests));
    line("  stall per fault", &stalls(&reverted.stalls));
    line(
        "verified",
        &format!(
            "{} of {} pages, {} wrong; devices equal",
            reverted.verified, reverted.pages, reverted.wrong
        ),
    );
    saved.digest.ok_or_else(|| "the source made no digest".into())
}
