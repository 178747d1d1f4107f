//! `snapsim source`

use crate::options::{EndArguments, LoadArguments};
use crate::{Failure, print};
use background_snapshot::{Strategy, Unpopulated};
use clap::{Args, ValueEnum};
use snapshot_engine::parse_bytes;
use std::path::PathBuf;
use std::time::Duration;
use vm_simulator::real::source::{self, Mode, SourceBitmap, SourceConfig};
use vm_simulator::real::{Address, Connection};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeName {
    /// RAM of one moment, while the guest goes on
    Background,
    /// Rounds of what changed, then the guest stops
    Precopy,
    /// Part of RAM, then the guest runs at the destination and RAM follows
    Postcopy,
    /// RAM in precopy, dirty bitmaps in postcopy
    BitmapPostcopy,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StrategyName {
    /// A write fault copies the page into a bounded pool
    Copy,
    /// The page of a write fault is sent next
    Priority,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum UnpopulatedName {
    /// Whatever the kernel can
    Auto,
    /// Read every page before
    Populate,
    /// WP_UNPOPULATED, or an error
    Protect,
}

/// A VM that writes its stream while its guest works
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the stream goes: stdio, fd:N, unix:PATH, exec:COMMAND
    #[arg(default_value = "stdio", value_parser = Address::parse)]
    to: Address,
    /// Bytes of RAM (a multiple of the host page)
    #[arg(long, default_value = "256M", value_parser = parse_bytes)]
    ram: u64,
    /// Of 100 pages, how many are not zero; the others were never touched
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=100))]
    fill: u64,
    /// Number of devices
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    devices: u16,
    /// How the stream comes to be
    #[arg(long, value_enum, default_value = "background")]
    mode: ModeName,
    /// Background: what a write fault does
    #[arg(long, value_enum, default_value = "copy")]
    strategy: StrategyName,
    /// Background: pages in the pool of strategy copy
    #[arg(long, default_value_t = 16384, value_parser = clap::value_parser!(u32).range(0..=1 << 30))]
    pool_pages: u32,
    /// Background: what is done about pages that were never touched
    #[arg(long, value_enum, default_value = "auto")]
    unpopulated: UnpopulatedName,
    /// Precopy: the longest stop that is aimed at, in milliseconds
    #[arg(long, default_value_t = 300)]
    downtime: u64,
    /// Precopy: rounds after which the guest is stopped in any case
    #[arg(long, default_value_t = 30)]
    max_rounds: u32,
    /// Postcopy: of 100 pages, how many are sent before
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    percent: u64,
    /// Bytes per second at the most
    #[arg(long, value_parser = parse_bytes)]
    bandwidth: Option<u64>,
    /// How long the guest works before, in milliseconds
    #[arg(long, default_value_t = 100)]
    warm_up: u64,
    /// Of 100 writes of the guest, how many come from the kernel (read(2) into RAM)
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=100))]
    kernel_writes: u64,
    /// A dirty bitmap of a disk: NODE:NAME:BYTES or NODE:NAME:BYTES:GRANULARITY; may be repeated
    #[arg(long, value_name = "BITMAP", value_parser = bitmap)]
    bitmap: Vec<SourceBitmap>,
    /// Write to this file what the destination must have
    #[arg(long)]
    digest: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    end: EndArguments,
}

fn bitmap(text: &str) -> Result<SourceBitmap, String> {
    let mut parts = text.split(':');
    let (Some(node), Some(name), Some(size)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("expected NODE:NAME:BYTES[:GRANULARITY]".to_owned());
    };
    let granularity = parse_bytes(parts.next().unwrap_or("64K"))?;
    let granularity = u32::try_from(granularity).ok().filter(|size| size.is_power_of_two() && *size >= 512);
    let disk_bytes = parse_bytes(size)?;
    if node.is_empty() || name.is_empty() || node.len() > 255 || name.len() > 255 || disk_bytes % 512 != 0 {
        return Err("expected names of 1 to 255 bytes and a disk of whole sectors".to_owned());
    }
    Ok(SourceBitmap {
        node: node.as_bytes().to_vec(),
        name: name.as_bytes().to_vec(),
        disk_bytes,
        granularity: granularity.ok_or("expected a granularity that is a power of two from 512 on")?,
        enabled: true,
        persistent: false,
        seed: 1,
    })
}

impl Arguments {
    fn config(&self) -> Result<SourceConfig, Failure> {
        let pool_pages = self.pool_pages as usize;
        let strategy = match self.strategy {
            StrategyName::Copy => Strategy::Copy { pool_pages },
            StrategyName::Priority => Strategy::Priority,
        };
        let unpopulated = match self.unpopulated {
            UnpopulatedName::Auto => Unpopulated::Auto,
            UnpopulatedName::Populate => Unpopulated::Populate,
            UnpopulatedName::Protect => Unpopulated::Protect,
        };
        let page = self.end.host_page.max(self.end.memory.page_bytes()) as u64;
        if self.ram == 0 || !self.ram.is_multiple_of(page) {
            return Err(Failure::Usage(format!("--ram {}: expected a multiple of {page}", self.ram)));
        }
        Ok(SourceConfig {
            blocks: vec![(b"pc.ram".to_vec(), self.ram), (b"pc.rom".to_vec(), 128 << 10)],
            memory: self.end.memory,
            host_page: self.end.host_page,
            fill_percent: self.fill,
            devices: usize::from(self.devices),
            load: self.load.load(),
            kernel_percent: self.kernel_writes,
            warm_up: Duration::from_millis(self.warm_up),
            mode: match self.mode {
                ModeName::Background => Mode::Background { strategy, unpopulated },
                ModeName::Precopy => {
                    let downtime = Duration::from_millis(self.downtime);
                    Mode::Precopy { downtime, max_rounds: self.max_rounds }
                }
                ModeName::Postcopy => Mode::Postcopy { percent: self.percent, preempt: self.end.preempt },
                ModeName::BitmapPostcopy => Mode::BitmapPostcopy,
            },
            bandwidth: self.bandwidth,
            bitmaps: self.bitmap.clone(),
            digest: self.digest.is_some(),
            faults: self.end.faults(),
        })
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.config()?;
    let (timeout, faults) = (arguments.end.timeout(), config.faults.clone());
    let outcome = source::run(&config, || Connection::connect(&arguments.to, timeout, &faults))?;
    if let (Some(path), Some(digest)) = (&arguments.digest, &outcome.digest) {
        let written = std::fs::write(path, digest.to_text());
        written.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    }
    print(&outcome.report(), arguments.end.json, arguments.to == Address::Stdio)
}
