//! A virtual machine that loads a stream and runs a guest on it.
//!
//! As in QEMU the main thread loads RAM and devices in precopy. In postcopy it loads the package
//! from memory, while the *listen thread* reads on in the main channel and the *fault thread* makes
//! requests of missing pages:
//!
//! ```text
//! main thread    precopy ... PACKAGED | LISTEN, devices (which touch RAM), RUN: the guest runs |  wait
//! listen thread                       |       pages, until EOF (which may come before RUN)     |  SHUT
//! fault thread                        |       missing page -> request                          |
//! ```
//!
//! After RUN a broken main channel is not the end: the destination waits for a new one and reports on
//! it what has arrived.

mod fault_thread;
mod listen;
mod loader;
mod outcome;
mod package;
mod postcopy;
mod reader;
mod return_path;
mod shared;

pub use outcome::DestinationOutcome;

use super::backend::FileBackend;
use super::bitmaps::{BitmapRules, Bitmaps, Node};
use super::channel::Connection;
use super::digest::Digest;
use super::error::{Error, at};
use super::faults::Faults;
use super::memory::{MemoryKind, TARGET_PAGE_BYTES};
use super::report::Times;
use super::stream::RecordStream;
use super::vcpus::{Load, Vcpus};
use crate::rng::Rng;
use loader::{Loaded, Loader};
use migration_stream::Options;
use reader::Reader;
use return_path::ReturnPath;
use shared::{Shared, lock};
use std::collections::BTreeMap;
use std::io;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Which connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The first.
    Main,
    /// The channel of requested pages.
    Preempt,
    /// A new one after the first broke.
    Recovery,
}

/// What a destination is like.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// What RAM is made of.
    pub memory: MemoryKind,
    /// Blocks that are mapped from files before the stream arrives: pages that it leaves out are
    /// the file's.
    pub backends: Vec<FileBackend>,
    /// Bytes of a host page at least.
    pub host_page: usize,
    /// What the guest touches.
    pub load: Load,
    /// Of 100 accesses, how many are writes.
    pub write_percent: u64,
    /// What RAM and devices must be.
    pub digest: Option<Digest>,
    /// Make a digest of what was loaded; the guest must not write.
    pub make_digest: bool,
    /// Pages that the devices touch while they are loaded.
    pub device_touches: u64,
    /// How long the guest goes on when everything is there.
    pub run_for: Duration,
    /// The most RAM.
    pub max_ram_bytes: u64,
    /// There is a preempt channel.
    pub preempt: bool,
    /// A page that comes twice is an error, as it is for the kernel.
    pub refuse_duplicates: bool,
    /// Disks.
    pub nodes: BTreeMap<Vec<u8>, Node>,
    /// Writes of the guest's to each disk, as soon as it runs.
    pub disk_writes: u64,
    /// Whose rules for dirty bitmaps.
    pub bitmap_rules: BitmapRules,
    /// How long a silent peer is waited for.
    pub timeout: Duration,
    /// What this end does wrong.
    pub faults: Faults,
}

impl Default for DestinationConfig {
    fn default() -> Self {
        Self {
            memory: MemoryKind::Anonymous,
            backends: Vec::new(),
            host_page: TARGET_PAGE_BYTES,
            load: Load { workload: super::Workload::Idle, threads: 2, rate: 0, seed: 1 },
            write_percent: 0,
            digest: None,
            make_digest: false,
            device_touches: 3,
            run_for: Duration::ZERO,
            max_ram_bytes: 64 << 30,
            preempt: false,
            refuse_duplicates: true,
            nodes: BTreeMap::new(),
            disk_writes: 0,
            bitmap_rules: BitmapRules::default(),
            timeout: Duration::from_secs(60),
            faults: Faults::default(),
        }
    }
}

impl DestinationConfig {
    fn options(&self) -> Options {
        Options::default().with_max_ram_bytes(self.max_ram_bytes)
    }
}

/// A guest at work.
#[derive(Debug)]
struct Guest {
    reader: Arc<Reader>,
    vcpus: Vcpus<()>,
    started: Instant,
}

/// Loads a stream, runs the guest, and compares everything in the end. `meet` makes connections.
///
/// # Errors
///
/// What a QEMU destination would fail with, and pages or devices that are not what they must be.
pub fn run(
    config: &DestinationConfig,
    meet: impl FnMut(Purpose) -> io::Result<Connection>,
) -> Result<DestinationOutcome, Error> {
    run_until(config, meet, |_| ())
}

/// The same; `stay` is called when everything has been compared and was right, and RAM lasts until
/// it returns.
///
/// # Errors
///
/// As of [`run`].
pub fn run_until(
    config: &DestinationConfig,
    mut meet: impl FnMut(Purpose) -> io::Result<Connection>,
    stay: impl FnOnce(&DestinationOutcome),
) -> Result<DestinationOutcome, Error> {
    // Whoever sends the stream may want to see it mapped.
    let mapped = config.backends.iter().map(FileBackend::map).collect::<io::Result<Vec<_>>>();
    let mapped = mapped.map_err(at("map RAM from a file"))?;
    let (input, output, child) = meet(Purpose::Main).map_err(at("connect"))?.split();
    let mut commands = Commands(Vec::from_iter(child));
    let start = Instant::now();
    let mut stream = RecordStream::new(input, config.options());
    let bitmaps = Bitmaps::new(config.bitmap_rules, config.nodes.clone());
    let mut loader = Loader::new(config, ReturnPath::new(output, config.faults.clone()), bitmaps);
    loader.mapped = mapped;
    let mut outcome = DestinationOutcome::default();
    let result =
        load(&mut loader, &mut stream, &mut |purpose| commands.add(meet(purpose)?), start, &mut outcome);
    if !matches!(result, Err(Error::Killed(_))) {
        // The source need not be there any more to hear it.
        let _ = lock(&loader.back).shut(u32::from(result.is_err()));
    }
    lock(&loader.back).disconnect();
    drop(stream);
    let dropped = lock(&loader.bitmaps).drop_unfinished();
    let guest = result?;
    outcome.total = start.elapsed();
    finish(config, &loader, guest, &mut outcome)?;
    outcome.bitmaps_dropped = dropped;
    outcome.bitmaps = lock(&loader.bitmaps).clone();
    commands.wait()?;
    outcome.verdict()?;
    stay(&outcome);
    Ok(outcome)
}

