//! Connections that break: recovered after RUN, an error before.

use super::pair::{FaultsOf, TIMEOUT, check, destination, load, no_faults, run, source, userfaultfd_works};
use std::collections::BTreeMap;
use std::time::Duration;
use vm_simulator::real::bitmaps::Node;
use vm_simulator::real::destination::{DestinationConfig, run as run_destination};
use vm_simulator::real::source::{Mode, SourceBitmap, SourceConfig};
use vm_simulator::real::{Connection, Error, Fault, Faults, Load, Workload};

const POSTCOPY: Mode = Mode::Postcopy { percent: 0, preempt: false };

/// The first `count` connections end after so many bytes from the source.
fn closing(count: u64, bytes: u64) -> FaultsOf {
    Box::new(move |number| {
        let faults = if number < count { vec![Fault::CloseAt(bytes)] } else { Vec::new() };
        (Faults::new(&faults), Faults::default())
    })
}

/// A source so slow that the destination's guest runs long before this many bytes have come.
const LATE_BYTES: u64 = 4 << 20;

fn slow(mode: Mode) -> SourceConfig {
    SourceConfig { bandwidth: Some(32 << 20), ..source(mode) }
}

#[test]
fn a_postcopy_that_breaks_is_recovered() {
    if !userfaultfd_works() {
        return;
    }
    for (count, bytes) in [(1, LATE_BYTES), (3, LATE_BYTES + 12345), (2, 6 << 20)] {
        let (sent, loaded) = check(&slow(POSTCOPY), &destination(), closing(count, bytes));
        assert_eq!(loaded.arrived, loaded.pages);
        assert_eq!(loaded.duplicates, 0);
        assert!(loaded.recoveries >= 1, "nothing broke");
        assert!((1..=count).contains(&u64::from(sent.recoveries)), "{} recoveries", sent.recoveries);
    }
}

#[test]
fn a_recovery_that_breaks_is_recovered() {
    if !userfaultfd_works() {
        return;
    }
    // The second connection breaks while bitmaps are asked for: before, inside, and behind the commands.
    for bytes in [0, 5, 20, 30, 100] {
        let faults: FaultsOf = Box::new(move |number| {
            let at = if number == 0 { LATE_BYTES } else { bytes };
            let faults = if number < 2 { vec![Fault::CloseAt(at)] } else { Vec::new() };
            (Faults::new(&faults), Faults::default())
        });
        let (sent, _) = check(&slow(POSTCOPY), &destination(), faults);
        assert_eq!(sent.recoveries, 2);
    }
}

#[test]
fn preempt_and_huge_pages_survive_a_recovery() {
    if !userfaultfd_works() {
        return;
    }
    for (preempt, host_page) in [(true, 4096), (false, 2 << 20)] {
        let source = SourceConfig { host_page, ..slow(Mode::Postcopy { percent: 10, preempt }) };
        // Not everything may go by the other channel.
        let load = Load { rate: 500, ..load(Workload::Random) };
        let destination = DestinationConfig { host_page, preempt, load, ..destination() };
        // Connections with preempt come in pairs.
        let faults: FaultsOf = Box::new(move |number| {
            let faults = if number == 0 { vec![Fault::CloseAt(LATE_BYTES + (3 << 20))] } else { Vec::new() };
            (Faults::new(&faults), Faults::default())
        });
        let (sent, loaded) = check(&source, &destination, faults);
        assert_eq!((sent.recoveries, loaded.recoveries), (1, 1));
        assert_eq!(loaded.arrived, loaded.pages);
    }
}

#[test]
fn before_run_a_break_is_the_end_and_names_the_state() {
    if !userfaultfd_works() {
        return;
    }
    let check = |bytes: u64, expected: &str| {
        let idle = SourceConfig {
            load: load(Workload::Idle),
            ..source(Mode::Postcopy { percent: 50, preempt: false })
        };
        let timeout = Duration::from_secs(5);
        let destination = DestinationConfig { timeout, ..destination() };
        let (sent, loaded) = run(&idle, &destination, closing(100, bytes));
        assert!(sent.is_err());
        let error = loaded.unwrap_err();
        assert!(error.is_wrong_input(), "{error}");
        assert!(error.to_string().contains(expected), "{bytes}: {error}");
    };
    check(3, "the connection ended in state NONE");
    check(20, "the connection ended in state NONE");
    check(1 << 20, "the connection ended in state ADVISE");
}

#[test]
fn a_broken_precopy_or_snapshot_is_an_error() {
    let precopy = Mode::Precopy { downtime: TIMEOUT, max_rounds: 1 };
    for bytes in [0, 7, 100, 1 << 20] {
        let (sent, loaded) = run(&source(precopy), &destination(), closing(1, bytes));
        assert!(matches!(sent, Err(Error::Io { .. })), "{sent:?}");
        assert!(matches!(loaded, Err(Error::Closed { .. })), "{loaded:?}");
    }
}

#[test]
fn bitmap_postcopy_that_breaks_loses_unfinished_bitmaps_only() {
    let bitmap = |name: &[u8]| SourceBitmap {
        node: b"disk0".to_vec(),
        name: name.to_vec(),
        disk_bytes: 64 << 30,
        granularity: 4096,
        enabled: true,
        persistent: false,
        seed: 1,
    };
    let source = SourceConfig {
        bitmaps: vec![bitmap(b"a"), bitmap(b"b")],
        blocks: vec![(b"pc.ram".to_vec(), 64 << 10)],
        load: load(Workload::Idle),
        ..source(Mode::BitmapPostcopy)
    };
    let node = Node { bytes: 64 << 30, bitmaps: BTreeMap::new() };
    let destination =
        DestinationConfig { nodes: BTreeMap::from([(b"disk0".to_vec(), node)]), ..destination() };
    let (sent, whole) = check(&source, &destination, no_faults());
    assert_eq!(whole.bitmaps_dropped, 0);
    let (broken, loaded) = run(&source, &destination, closing(1, sent.sent.2 / 2));
    assert!(broken.is_err());
    let loaded = loaded.unwrap();
    // COMPLETE is the end for both.
    assert_eq!(loaded.bitmaps_dropped, 2);
    assert!(loaded.bitmaps.nodes()[&b"disk0"[..]].bitmaps.is_empty());
}

#[test]
fn a_source_that_never_writes_ends_the_wait() {
    let (none, short) = (Faults::default(), Duration::from_millis(50));
    let (ours, theirs) = Connection::pair((TIMEOUT, &none), (short, &none)).unwrap();
    let mut theirs = Some(theirs);
    let error = run_destination(&destination(), |_| {
        theirs.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    });
    assert!(matches!(error, Err(Error::Timeout { what: "the stream", .. })), "{error:?}");
    drop(ours);
}

/// It starts the guest and then sends none of the pages that the guest waits for.
#[test]
fn a_source_that_falls_silent_ends_the_wait() {
    if !userfaultfd_works() {
        return;
    }
    let source = SourceConfig { faults: Faults::new(&[Fault::Silent]), ..source(POSTCOPY) };
    let destination = DestinationConfig { timeout: Duration::from_millis(300), ..destination() };
    let start = std::time::Instant::now();
    let (sent, loaded) = run(&source, &destination, no_faults());
    assert!(sent.is_err(), "{sent:?}");
    let error = loaded.expect_err("pages that never came");
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(start.elapsed() < TIMEOUT / 2, "it waited for {:?}", start.elapsed());
}
