//! The demo's clones: processes that run from the image itself. Each maps it privately, is given
//! all that is not in the mapping by `qemu-snapshot`, and compares every page.

use crate::{Cli, Result, line, quoted};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use vm_simulator::real::Digest;

/// What the clones are made of.
pub(super) struct Origin<'a> {
    pub(super) tool: &'a Path,
    pub(super) snapsim: &'a Path,
    pub(super) image: &'a Path,
}

/// A clone that has compared all its pages, and stays until its stdin is closed.
struct Clone {
    process: Child,
    stay: Option<ChildStdin>,
    /// From its start until its last page was compared.
    compared_after: Duration,
    report: Value,
}

impl Drop for Clone {
    fn drop(&mut self) {
        drop(self.stay.take());
        // One that failed may not see that its stdin ends.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) && self.report.is_null() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// Starts the clones one after the other, and prints what they cost while all of them are there.
pub(super) fn demo(cli: &Cli, origin: &Origin<'_>, digest: &Digest) -> Result<()> {
    if cli.clones == 0 {
        return Ok(());
    }
    let file = origin.image.with_extension("digest");
    fs::write(&file, digest.to_text())?;
    let clones = (0..cli.clones).map(|_| start(origin, &file)).collect::<Result<Vec<Clone>>>()?;
    let number = |clone: &Clone, name: &str| clone.report.get(name).and_then(Value::as_f64);
    let mut running: Vec<f64> = clones.iter().filter_map(|clone| number(clone, "time_to_run_ms")).collect();
    running.sort_by(f64::total_cmp);
    let first = clones.first().and_then(|clone| number(clone, "time_to_run_ms")).unwrap_or_default();
    let pss = clones.iter().map(|clone| pss_kib(clone.process.id())).collect::<Result<Vec<u64>>>()?;
    let pages: u64 = clones.iter().filter_map(|clone| clone.report["verified"].as_u64()).sum();
    let longest = clones.iter().map(|clone| clone.compared_after).max().unwrap_or_default();

    let count = clones.len();
    line("clones", &format!("{count} processes with {} MiB of RAM each, mapped from the image", cli.ram));
    let median = running.get(running.len() / 2).copied().unwrap_or_default();
    line(
        "  guest runs after",
        &format!("{median:.1} ms (median); the first, which verifies the image: {first:.1} ms"),
    );
    let mib = |kib: u64| kib >> 10;
    let each = pss.iter().sum::<u64>() / pss.len().max(1) as u64;
    line("  memory of each", &format!("{} MiB (PSS; the image's pages are in memory once)", mib(each)));
    line("  verified", &format!("{pages} pages, 0 wrong; the slowest after {} ms", longest.as_millis()));
    Ok(())
}

/// Starts a clone, and waits until it has compared all pages.
fn start(origin: &Origin<'_>, digest: &Path) -> Result<Clone> {
    let start = Instant::now();
    let revert = format!("exec {} --revert --mapped {}", quoted(origin.tool)?, quoted(origin.image)?);
    let mut command = Command::new(origin.snapsim);
    command.arg("destination").arg("--mapped").arg(origin.image).args(["--exec", &revert]);
    command.arg("--digest").arg(digest).args(["--json", "--stay"]);
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stay, output) = (process.stdin.take(), process.stdout.take());
    let mut clone = Clone { process, stay, compared_after: Duration::ZERO, report: Value::Null };
    let mut line = String::new();
    BufReader::new(output.ok_or("no pipe")?).read_line(&mut line)?;
    if line.is_empty() {
        let mut words = String::new();
        clone.process.stderr.take().ok_or("no pipe")?.read_to_string(&mut words)?;
        return Err(format!("a clone failed: {}", words.trim_end()).into());
    }
    clone.report = serde_json::from_str(&line)?;
    clone.compared_after = start.elapsed();
    Ok(clone)
}

/// The process's share of the memory that it uses, in KiB (proc_pid_smaps(5): what n processes map
/// counts as an nth for each).
fn pss_kib(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = value.and_then(|value| value.trim().strip_suffix("kB"));
    Ok(number.ok_or("smaps_rollup has no Pss")?.trim().parse()?)
}
