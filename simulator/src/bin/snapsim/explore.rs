//! `snapsim explore`: campaigns in the simulated world, on all cores.

use crate::Failure;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vm_simulator::Planted;
use vm_simulator::explore::{Explored, Finding, explore};

/// Seeds are tried for planted faults until one strikes.
const CANARIES: u64 = 200;

/// Save, revert and recover generated VMs under seeds, with faults; a failing seed replays exactly
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed [default: another one every time]
    #[arg(long)]
    first: Option<u64>,
    /// End after so many seconds, whatever is left
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Threads [default: as many as there are cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the summary to this file, too, as JSON
    #[arg(long)]
    summary: Option<PathBuf>,
}

#[derive(Default)]
struct Campaign {
    seeds: u64,
    explored: Explored,
    findings: Vec<Finding>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Panics are findings; their messages come with these.
    std::panic::set_hook(Box::new(|_| ()));
    for planted in [Planted::WrongPage, Planted::PageTwice, Planted::CopyNotSent] {
        if !(0..CANARIES).any(|seed| explore(seed, Some(planted)).is_err()) {
            return Err(Failure::Usage(format!(
                "the planted fault {planted:?} was not found: the checks are blind"
            )));
        }
    }
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let first = arguments.first.unwrap_or(clock.wrapping_mul(1_000_003));
    let jobs =
        arguments.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let start = Instant::now();
    let end = arguments.time.map(|seconds| start + Duration::from_secs(seconds));
    let next = AtomicU64::new(0);
    let campaign = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while end.is_none_or(|end| Instant::now() < end) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        break;
                    }
                    let result = explore(first.wrapping_add(number), None);
                    let mut campaign = campaign.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    campaign.take(result);
                }
            });
        }
    });
    let campaign = campaign.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    campaign.tell(first, start.elapsed(), arguments)
}

impl Campaign {
    fn take(&mut self, result: Result<Explored, Finding>) {
        self.seeds += 1;
        match result {
            Ok(explored) => {
                self.explored.events += explored.events;
                self.explored.requests += explored.requests;
                self.explored.faults += explored.faults;
                self.explored.recoveries += explored.recoveries;
            }
            Err(finding) => self.findings.push(finding),
        }
    }

    fn tell(&self, first: u64, time: Duration, arguments: &Arguments) -> Result<(), Failure> {
        let Explored { events, requests, faults, recoveries, .. } = self.explored;
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|finding| json!({ "seed": finding.seed, "event": finding.event, "text": finding.text }))
            .collect();
        let summary = json!({
            "first": first, "seeds": self.seeds, "seconds": time.as_secs_f64(), "events": events,
            "requests": requests, "faults": faults, "recoveries": recoveries, "findings": findings,
        });
        if let Some(path) = &arguments.summary {
            std::fs::write(path, format!("{summary}\n"))
                .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        }
        let seconds = time.as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = self.seeds as f64 * 60.0 / seconds;
        let mut text = format!(
            "{} seeds from {first} in {seconds:.1} s ({rate:.0} a minute): {events} events, {faults} faults, {recoveries} \
             recoveries, {requests} requests, {} findings\n",
            self.seeds,
            self.findings.len()
        );
        for finding in &self.findings {
            text += &format!("{finding}\n  snapsim explore --first {} --seeds 1\n", finding.seed);
        }
        super::tell(&text)?;
        match self.findings.len() {
            0 => Ok(()),
            count => Err(Failure::Found(count)),
        }
    }
}