/// Commands behind the connections, in the order of these.
#[derive(Debug)]
struct Commands(Vec<Child>);

impl Commands {
    /// Keeps what is behind a connection.
    fn add(&mut self, connection: Connection) -> io::Result<Connection> {
        let (connection, child) = connection.without_command();
        self.0.extend(child);
        Ok(connection)
    }

    /// Waits for all of them. The last one must have succeeded; those before it lost their connections.
    fn wait(self) -> Result<(), Error> {
        let mut last = None;
        for mut child in self.0 {
            last = Some(child.wait().map_err(at("wait for the command"))?);
        }
        match last.filter(|status| !status.success()) {
            Some(status) => Err(Error::Wrong(format!("the command ended with {status}"))),
            None => Ok(()),
        }
    }
}

fn load(
    loader: &mut Loader<'_>,
    stream: &mut RecordStream,
    meet: &mut dyn FnMut(Purpose) -> io::Result<Connection>,
    start: Instant,
    outcome: &mut DestinationOutcome,
) -> Result<Guest, Error> {
    let loaded = loader.load(stream)?;
    let config = loader.config();
    if usize::from(stream.decoder().page_size()) != TARGET_PAGE_BYTES {
        let text = format!("target page size {}, expected {TARGET_PAGE_BYTES}", stream.decoder().page_size());
        return Err(Error::Refused { offset: stream.offset(), text });
    }
    match loaded {
        Loaded::Everything => {
            let guest = run_guest(config, loader.shared(stream.offset())?)?;
            write_disks(config, &mut lock(&loader.bitmaps));
            outcome.time_to_run = start.elapsed();
            outcome.time_to_complete = start.elapsed();
            Ok(guest)
        }
        Loaded::Package(bytes) => postcopy::run(loader, stream, &bytes, meet, start, outcome),
    }
}

/// Starts the guest.
fn run_guest(config: &DestinationConfig, shared: &Arc<Shared>) -> Result<Guest, Error> {
    let reader = new_reader(config, shared);
    start_guest(config, shared, reader)
}

/// What the guest writes to its disks: sectors that its seed decides.
fn write_disks(config: &DestinationConfig, bitmaps: &mut Bitmaps) {
    let mut rng = Rng::new(config.load.seed);
    for (name, node) in &config.nodes {
        for _ in 0..config.disk_writes {
            bitmaps.guest_writes(name, rng.below((node.bytes / 512).max(1)) * 512, 512);
        }
    }
}

fn new_reader(config: &DestinationConfig, shared: &Arc<Shared>) -> Arc<Reader> {
    let threads = config.load.threads;
    Arc::new(Reader::new(Arc::clone(shared), config.digest.as_ref(), threads, config.write_percent))
}

fn start_guest(config: &DestinationConfig, shared: &Shared, reader: Arc<Reader>) -> Result<Guest, Error> {
    let started = Instant::now();
    let vcpus = Vcpus::start(&config.load, shared.memory.pages(), (), &reader).map_err(at("start vCPUs"))?;
    Ok(Guest { reader, vcpus, started })
}

/// Lets the guest go on for a while, ends it, and compares everything.
fn finish(
    config: &DestinationConfig,
    loader: &Loader<'_>,
    guest: Guest,
    outcome: &mut DestinationOutcome,
) -> Result<(), Error> {
    std::thread::sleep(config.run_for);
    let Guest { reader, vcpus, started } = guest;
    vcpus.pause();
    outcome.accesses = vcpus.accesses();
    outcome.guest_time = started.elapsed();
    drop(vcpus);
    reader.verify_rest();
    let shared = loader.shared(0)?;
    outcome.stalls = Times::from(&reader.stalls());
    outcome.latency = Times::from(&*lock(&shared.latency));
    (outcome.verified, outcome.wrong, outcome.wrong_pages) = reader.verdict();
    outcome.pages = shared.memory.pages();
    outcome.arrived = shared.received.count();
    outcome.duplicates = shared.duplicates.load(Ordering::Relaxed);
    outcome.requests = lock(&loader.back).requests;
    outcome.precopy_records = loader.page_records;
    if let Some((checksum, names)) = &loader.devices {
        outcome.devices = Some(*checksum);
        outcome.device_names.clone_from(names);
    }
    outcome.expected_devices = config.digest.as_ref().and_then(|digest| digest.devices);
    if config.make_digest {
        outcome.digest = Some(Digest { devices: outcome.devices, ..Digest::of(&shared.memory) });
    }
    Ok(())
}
