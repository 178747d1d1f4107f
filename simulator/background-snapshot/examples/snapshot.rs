//! A "VMM" of one memory slot and two vCPUs that saves its RAM into a file while the vCPUs write it.
//!
//! ```sh
//! cargo run --release -p background-snapshot --example snapshot -- ram.bin
//! ```
//!
//! The vCPUs count: slot `n` of their page table of counters is never behind slot `n + 1`, and at
//! most one ahead. A copy of changing memory breaks that; a snapshot does not, which is checked in
//! the end.

use background_snapshot::{Backing, Cause, Mapping, Options, Prepared, Strategy, Unpopulated};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;

const RAM_BYTES: usize = 256 << 20;
const VCPUS: usize = 2;

/// Counts through all pages of its half, again and again, until `quit`. Stops while another thread
/// holds `running`.
fn vcpu(ram: &Mapping, running: &RwLock<()>, quit: &AtomicBool, half: usize) {
    let slots = RAM_BYTES / 4096 / VCPUS;
    for count in 1u64.. {
        for slot in 0..slots {
            if quit.load(Ordering::Relaxed) {
                return;
            }
            let Ok(_running) = running.read() else { return };
            ram.store((half * slots + slot) * 4096, count);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: snapshot FILE")?;
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let ram = Arc::new(Mapping::new(RAM_BYTES, &Backing::Anonymous)?);
    let (running, quit) = (RwLock::new(()), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        for half in 0..VCPUS {
            let (ram, running, quit) = (&ram, &running, &quit);
            scope.spawn(move || vcpu(ram, running, quit, half));
        }
        let result = save(&ram, &running, &file);
        quit.store(true, Ordering::Relaxed);
        result
    });
    result?;
    check(&file)
}

/// Saves the RAM of the moment at which the vCPUs are stopped.
fn save(ram: &Arc<Mapping>, running: &RwLock<()>, file: &File) -> Result<(), Box<dyn Error>> {
    let strategy = Strategy::Copy { pool_pages: 4096 };
    let options = Options { strategy, unpopulated: Unpopulated::Auto, run_bytes: 256 << 10 };
    // 1. While the guest runs: find out whether it works at all.
    let prepared = Prepared::new(vec![ram.clone().into()], options)?;
    // 2. Stop the guest; its devices would be saved to memory here.
    let stopped = running.write().map_err(|_| "a vCPU failed")?;
    let start = Instant::now();
    let mut snapshot = prepared.protect()?;
    // 3. The guest goes on.
    drop(stopped);
    let downtime = start.elapsed();
    // 4. Take the pages; a VMM would write a stream, here every page has its place.
    let (mut data, mut early) = (Vec::new(), 0);
    while let Some(run) = snapshot.next_run(&mut data)? {
        early += usize::from(run.cause == Cause::WriteFault);
        file.write_all_at(&data, run.offset as u64)?;
    }
    let counters = snapshot.counters();
    println!(
        "guest stopped for {downtime:?}, saved in {:?}; {early} pages early, {} write faults, pool peak {} pages",
        start.elapsed(),
        counters.faults,
        counters.pool_peak_pages,
    );
    Ok(())
}

fn check(file: &File) -> Result<(), Box<dyn Error>> {
    let slots = RAM_BYTES / 4096 / VCPUS;
    for half in 0..VCPUS {
        let count = |slot: usize| -> Result<u64, std::io::Error> {
            let mut word = [0; 8];
            file.read_exact_at(&mut word, ((half * slots + slot) * 4096) as u64)?;
            Ok(u64::from_ne_bytes(word))
        };
        let first = count(0)?;
        let mut before = first;
        for slot in 1..slots {
            let now = count(slot)?;
            if now > before || now + 1 < first {
                return Err(format!("vCPU {half}: slot {slot} has {now} after {before}: torn").into());
            }
            before = now;
        }
    }
    println!("consistent");
    Ok(())
}
