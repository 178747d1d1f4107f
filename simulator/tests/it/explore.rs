//! Campaigns in the simulated world: fresh seeds every time, all seeds that ever failed, and faults
//! that must be found.

use std::time::{SystemTime, UNIX_EPOCH};
use vm_simulator::Planted;
use vm_simulator::explore::explore;

/// Seeds that once failed, one per line; behind `#` what was found.
const FAILED: &str = include_str!("explore-failed-seeds.txt");

fn fresh_seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

#[test]
fn fresh_seeds_find_nothing() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let first = clock.wrapping_mul(1_000_003);
    let mut recoveries = 0;
    for seed in (0..fresh_seeds()).map(|number| first.wrapping_add(number)) {
        match explore(seed, None) {
            Ok(explored) => recoveries += explored.recoveries,
            // The message replays it: snapsim explore --first SEED --seeds 1.
            Err(finding) => panic!("{finding}"),
        }
    }
    assert!(recoveries > fresh_seeds() / 20, "{recoveries} recoveries: the campaign does not do much");
}

#[test]
fn seeds_that_once_failed_find_nothing() {
    for line in FAILED.lines() {
        let seed = line.split('#').next().unwrap_or_default().trim();
        if !seed.is_empty() {
            explore(seed.parse().expect("a seed"), None).unwrap();
        }
    }
}

/// The canary: an engine that sends a wrong page, or one twice and another not at all, is found,
/// and the same seed finds the same thing at the same event.
#[test]
fn planted_faults_are_found_and_replay() {
    for (planted, rule) in [
        (Planted::WrongPage, "no wrong page"),
        (Planted::PageTwice, ""),
        (Planted::CopyNotSent, "no lost page"),
    ] {
        let findings: Vec<_> = (0..60).filter_map(|seed| explore(seed, Some(planted)).err()).collect();
        assert!(findings.len() >= 10, "{planted:?}: {} of 60 seeds found it", findings.len());
        for finding in findings {
            assert!(finding.text.contains(rule), "{planted:?}: {finding}");
            assert_eq!(explore(finding.seed, Some(planted)), Err(finding));
        }
    }
}
