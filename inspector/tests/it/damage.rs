//! Damaged input: findings, never a panic; what follows is read where something names it; no byte
//! is unaccounted for.

use crate::common::{all, run_with, stream};
use snapinspect::check::Checker;
use snapinspect::input::{OpenOptions, open_reader};
use snapinspect::walk::{Context, Finding, Flow, Item, Level, Visitor, walk};
use std::io::Cursor;
use std::ops::ControlFlow;

/// Whether pieces follow each other without a gap.
#[derive(Default)]
struct Gapless {
    next: u64,
    gaps: Vec<(u64, u64)>,
    findings: Vec<Finding>,
}

impl Visitor for Gapless {
    fn item(&mut self, item: &Item<'_>, _: Context<'_>) -> Flow {
        if item.offset != self.next {
            self.gaps.push((self.next, item.offset));
        }
        self.next = item.offset + item.length;
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        self.findings.push(finding);
        ControlFlow::Continue(())
    }
}

/// Walks and checks; gives the findings of the check. None: nothing that could be opened.
fn examine(bytes: &[u8]) -> Option<Vec<Finding>> {
    let options = OpenOptions::default();
    let open = || open_reader("x", Cursor::new(bytes.to_vec()), &options);
    let opened = open().ok()?;
    let mut gapless = Gapless { next: opened.start, ..Gapless::default() };
    walk(opened, &options, &mut gapless, None).expect("memory can be read");
    assert_eq!(gapless.gaps, [], "a gap between pieces: {:?}", gapless.findings);
    assert_eq!(gapless.next, bytes.len() as u64, "{:?}", gapless.findings);
    let mut found = Vec::new();
    let mut take = |finding| found.push(finding);
    let opened = open().expect("opened before");
    let mut checker = Checker::new(&opened, &mut take);
    walk(opened, &options, &mut checker, None).expect("memory can be read");
    checker.finish();
    Some(found)
}

/// A sequence of numbers that is the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % below
    }
}

const STREAMS: [&str; 5] = [
    "qemu-10.0-pc",
    "qemu-7.2-pc-xbzrle",
    "qemu-7.2-pc-compress",
    "qemu-10.0-pc-postcopy",
    "qemu-7.2-pc-postcopy.rp",
];

#[test]
fn every_cut_is_an_error_and_none_a_panic() {
    let mut numbers = Numbers(1);
    for name in STREAMS {
        let bytes = stream(name);
        for _ in 0..60 {
            let cut = numbers.next(bytes.len());
            let Some(findings) = examine(&bytes[..cut]) else { continue };
            // A return path may end anywhere between two messages.
            let wrong = findings.iter().any(|finding| finding.level == Level::Error);
            assert!(wrong || name.ends_with(".rp"), "{name} cut at {cut}: {findings:?}");
        }
    }
}

/// How often bytes are changed; more of them where `INSPECT_ROUNDS` says so.
fn rounds() -> usize {
    std::env::var("INSPECT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(150)
}

#[test]
fn changed_bytes_never_panic_and_leave_no_gap() {
    let mut numbers = Numbers(2);
    for name in STREAMS {
        let bytes = stream(name);
        for _ in 0..rounds() {
            let mut changed = bytes.clone();
            for _ in 0..=numbers.next(3) {
                let at = numbers.next(changed.len());
                changed[at] = u8::try_from(numbers.next(256)).expect("a byte");
            }
            examine(&changed);
        }
        // The device sections and what describes them are a small part of a stream, and the hardest.
        for _ in 0..rounds() {
            let mut changed = bytes.clone();
            let from = changed.len().saturating_sub(110_000);
            let at = from + numbers.next(changed.len() - from);
            changed[at] ^= 1 << numbers.next(8);
            examine(&changed);
        }
    }
}

fn position(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).expect("is there")
}

#[test]
fn behind_a_damaged_device_reading_goes_on_at_the_next_one_that_the_vmdesc_names() {
    let mut bytes = stream("qemu-10.0-pc");
    let device = position(&bytes, b"\x04hpet") - 5;
    assert_eq!(bytes[device], 4, "a FULL section");
    bytes[device] = 9;
    insta::assert_snapshot!("damaged-device", all(&run_with(&["check", "-"], &bytes)));
}

#[test]
fn behind_damaged_ram_reading_goes_on_at_the_first_device() {
    let mut bytes = stream("qemu-7.2-pc");
    let record = position(&bytes, b"\x06pc.ram\x00\x00");
    let page =
        bytes[record + 30..].windows(8).position(|w| w == b"\0\0\0\0\0\0\x20\x22").expect("a zero page");
    bytes[record + 30 + page + 7] = 0x23;
    insta::assert_snapshot!("damaged-ram", all(&run_with(&["check", "-"], &bytes)));
}

#[test]
fn behind_damage_without_an_anchor_nothing_is_read() {
    let mut bytes = stream("qemu-7.2-pc-no-vmdesc");
    let record = position(&bytes, b"\x06pc.ram");
    bytes.drain(record + 100..record + 101);
    insta::assert_snapshot!("damaged-no-anchor", all(&run_with(&["check", "-"], &bytes)));
}

#[test]
fn wrong_order_in_postcopy_is_found() {
    let mut bytes = stream("qemu-10.0-pc-postcopy");
    // The package's RUN becomes a second LISTEN.
    let run = position(&bytes, b"\x08\0\x05\0\0");
    bytes[run + 2] = 4;
    insta::assert_snapshot!("damaged-postcopy-order", all(&run_with(&["check", "-"], &bytes)));
}
