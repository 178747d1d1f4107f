//! Many cycles with random faults: nothing wrong, nothing lost, no hang. `SNAPSIM_CYCLES` says how many.

use super::pair::{FaultsOf, TIMEOUT, destination, load, run, userfaultfd_works};
use background_snapshot::{Strategy, Unpopulated};
use std::time::{Duration, Instant};
use vm_simulator::Rng;
use vm_simulator::real::destination::DestinationConfig;
use vm_simulator::real::source::{Mode, SourceConfig};
use vm_simulator::real::{Digest, Error, Fault, Faults, MemoryKind, Workload};

const CYCLES: u64 = 100;
/// No cycle takes longer, or a thread waits for what never arrives.
const LIMIT: Duration = Duration::from_secs(60);

fn workload(rng: &mut Rng) -> Workload {
    match rng.below(5) {
        0 => Workload::Idle,
        1 => Workload::Sequential,
        2 => Workload::Random,
        3 => Workload::Zipf,
        _ => Workload::HotCold,
    }
}

fn mode(rng: &mut Rng) -> Mode {
    match rng.below(4) {
        0 => {
            let pool_pages = 1 + rng.index(200);
            let strategy = if rng.chance(50) { Strategy::Priority } else { Strategy::Copy { pool_pages } };
            let unpopulated = if rng.chance(50) { Unpopulated::Auto } else { Unpopulated::Populate };
            Mode::Background { strategy, unpopulated }
        }
        1 => Mode::Precopy { downtime: Duration::from_millis(rng.below(20)), max_rounds: 4 },
        _ => Mode::Postcopy { percent: rng.below(101), preempt: rng.chance(30) },
    }
}

/// A fault of the channel, in one of both directions, on the first connections.
fn channel_faults(rng: &mut Rng, bytes: u64) -> (FaultsOf, bool) {
    let fault = match rng.below(4) {
        0 => return (Box::new(|_| Default::default()), false),
        1 => Fault::Short,
        _ => Fault::CloseAt(rng.below(bytes + bytes / 4)),
    };
    let breaks = matches!(fault, Fault::CloseAt(_));
    let (count, from_source) = (1 + rng.below(3), rng.chance(70));
    let faults: FaultsOf = Box::new(move |number| {
        let own = if number < count { Faults::new(&[fault]) } else { Faults::default() };
        if from_source { (own, Faults::default()) } else { (Faults::default(), own) }
    });
    (faults, breaks)
}

/// What a destination does that a source has to cope with.
fn behaviour(rng: &mut Rng) -> Faults {
    Faults::new(match rng.below(8) {
        0 => &[Fault::Reorder],
        1 => &[Fault::RequestStorm(3)],
        2 => &[Fault::RequestOverlapping],
        3 => &[Fault::RequestHuge],
        4 => &[Fault::Delay(20), Fault::Reorder],
        _ => &[],
    })
}

fn ram(digest: &Option<Digest>) -> &Digest {
    digest.as_ref().expect("it was asked for")
}

fn cycle(seed: u64) -> &'static str {
    let mut rng = Rng::new(seed);
    let huge = rng.chance(15);
    let host_page = if huge { 2 << 20 } else { 4096 };
    let ram_bytes = if huge { 8 << 20 } else { 4096 * (64 + rng.below(1500)) };
    let mode = mode(&mut rng);
    let preempt = matches!(mode, Mode::Postcopy { preempt: true, .. });
    let memory = if rng.chance(30) { MemoryKind::Shared } else { MemoryKind::Anonymous };
    let source = SourceConfig {
        blocks: vec![(b"pc.ram".to_vec(), ram_bytes), (b"pc.rom".to_vec(), 16 << 10)],
        memory,
        host_page,
        fill_percent: rng.below(101),
        load: load(workload(&mut rng)),
        warm_up: Duration::from_millis(rng.below(5)),
        mode,
        digest: true,
        ..SourceConfig::default()
    };
    let destination = DestinationConfig {
        memory,
        host_page,
        load: load(workload(&mut rng)),
        preempt,
        make_digest: true,
        device_touches: rng.below(10),
        timeout: TIMEOUT,
        faults: behaviour(&mut rng),
        ..destination()
    };
    let (faults, breaks) = channel_faults(&mut rng, ram_bytes);
    eprintln!("{mode:?}, {breaks}, {memory:?}");
    let start = Instant::now();
    let (sent, loaded) = run(&source, &destination, faults);
    assert!(start.elapsed() < LIMIT, "seed {seed}: a cycle took {:?}", start.elapsed());
    match (sent, loaded) {
        (Ok(sent), Ok(loaded)) => {
            assert_eq!(ram(&sent.digest), ram(&loaded.digest), "seed {seed}: wrong pages");
            assert_eq!((loaded.arrived, loaded.duplicates), (loaded.pages, 0), "seed {seed}");
            if loaded.recoveries > 0 { "recovered" } else { "whole" }
        }
        // The destination has everything, and its answer was lost.
        (Err(_), Ok(loaded)) if breaks && loaded.arrived == loaded.pages => "answer lost",
        (Err(sent), Err(loaded)) if breaks => {
            let lost = matches!(sent, Error::Io { .. } | Error::ReturnPath(_) | Error::Timeout { .. });
            assert!(lost, "seed {seed}: source: {sent}, destination: {loaded}");
            assert!(!matches!(loaded, Error::Wrong(_)), "seed {seed}: {loaded}");
            "broken"
        }
        (Ok(_), Err(loaded)) if breaks => {
            // Without a return path a source cannot know.
            assert!(!matches!(mode, Mode::Postcopy { .. }), "seed {seed}: {loaded}");
            assert!(matches!(loaded, Error::Closed { .. } | Error::Stream(_)), "seed {seed}: {loaded}");
            "broken"
        }
        (sent, loaded) => panic!("seed {seed}: source: {:?}, destination: {:?}", sent.err(), loaded.err()),
    }
}

#[test]
fn random_faults_never_lead_to_a_wrong_page_or_a_hang() {
    if !userfaultfd_works() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("SNAPSIM_SEED").unwrap_or(1);
    let mut ends = std::collections::BTreeMap::new();
    for seed in first..first + number("SNAPSIM_CYCLES").unwrap_or(CYCLES) {
        // The last one of these is the one that hangs.
        eprintln!("seed {seed}");
        *ends.entry(cycle(seed)).or_insert(0) += 1;
    }
    eprintln!("{ends:?}");
    assert!(ends.contains_key("whole"), "{ends:?}");
}
