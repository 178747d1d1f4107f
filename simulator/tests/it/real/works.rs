//! What arrives is what was there.

use super::pair::{self, check, destination, load, no_faults, source, userfaultfd_works};
use background_snapshot::{Strategy, Unpopulated};
use std::collections::BTreeMap;
use std::time::Duration;
use vm_simulator::real::bitmaps::Node;
use vm_simulator::real::destination::DestinationConfig;
use vm_simulator::real::source::{Mode, SourceBitmap, SourceConfig};
use vm_simulator::real::{Fault, Faults, MemoryKind, Workload};

const RAM: u64 = 16 << 20;

fn background(strategy: Strategy) -> Mode {
    Mode::Background { strategy, unpopulated: Unpopulated::Auto }
}

const POSTCOPY: Mode = Mode::Postcopy { percent: 0, preempt: false };

#[test]
fn a_background_snapshot_is_ram_of_one_moment() {
    if !userfaultfd_works() {
        return;
    }
    for strategy in
        [Strategy::Copy { pool_pages: 4096 }, Strategy::Copy { pool_pages: 2 }, Strategy::Priority]
    {
        let mut faults = 0;
        for workload in
            [Workload::Idle, Workload::Sequential, Workload::Random, Workload::Zipf, Workload::HotCold]
        {
            let busy = workload != Workload::Idle;
            let source = SourceConfig { load: load(workload), ..source(background(strategy)) };
            let (sent, loaded) = check(&source, &destination(), no_faults());
            assert_eq!(loaded.arrived, loaded.pages);
            assert_eq!(sent.sent.0 + sent.sent.1, loaded.pages, "every page once");
            assert!(busy || sent.faults.0 == 0, "{strategy:?}: {:?}", sent.faults);
            faults += sent.faults.0;
        }
        // One guest may not have got a processor in time, but not all of them.
        assert!(faults > 0, "{strategy:?}: no page was written");
    }
}

#[test]
fn a_background_snapshot_survives_a_slow_reader() {
    if !userfaultfd_works() {
        return;
    }
    for strategy in [Strategy::Copy { pool_pages: 16 }, Strategy::Priority] {
        let one_byte = || Box::new(|_| (Faults::default(), Faults::new(&[Fault::Short])));
        let source =
            SourceConfig { blocks: vec![(b"pc.ram".to_vec(), 1 << 20)], ..source(background(strategy)) };
        let (sent, _) = check(&source, &destination(), one_byte());
        assert!(sent.faults.0 > 0);
    }
}

#[test]
fn precopy_rounds_leave_nothing_behind() {
    let mode = Mode::Precopy { downtime: Duration::ZERO, max_rounds: 5 };
    let (sent, loaded) = check(&source(mode), &destination(), no_faults());
    assert!((2..=5).contains(&sent.rounds), "{} rounds, and the guest writes all the time", sent.rounds);
    assert!(sent.sent.0 + sent.sent.1 > loaded.pages);
    assert!(!loaded.postcopy);
}

#[test]
fn a_bandwidth_limit_is_kept() {
    let mode = Mode::Precopy { downtime: Duration::from_millis(300), max_rounds: 1 };
    let source = SourceConfig {
        load: load(Workload::Idle),
        fill_percent: 100,
        bandwidth: Some(RAM * 4),
        ..source(mode)
    };
    let (sent, _) = check(&source, &destination(), no_faults());
    let seconds = sent.total.as_secs_f64();
    assert!((0.2..5.0).contains(&seconds), "16 MiB at 64 MiB/s took {seconds} s");
}

#[test]
fn postcopy_requests_what_the_guest_misses() {
    if !userfaultfd_works() {
        return;
    }
    for percent in [0, 50, 100] {
        let mode = Mode::Postcopy { percent, preempt: false };
        let (sent, loaded) = check(&source(mode), &destination(), no_faults());
        assert!(loaded.postcopy);
        assert_eq!(loaded.arrived, loaded.pages);
        assert_eq!(loaded.duplicates, 0);
        assert_eq!(sent.requests, loaded.requests);
        assert!(percent > 0 || loaded.requests > 0, "no page was requested");
    }
}

#[test]
fn postcopy_with_a_writing_guest_verifies_every_page_once() {
    if !userfaultfd_works() {
        return;
    }
    // The digest is known beforehand: the source does not write.
    let idle = SourceConfig { load: load(Workload::Idle), ..source(POSTCOPY) };
    let (sent, _) = check(&idle, &destination(), no_faults());
    let writing = DestinationConfig {
        digest: sent.digest,
        write_percent: 50,
        run_for: Duration::from_millis(20),
        ..destination()
    };
    let (sent, loaded) = pair::run(&idle, &writing, no_faults());
    let (_, loaded) = (sent.unwrap(), loaded.unwrap());
    assert_eq!((loaded.verified, loaded.wrong), (loaded.pages, 0));
    // And a wrong page is seen.
    let mut digest = writing.digest.clone().unwrap();
    digest.blocks[0].1[100] ^= 1;
    let wrong = DestinationConfig { digest: Some(digest), ..writing };
    let (_, loaded) = pair::run(&idle, &wrong, no_faults());
    let error = loaded.unwrap_err().to_string();
    assert!(
        error.starts_with("1 of 4112 pages are wrong: page 0x64000 of block \"pc.ram\": checksum "),
        "{error}"
    );
}

