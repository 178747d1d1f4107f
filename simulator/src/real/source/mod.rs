//! A virtual machine that writes its stream while its guest works.

mod background;
mod bitmaps;
mod postcopy;
mod precopy;
mod sender;
mod serve;
mod wire;

pub use bitmaps::SourceBitmap;

use super::channel::{Connection, Output};
use super::digest::Digest;
use super::error::{Error, at};
use super::faults::Faults;
use super::guest::{self, Writer};
use super::memory::{GuestMemory, MemoryKind, TARGET_PAGE_BYTES};
use super::report::{Report, Times};
use super::vcpus::{Load, Vcpus};
use background_snapshot::{Strategy, Unpopulated, Watch};
use sender::Sender;
use std::io;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the stream comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// RAM as it was at one moment, while the guest goes on.
    Background {
        /// What a write fault does.
        strategy: Strategy,
        /// What is done about untouched pages.
        unpopulated: Unpopulated,
    },
    /// Rounds of what changed, until the rest is small enough to stop for.
    Precopy {
        /// The longest stop that is aimed at.
        downtime: Duration,
        /// Rounds after which the guest is stopped in any case.
        max_rounds: u32,
    },
    /// Rounds, then the guest runs at the destination, and pages follow on request.
    Postcopy {
        /// Of 100 pages, how many are sent before.
        percent: u64,
        /// Requested pages go by a channel of their own.
        preempt: bool,
    },
    /// RAM in precopy, dirty bitmaps in postcopy.
    BitmapPostcopy,
}

/// What a source is like.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Names and lengths of RAM blocks.
    pub blocks: Vec<(Vec<u8>, u64)>,
    /// What they are made of.
    pub memory: MemoryKind,
    /// Bytes of a host page.
    pub host_page: usize,
    /// Of 100 pages, how many are not zero at first; the others were never touched.
    pub fill_percent: u64,
    /// Number of devices.
    pub devices: usize,
    /// What the guest does.
    pub load: Load,
    /// Of 100 writes, how many come from the kernel.
    pub kernel_percent: u64,
    /// How long the guest works before.
    pub warm_up: Duration,
    /// How the stream comes to be.
    pub mode: Mode,
    /// Bytes per second at the most.
    pub bandwidth: Option<u64>,
    /// Dirty bitmaps.
    pub bitmaps: Vec<SourceBitmap>,
    /// Note what every page has to be.
    pub digest: bool,
    /// What this end does wrong in postcopy: silent, delay, reorder, kill-at.
    pub faults: Faults,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            blocks: vec![(b"pc.ram".to_vec(), 256 << 20), (b"pc.rom".to_vec(), 128 << 10)],
            memory: MemoryKind::Anonymous,
            host_page: TARGET_PAGE_BYTES,
            fill_percent: 60,
            devices: 10,
            load: Load { workload: super::Workload::Idle, threads: 2, rate: 0, seed: 1 },
            kernel_percent: 10,
            warm_up: Duration::ZERO,
            mode: Mode::Background {
                strategy: Strategy::Copy { pool_pages: 16384 },
                unpopulated: Unpopulated::Auto,
            },
            bandwidth: None,
            bitmaps: Vec::new(),
            digest: false,
            faults: Faults::default(),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct SourceOutcome {
    /// What the destination must have, if that was asked for.
    pub digest: Option<Digest>,
    /// How long the guest stood still.
    pub downtime: Duration,
    /// From the beginning to the last byte.
    pub total: Duration,
    /// Pages with content, zero pages, bytes of the stream.
    pub sent: (u64, u64, u64),
    /// Rounds of a precopy.
    pub rounds: u32,
    /// Stalls of the guest's writes.
    pub stalls: Times,
    /// Write faults, those that found the pool full, the most bytes in the pool.
    pub faults: (u64, u64, u64),
    /// Accesses of the guest while the stream was written.
    pub accesses: u64,
    /// Requests that came, and how often a postcopy was recovered.
    pub requests: u64,
    /// Recoveries.
    pub recoveries: u32,
}

