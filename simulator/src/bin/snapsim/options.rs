//! What several commands have in common.

use clap::Args;
use std::time::Duration;
use vm_simulator::real::{Fault, Faults, Load, MemoryKind, TARGET_PAGE_BYTES, Workload};

/// What the guest does.
#[derive(Debug, Args)]
pub(super) struct LoadArguments {
    /// What the guest touches: idle, sequential, random, zipf, hot-cold, trace:FILE (numbers of
    /// pages, one per line)
    #[arg(long, default_value = "idle", value_parser = Workload::parse)]
    workload: Workload,
    /// Threads of the guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Accesses per second of all threads; 0: as many as they can
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Decides what is left to chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl LoadArguments {
    pub(super) fn load(&self) -> Load {
        let threads = usize::from(self.threads);
        Load { workload: self.workload.clone(), threads, rate: self.rate, seed: self.seed }
    }
}

/// What RAM is made of, and the other end.
#[derive(Debug, Args)]
pub(super) struct EndArguments {
    /// What RAM is made of
    #[arg(long, value_enum, default_value_t)]
    pub(super) memory: MemoryKind,
    /// Bytes of a host page: what is requested and placed at once
    #[arg(long, value_parser = host_page, default_value = "4k")]
    pub(super) host_page: usize,
    /// Requested pages have a channel of their own (unix: only)
    #[arg(long)]
    pub(super) preempt: bool,
    /// Ends the wait for a silent peer
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// A fault of this end, may be repeated; `--fault help` prints their names
    #[arg(long, value_parser = Fault::parse, value_name = "NAME[=N]")]
    fault: Vec<Fault>,
    /// The report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Whether the command line has `--fault help`, which is answered whatever else is on it.
pub(super) fn asks_for_faults() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    arguments.iter().any(|word| word == "--fault=help")
        || arguments.windows(2).any(|pair| pair[0] == "--fault" && pair[1] == "help")
}

impl EndArguments {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    pub(super) fn faults(&self) -> Faults {
        Faults::new(&self.fault)
    }
}

fn host_page(text: &str) -> Result<usize, String> {
    match text {
        "4k" => Ok(TARGET_PAGE_BYTES),
        "2m" => Ok(2 << 20),
        _ => Err("expected 4k or 2m".to_owned()),
    }
}