#[test]
fn huge_host_pages_are_placed_whole() {
    if !userfaultfd_works() {
        return;
    }
    for percent in [0, 50] {
        let mode = Mode::Postcopy { percent, preempt: false };
        let source = SourceConfig { host_page: 2 << 20, ..source(mode) };
        let destination = DestinationConfig { host_page: 2 << 20, ..destination() };
        let (_, loaded) = check(&source, &destination, no_faults());
        assert!(loaded.requests <= 8 + 16, "more requests than host pages: {}", loaded.requests);
        assert_eq!(loaded.arrived, loaded.pages);
    }
}

#[test]
fn shared_memory_works_as_well() {
    if !userfaultfd_works() {
        return;
    }
    for mode in [POSTCOPY, Mode::Postcopy { percent: 70, preempt: true }, background(Strategy::Priority)] {
        let source = SourceConfig { memory: MemoryKind::Shared, ..source(mode) };
        let preempt = matches!(mode, Mode::Postcopy { preempt: true, .. });
        let destination = DestinationConfig { memory: MemoryKind::Shared, preempt, ..destination() };
        check(&source, &destination, no_faults());
    }
}

#[test]
fn preempt_has_a_channel_for_requests() {
    if !userfaultfd_works() {
        return;
    }
    let mode = Mode::Postcopy { percent: 20, preempt: true };
    let destination = DestinationConfig { preempt: true, ..destination() };
    let (_, loaded) = check(&source(mode), &destination, no_faults());
    assert!(loaded.requests > 0);
    assert_eq!(loaded.duplicates, 0);
}

#[test]
fn bitmaps_come_in_precopy_and_in_postcopy() {
    let bitmap = |name: &[u8], seed| SourceBitmap {
        node: b"disk0".to_vec(),
        name: name.to_vec(),
        disk_bytes: (1 << 30) + 512,
        granularity: 65536,
        enabled: true,
        persistent: false,
        seed,
    };
    let bitmaps = vec![bitmap(b"backup", 1), bitmap(b"other", 2)];
    let precopy = Mode::Precopy { downtime: Duration::from_millis(300), max_rounds: 3 };
    let mut modes = vec![precopy, Mode::BitmapPostcopy];
    modes.extend(userfaultfd_works().then_some(POSTCOPY));
    for mode in modes {
        let source = SourceConfig { bitmaps: bitmaps.clone(), ..source(mode) };
        let node = Node { bytes: (1 << 30) + 512, bitmaps: BTreeMap::new() };
        let destination =
            DestinationConfig { nodes: BTreeMap::from([(b"disk0".to_vec(), node)]), ..destination() };
        let (_, loaded) = check(&source, &destination, no_faults());
        assert_eq!(loaded.bitmaps.cancelled(), None);
        assert_eq!(loaded.bitmaps_dropped, 0);
        assert_eq!(loaded.postcopy, !matches!(mode, Mode::Precopy { .. }));
        for expected in &bitmaps {
            let found = &loaded.bitmaps.nodes()[&expected.node].bitmaps[&expected.name];
            assert!(!found.is_busy() && found.set_bits() > 100);
            assert!((0..expected.bits()).all(|bit| found.has(bit) == expected.bit(bit)), "{mode:?}");
        }
    }
}

#[test]
fn writes_of_the_running_guest_are_merged_into_its_bitmaps() {
    let bitmap = SourceBitmap {
        node: b"disk0".to_vec(),
        name: b"backup".to_vec(),
        disk_bytes: 4 << 30,
        granularity: 4096,
        enabled: true,
        persistent: false,
        seed: 1,
    };
    let node = Node { bytes: 4 << 30, bitmaps: BTreeMap::new() };
    let nodes = BTreeMap::from([(b"disk0".to_vec(), node)]);
    for mode in [Mode::BitmapPostcopy, Mode::Precopy { downtime: Duration::from_secs(1), max_rounds: 1 }] {
        let source = SourceConfig { bitmaps: vec![bitmap.clone()], ..source(mode) };
        let still = DestinationConfig { nodes: nodes.clone(), ..destination() };
        let writing = DestinationConfig { disk_writes: 500, ..still.clone() };
        let set = |destination: &DestinationConfig| {
            let (_, loaded) = check(&source, destination, no_faults());
            let found = loaded.bitmaps.nodes()[&b"disk0"[..]].bitmaps[&b"backup"[..]].clone();
            assert!(
                (0..bitmap.bits()).all(|bit| !bitmap.bit(bit) || found.has(bit)),
                "{mode:?}: bits are lost"
            );
            found.set_bits()
        };
        let (before, after) = (set(&still), set(&writing));
        // Most of the 500 sectors fall on clear bits, each on one.
        assert!((before + 300..=before + 500).contains(&after), "{mode:?}: {before}, {after}");
    }
}

#[test]
fn real_huge_pages_work_as_well() {
    if !userfaultfd_works() || !test_support::huge_pages_or_skip(24) {
        return;
    }
    for mode in [Mode::Postcopy { percent: 30, preempt: false }, background(Strategy::Copy { pool_pages: 2 })]
    {
        let source = SourceConfig { memory: MemoryKind::Huge, ..source(mode) };
        let destination = DestinationConfig { memory: MemoryKind::Huge, ..destination() };
        let (_, loaded) = check(&source, &destination, no_faults());
        assert_eq!(loaded.arrived, loaded.pages);
    }
}
