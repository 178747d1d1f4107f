//! What real QEMUs do with each stream whose machine type they have, too: `corpus/LOADS`, against
//! which the verdicts of `snapinspect compat` are held.

use std::{collections::BTreeMap, fs};

use snapshot_tests::{Guest, Outcome, Qemu, Version, corpus};

use crate::{CAPTURES, Capture};

/// The configuration with this name, and the QEMU.
fn of(name: &str) -> Option<(Version, &'static Capture)> {
    let (version, configuration) = name.split_once('-')?;
    let version = Version::ALL.into_iter().find(|known| known.number() == version)?;
    Some((version, CAPTURES.iter().find(|capture| capture.name == configuration)?))
}

/// The pairs of one machine type that `corpus/COMPAT` has; those that are labelled already stay as they are.
pub(crate) fn take(guest: &Guest) {
    let file = corpus::root().join("LOADS");
    let read = |name: &str| fs::read_to_string(corpus::root().join(name)).unwrap_or_default();
    let mut known: BTreeMap<String, String> = read("LOADS")
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(pair, label)| (pair.to_owned(), label.to_owned())))
        .collect();
    let pairs = read("COMPAT");
    let pairs = pairs.lines().skip(1).take_while(|line| !line.starts_with('#'));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stream = folder.path().join("stream");
    for pair in pairs.filter_map(|line| Some(line.split_once(": ")?.0)) {
        let Some((source, target)) = pair.split_once(" -> ") else { continue };
        let (Some(_), Some((version, capture))) = (of(source), of(target)) else { continue };
        // The end of a postcopy needs a channel in the other direction.
        if known.contains_key(pair) || source.ends_with("-postcopy") {
            continue;
        }
        fs::write(&stream, corpus::stream(&format!("qemu-{source}"))).expect("a temporary file");
        let binary = version.binary().expect("the QEMUs are needed: .ci/qemu");
        let mut destination = Qemu::start(&binary, guest, capture.config().incoming());
        let wanted = capture.capabilities.iter().filter(|&&name| name != "background-snapshot");
        let on: Vec<_> = wanted.map(|&name| (name, true)).collect();
        destination.set_capabilities(&on);
        let label = match destination.revert(&format!("exec:cat {}", stream.display())) {
            Outcome::Completed => "loads",
            // A fault of QEMU's: up to 10.0 the state of an isa-vga is read from, and written to,
            // where it is not.
            Outcome::Failed(why) if why.starts_with("signal") => "crashes",
            Outcome::Failed(_) | Outcome::Cancelled => "refused",
        };
        println!("{pair}: {label}");
        known.insert(pair.to_owned(), label.to_owned());
        let lines: Vec<String> = known.iter().map(|(pair, label)| format!("{pair}: {label}\n")).collect();
        fs::write(&file, lines.concat()).expect("the corpus can be written");
    }
}