impl SourceOutcome {
    /// Everything, to be printed.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        report.add("normal_pages", self.sent.0);
        report.add("zero_pages", self.sent.1);
        report.add("stream_bytes", self.sent.2);
        report.add_time("total_ms", self.total);
        report.add_time("downtime_ms", self.downtime);
        report.add("guest_writes", self.accesses);
        if self.rounds > 0 {
            report.add("rounds", self.rounds);
        }
        if self.faults.0 > 0 || self.stalls.count > 0 {
            report.add("write_faults", self.faults.0);
            report.add("pool_full", self.faults.1);
            report.add("pool_peak_bytes", self.faults.2);
            report.add_times("stall_us", &self.stalls);
        }
        if self.requests > 0 {
            report.add("requests", self.requests);
            report.add("recoveries", self.recoveries);
        }
        report
    }
}

/// A source at work.
struct Source<'a> {
    config: &'a SourceConfig,
    memory: Arc<GuestMemory>,
    writer: Arc<Writer>,
    vcpus: Vcpus<Option<Watch>>,
    outcome: SourceOutcome,
    start: Instant,
    accesses_before: u64,
}

/// Makes a VM, lets its guest work, and writes its stream into the connection; `connect` makes more
/// connections where they are needed (preempt, recovery).
///
/// # Errors
///
/// Those of the peer and of the kernel; before the VM is made, what does not go together.
pub fn run(
    config: &SourceConfig,
    mut connect: impl FnMut() -> io::Result<Connection>,
) -> Result<SourceOutcome, Error> {
    if matches!(config.mode, Mode::Background { .. }) && !config.bitmaps.is_empty() {
        return Err(Error::Incompatible(
            "a background snapshot has no dirty bitmaps (QEMU refuses the pair as well)",
        ));
    }
    let mut memory = GuestMemory::new();
    for (name, length) in &config.blocks {
        memory.add(name, *length, config.memory, config.host_page).map_err(at("memory of a RAM block"))?;
    }
    guest::fill(&memory, config.load.seed, config.fill_percent);
    let memory = Arc::new(memory);
    let writer = Writer::new(Arc::clone(&memory), config.load.threads, config.kernel_percent);
    let writer = Arc::new(writer.map_err(at("open /dev/urandom"))?);
    let vcpus = Vcpus::start(&config.load, memory.pages(), None, &writer).map_err(at("start vCPUs"))?;
    std::thread::sleep(config.warm_up);
    let accesses_before = vcpus.accesses();
    let outcome = SourceOutcome::default();
    let mut source =
        Source { config, memory, writer, vcpus, outcome, start: Instant::now(), accesses_before };
    let (input, output, child) = connect().map_err(at("connect"))?.split();
    let output = output.ok_or_else(|| at("connect")(io::ErrorKind::Unsupported.into()))?;
    let names = config.blocks.iter().map(|(name, _)| name.clone()).collect();
    let mut sender = Sender::new(output, names, true, config.bandwidth);
    match config.mode {
        Mode::Background { strategy, unpopulated } => {
            source.background(&mut sender, strategy, unpopulated)?
        }
        Mode::Precopy { downtime, max_rounds } => source.precopy(&mut sender, downtime, max_rounds)?,
        Mode::BitmapPostcopy => source.bitmap_postcopy(&mut sender)?,
        Mode::Postcopy { percent, preempt } => {
            source.outcome.sent = source.postcopy(sender, input, percent, preempt, &mut connect)?;
            return source.finish(None, child);
        }
    }
    source.outcome.sent = (sender.normal, sender.zero, sender.out.offset());
    drop(input);
    source.finish(Some(sender.out), child)
}

impl Source<'_> {
    fn finish(mut self, output: Option<Output>, child: Option<Child>) -> Result<SourceOutcome, Error> {
        self.outcome.total = self.start.elapsed();
        self.outcome.accesses = self.vcpus.accesses() - self.accesses_before;
        self.outcome.stalls = Times::from(&self.writer.stalls());
        output.into_iter().for_each(Output::finish);
        if let Some(mut child) = child {
            let status = child.wait().map_err(at("wait for the command"))?;
            if !status.success() {
                return Err(Error::Wrong(format!("the command ended with {status}")));
            }
        }
        Ok(self.outcome)
    }

    /// What a destination must have; the guest must stand still.
    fn digest(&self, devices: u64) -> Option<Digest> {
        self.config.digest.then(|| Digest { devices: Some(devices), ..Digest::of(&self.memory) })
    }
}
