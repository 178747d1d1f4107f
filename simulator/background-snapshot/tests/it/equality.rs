//! What is saved equals a copy taken while the guest stood still, however often and however it is done.

use crate::guest::{Guest, userfaultfd_works};
use background_snapshot::{
    BackgroundSnapshot, Backing, Cause, Counters, Mapping, Options, Prepared, Strategy, Unpopulated,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// All of the memory, as a snapshot hands it out; asserts that each page comes once.
fn take(snapshot: &mut BackgroundSnapshot, memory: &Mapping, pause: Duration) -> Vec<u8> {
    let mut saved = vec![0xee; memory.length()];
    let mut seen = vec![false; memory.length() / memory.page_size()];
    let mut data = Vec::new();
    while let Some(run) = snapshot.next_run(&mut data).unwrap() {
        assert_eq!(data.len(), run.length);
        let first = run.offset / memory.page_size();
        for (page, seen) in seen.iter_mut().enumerate().skip(first).take(run.length / memory.page_size()) {
            assert!(!std::mem::replace(seen, true), "page {page} came twice");
        }
        saved[run.offset..][..run.length].copy_from_slice(&data);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    assert!(seen.iter().all(|&seen| seen), "a page never came");
    saved
}

/// `times` snapshots of memory that two threads write, each compared with a copy.
fn check(backing: &Backing<'_>, pages: usize, touched: usize, options: Options, times: usize) -> Counters {
    let mut sum = Counters::default();
    for round in 0..times.div_ceil(100) {
        // New memory now and then: pages that were never touched are there again.
        let page_size = if matches!(backing, Backing::Huge) { 2 << 20 } else { 4096 };
        let memory = Arc::new(Mapping::new(pages * page_size, backing).unwrap());
        let guest = Guest::start(&memory, 2, touched);
        for time in 0..times.min(100) {
            let prepared = Prepared::new(vec![memory.clone().into()], options).unwrap();
            let mut expected = vec![0; memory.length()];
            let mut snapshot = guest.stopped(|| {
                memory.read(0, &mut expected);
                prepared.protect().unwrap()
            });
            let saved = take(&mut snapshot, &memory, Duration::ZERO);
            assert!(saved == expected, "round {round}, snapshot {time}: other bytes than under stop");
            let counters = snapshot.counters();
            sum.faults += counters.faults;
            sum.pool_full += counters.pool_full;
            sum.pool_peak_pages = sum.pool_peak_pages.max(counters.pool_peak_pages);
        }
    }
    sum
}

const COPY: Strategy = Strategy::Copy { pool_pages: 1000 };

#[test]
fn a_thousand_snapshots_by_copy_equal_the_copy_under_stop() {
    if userfaultfd_works() {
        let options = Options { strategy: COPY, run_bytes: 4096, ..Options::default() };
        let counters = check(&Backing::Anonymous, 256, 256, options, 1000);
        assert!(counters.faults > 1000, "the guest hardly wrote: {counters:?}");
        assert_eq!(counters.pool_full, 0);
    }
}

#[test]
fn a_thousand_snapshots_by_priority_equal_the_copy_under_stop() {
    if userfaultfd_works() {
        let options = Options { strategy: Strategy::Priority, run_bytes: 4096, ..Options::default() };
        let counters = check(&Backing::Anonymous, 256, 256, options, 1000);
        assert!(counters.faults > 1000, "the guest hardly wrote: {counters:?}");
    }
}

#[test]
fn a_full_pool_loses_nothing() {
    if userfaultfd_works() {
        let strategy = Strategy::Copy { pool_pages: 1 };
        let options = Options { strategy, run_bytes: 4096, ..Options::default() };
        let counters = check(&Backing::Anonymous, 128, 128, options, 500);
        assert!(counters.pool_full > 0, "the pool was never full: {counters:?}");
        assert_eq!(counters.pool_peak_pages, 1);
    }
}

#[test]
fn untouched_pages_are_covered_by_population_too() {
    if userfaultfd_works() {
        for strategy in [COPY, Strategy::Priority] {
            let options = Options { strategy, unpopulated: Unpopulated::Populate, run_bytes: 16384 };
            check(&Backing::Anonymous, 200, 200, options, 300);
        }
    }
}

#[test]
fn shared_memory_is_saved_as_well() {
    if userfaultfd_works() {
        for strategy in [COPY, Strategy::Priority] {
            let options = Options { strategy, ..Options::default() };
            check(&Backing::Shared, 200, 200, options, 300);
        }
    }
}

#[test]
fn huge_pages_are_saved_as_well() {
    if userfaultfd_works() && test_support::huge_pages_or_skip(4) {
        for strategy in [COPY, Strategy::Priority] {
            check(&Backing::Huge, 4, 4, Options { strategy, ..Options::default() }, 50);
        }
    }
}

#[test]
fn a_page_never_touched_is_zero_although_the_guest_writes_it_first() {
    if !userfaultfd_works() {
        return;
    }
    for unpopulated in [Unpopulated::Populate, Unpopulated::Protect] {
        for strategy in [COPY, Strategy::Priority] {
            let memory = Arc::new(Mapping::new(64 * 4096, &Backing::Anonymous).unwrap());
            let options = Options { strategy, unpopulated, run_bytes: 4096 };
            let prepared = Prepared::new(vec![memory.clone().into()], options).unwrap();
            let mut snapshot = prepared.protect().unwrap();
            let writer = {
                let memory = Arc::clone(&memory);
                std::thread::spawn(move || (0..64).rev().for_each(|page| memory.store(page * 4096, 7)))
            };
            let saved = take(&mut snapshot, &memory, Duration::from_micros(100));
            writer.join().unwrap();
            let pages = saved.chunks(4096).enumerate();
            let changed: Vec<usize> =
                pages.filter(|(_, page)| page.iter().any(|&b| b != 0)).map(|(n, _)| n).collect();
            assert_eq!(changed, [], "{unpopulated:?} {strategy:?}, {:?}", snapshot.counters());
            assert!(snapshot.counters().faults > 0);
        }
    }
}

#[test]
fn priority_hands_out_the_faulting_page_next() {
    if !userfaultfd_works() {
        return;
    }
    let memory = Arc::new(Mapping::new(64 * 4096, &Backing::Anonymous).unwrap());
    let options = Options { strategy: Strategy::Priority, run_bytes: 4096, ..Options::default() };
    let mut snapshot = Prepared::new(vec![memory.clone().into()], options).unwrap().protect().unwrap();
    let mut data = Vec::new();
    assert_eq!(snapshot.next_run(&mut data).unwrap().unwrap().offset, 0);
    let writer = {
        let memory = Arc::clone(&memory);
        std::thread::spawn(move || memory.store(40 * 4096, 1))
    };
    // The writer comes to its fault some time; until then pages come in order.
    let run = std::iter::from_fn(|| {
        std::thread::sleep(Duration::from_millis(2));
        snapshot.next_run(&mut data).unwrap()
    });
    let mut run = run.skip_while(|run| run.cause == Cause::Background);
    assert_eq!(run.next().map(|run| (run.offset, run.length)), Some((40 * 4096, 4096)));
    assert!(!writer.is_finished(), "the page was unprotected before it was released");
    drop(run);
    snapshot.release().unwrap();
    writer.join().unwrap();
    assert_eq!(memory.load(40 * 4096), 1);
}

#[test]
fn an_abandoned_snapshot_lets_the_guest_go_on() {
    if !userfaultfd_works() {
        return;
    }
    for strategy in [COPY, Strategy::Priority, Strategy::Copy { pool_pages: 0 }] {
        let memory = Arc::new(Mapping::new(64 * 4096, &Backing::Anonymous).unwrap());
        let guest = Guest::start(&memory, 2, 64);
        for taken in 0..20 {
            let options = Options { strategy, run_bytes: 4096, ..Options::default() };
            let prepared = Prepared::new(vec![memory.clone().into()], options).unwrap();
            let mut snapshot = guest.stopped(|| prepared.protect().unwrap());
            let mut data = Vec::new();
            for _ in 0..taken {
                snapshot.next_run(&mut data).unwrap();
            }
            drop(snapshot);
            // Both writers must get on.
            let before = guest.writes.load(Ordering::Relaxed);
            while guest.writes.load(Ordering::Relaxed) < before + 200 {
                std::thread::yield_now();
            }
        }
    }
}
