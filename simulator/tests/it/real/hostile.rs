//! Ends that misbehave: the other one says what is wrong, or copes, and neither waits without end.

use super::pair::{FaultsOf, destination, load, run, source, userfaultfd_works};
use std::time::Duration;
use vm_simulator::real::destination::DestinationConfig;
use vm_simulator::real::source::{Mode, SourceConfig};
use vm_simulator::real::{Error, Fault, Faults, Workload};

const POSTCOPY: Mode = Mode::Postcopy { percent: 0, preempt: false };

fn idle() -> SourceConfig {
    SourceConfig { load: load(Workload::Idle), digest: true, ..source(POSTCOPY) }
}

/// A destination with one fault: of its behaviour and of its end of the connection.
fn with(fault: Fault) -> (DestinationConfig, FaultsOf) {
    let faults = Faults::new(&[fault]);
    let timeout = Duration::from_secs(3);
    let config = DestinationConfig { faults: faults.clone(), make_digest: true, timeout, ..destination() };
    (config, Box::new(move |_| (Faults::default(), faults.clone())))
}

#[test]
fn a_source_refuses_wrong_requests_by_name() {
    if !userfaultfd_works() {
        return;
    }
    let check = |fault, expected: &str| {
        let (destination, faults) = with(fault);
        let (sent, loaded) = run(&idle(), &destination, faults);
        assert!(loaded.is_err(), "{fault}: the source served it");
        let error = sent.unwrap_err();
        assert!(matches!(error, Error::ReturnPath(_)), "{fault}: {error}");
        assert!(error.to_string().contains(expected), "{fault}: {error}");
    };
    check(Fault::RequestUnknownBlock, "unknown block \"nobody\\'s block\"");
    check(Fault::RequestOutside, "the block has ");
    check(Fault::RequestUnaligned, "not made of whole host pages of 4096 bytes");
}

#[test]
fn a_source_copes_with_greedy_requests() {
    if !userfaultfd_works() {
        return;
    }
    for fault in [
        Fault::RequestOverlapping,
        Fault::RequestHuge,
        Fault::RequestStorm(50),
        Fault::Short,
        Fault::Delay(300),
    ] {
        let (destination, faults) = with(fault);
        let (sent, loaded) = run(&idle(), &destination, faults);
        let (sent, loaded) = (sent.unwrap(), loaded.unwrap());
        assert_eq!(loaded.duplicates, 0, "{fault}");
        assert_eq!(loaded.arrived, loaded.pages, "{fault}");
        assert_eq!(sent.digest, loaded.digest, "{fault}");
    }
}

#[test]
fn one_byte_at_a_time_and_reordered_requests_are_served() {
    if !userfaultfd_works() {
        return;
    }
    for fault in [Fault::OneByte, Fault::Reorder] {
        let (destination, faults) = with(fault);
        let blocks = vec![(b"pc.ram".to_vec(), 256 << 10)];
        let (sent, loaded) = run(&SourceConfig { blocks, ..idle() }, &destination, faults);
        assert_eq!(sent.unwrap().digest, loaded.unwrap().digest, "{fault}");
    }
}

#[test]
fn a_silent_destination_ends_the_wait() {
    if !userfaultfd_works() {
        return;
    }
    let (destination, _) = with(Fault::Silent);
    // No SHUT comes; the source hears the connection end, or waits for no longer than it may.
    let (sent, loaded) = run(&idle(), &destination, Box::new(|_| Default::default()));
    assert!(sent.is_err(), "{sent:?}");
    // The source did not learn what is missing, but everything arrived in its turn.
    let loaded = loaded.unwrap();
    assert_eq!(loaded.arrived, loaded.pages);
}

#[test]
fn a_flipped_bit_is_an_error_or_a_wrong_page() {
    if !userfaultfd_works() {
        return;
    }
    let (mut errors, mut wrong) = (0, 0);
    for number in 0..40u64 {
        let (destination, faults) = with(Fault::BitFlip(number * number * 997 % (8 << 20)));
        let (sent, _) = run(
            &idle(),
            &DestinationConfig { faults: Faults::default(), ..destination.clone() },
            Box::new(|_| Default::default()),
        );
        let digest = sent.unwrap().digest;
        let destination = DestinationConfig { digest, faults: Faults::default(), ..destination };
        match run(&idle(), &destination, faults).1 {
            Err(Error::Wrong(text))
                if text.contains("pages are wrong") || text.starts_with("device sections") =>
            {
                wrong += 1
            }
            Err(_) => errors += 1,
            Ok(loaded) => panic!("bit {number}: not noticed, {} wrong", loaded.wrong),
        }
    }
    assert!(errors > 0 && wrong > 0, "{errors} errors, {wrong} wrong pages");
}

#[test]
fn a_destination_that_is_killed_leaves_a_source_that_says_so() {
    if !userfaultfd_works() {
        return;
    }
    for event in [0, 3, 10, 300, 3000] {
        let (destination, _) = with(Fault::KillAt(event));
        let (sent, loaded) = run(&idle(), &destination, Box::new(|_| Default::default()));
        assert!(matches!(loaded, Err(Error::Killed("kill-at"))), "event {event}: {loaded:?}");
        assert!(matches!(sent, Err(Error::Io { .. } | Error::ReturnPath(_))), "event {event}: {sent:?}");
    }
}

#[test]
fn a_source_that_answers_late_and_out_of_order_is_waited_for() {
    if !userfaultfd_works() {
        return;
    }
    let faults = Faults::new(&[Fault::Delay(100), Fault::Reorder]);
    let blocks = vec![(b"pc.ram".to_vec(), 2 << 20)];
    let (destination, _) = with(Fault::Short);
    let destination = DestinationConfig { faults: Faults::default(), ..destination };
    let (sent, loaded) =
        run(&SourceConfig { faults, blocks, ..idle() }, &destination, Box::new(|_| Default::default()));
    assert_eq!(sent.unwrap().digest, loaded.unwrap().digest);
}

#[test]
fn a_source_that_is_killed_leaves_a_destination_that_says_so() {
    if !userfaultfd_works() {
        return;
    }
    for event in [0, 100, 4000] {
        let faults = Faults::new(&[Fault::KillAt(event)]);
        let destination = DestinationConfig { timeout: Duration::from_secs(3), ..super::pair::destination() };
        let (sent, loaded) =
            run(&SourceConfig { faults, ..idle() }, &destination, Box::new(|_| Default::default()));
        assert!(matches!(sent, Err(Error::Killed(_))), "event {event}: {sent:?}");
        // Before RUN that is the end; later no one recovers it.
        assert!(matches!(loaded, Err(Error::Closed { .. } | Error::Io { .. })), "event {event}: {loaded:?}");
    }
}
