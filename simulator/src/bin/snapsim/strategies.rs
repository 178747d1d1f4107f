//! `snapsim strategies`: what a background snapshot costs the guest, both strategies side by side.

use crate::Failure;
use crate::options::LoadArguments;
use background_snapshot::{Strategy, Unpopulated};
use clap::Args;
use snapshot_engine::parse_bytes;
use std::io::{self, Read};
use std::time::Duration;
use vm_simulator::real::source::{self, Mode, SourceConfig, SourceOutcome};
use vm_simulator::real::{Connection, Error, Faults};

const PIECE_BYTES: usize = 64 << 10;
const TIMEOUT: Duration = Duration::from_secs(600);

/// Background snapshots with both strategies, with a fast and a slow reader, in one table
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Bytes of RAM
    #[arg(long, default_value = "256M", value_parser = parse_bytes)]
    ram: u64,
    /// Pages in the pool of strategy copy
    #[arg(long, default_value_t = 16384, value_parser = clap::value_parser!(u32).range(0..=1 << 30))]
    pool_pages: u32,
    /// Bytes per second of the slow reader
    #[arg(long, default_value = "100M", value_parser = parse_bytes)]
    slow: u64,
    #[command(flatten)]
    load: LoadArguments,
}

/// Reads everything, at a rate if one is given.
fn read_all(connection: Connection, rate: Option<u64>) -> io::Result<u64> {
    let (mut input, _, _) = connection.split();
    let (mut total, mut piece) = (0, vec![0; PIECE_BYTES]);
    loop {
        let length = input.read(&mut piece)? as u64;
        if length == 0 {
            return Ok(total);
        }
        total += length;
        if let Some(rate) = rate {
            std::thread::sleep(Duration::from_micros(length * 1_000_000 / rate.max(1)));
        }
    }
}

fn measure(arguments: &Arguments, strategy: Strategy, rate: Option<u64>) -> Result<SourceOutcome, Failure> {
    let config = SourceConfig {
        blocks: vec![(b"pc.ram".to_vec(), arguments.ram)],
        load: arguments.load.load(),
        warm_up: Duration::from_millis(200),
        mode: Mode::Background { strategy, unpopulated: Unpopulated::Auto },
        ..SourceConfig::default()
    };
    let failed = |source| Failure::Job(Error::Io { step: "connect", source });
    let none = Faults::default();
    let (ours, theirs) = Connection::pair((TIMEOUT, &none), (TIMEOUT, &none)).map_err(failed)?;
    let mut ours = Some(ours);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(theirs, rate));
        let outcome = source::run(&config, || ours.take().ok_or_else(|| io::ErrorKind::NotConnected.into()));
        drop(ours);
        let read = reader.join().map_err(|_| Failure::Usage("the reader failed".to_owned()))?;
        read.map_err(|source| Failure::Job(Error::Io { step: "read", source }))?;
        Ok(outcome?)
    })
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let pool_pages = arguments.pool_pages as usize;
    let mut table = format!(
        "{:<9} {:<6} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>11} {:>12}\n",
        "strategy",
        "reader",
        "faults",
        "stalls",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us",
        "pool KiB",
        "total ms",
        "downtime ms",
        "writes/s"
    );
    for (reader, rate) in [("fast", None), ("slow", Some(arguments.slow))] {
        for (name, strategy) in [("copy", Strategy::Copy { pool_pages }), ("priority", Strategy::Priority)] {
            let outcome = measure(arguments, strategy, rate)?;
            let us = |nanoseconds: u64| format!("{}.{}", nanoseconds / 1000, nanoseconds / 100 % 10);
            let stalls = outcome.stalls;
            let writes = u128::from(outcome.accesses) * 1000 / outcome.total.as_millis().max(1);
            table += &format!(
                "{name:<9} {reader:<6} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>11.3} {writes:>12}\n",
                outcome.faults.0,
                stalls.count,
                us(stalls.p50),
                us(stalls.p99),
                us(stalls.p999),
                us(stalls.max),
                outcome.faults.2 >> 10,
                outcome.total.as_millis(),
                outcome.downtime.as_secs_f64() * 1000.0,
            );
        }
    }
    super::tell(&table)
}
