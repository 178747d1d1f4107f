//! What `compat` says of the corpus: all pairs of streams of one machine type from different QEMUs,
//! and all pairs of one configuration with the newest machine type of each. The verdicts are pinned
//! in `corpus/COMPAT`; `corpus/LOADS` has what the real QEMUs did with those of one machine type.
//!
//! `UPDATE=1` writes that file anew: look at the difference before you commit it.

use crate::common::{corpus, names, stream};
use migration_stream::{Entry, Options, Record, SliceReader};
use snapinspect::compat::{Judgement, Shape, Verdict, judge};
use snapinspect::input::{OpenOptions, open_reader};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Cursor;

/// Breaking differences of a pair that are named; of the others the number is.
const NAMED: usize = 4;

struct Golden {
    /// `7.2`, `10.0`.
    version: String,
    /// `pc-virtio-net`.
    configuration: String,
    /// `pc-i440fx-7.2`; nothing where no configuration section says it.
    machine: Option<String>,
    shape: Shape,
}

impl Golden {
    fn name(&self) -> String {
        format!("{}-{}", self.version, self.configuration)
    }
}

fn golden(name: &str) -> Golden {
    let (version, configuration) =
        name.strip_prefix("qemu-").and_then(|name| name.split_once('-')).expect("qemu-VERSION-CONFIGURATION");
    let bytes = stream(name);
    let mut reader = SliceReader::new(&bytes, Options::default());
    // A pipe does not tell the page size before its end.
    let page_size = Some(reader.decoder().page_size());
    let mut machine = None;
    for _ in 0..2 {
        if let Ok(Some(Entry { record: Record::Configuration(configuration), .. })) = reader.advance() {
            machine = Some(String::from_utf8(configuration.machine).expect("QEMU's own names"));
        }
    }
    let options = OpenOptions { page_size, ..OpenOptions::default() };
    let opened = open_reader(name, Cursor::new(bytes), &options).expect("a stream");
    let shape = Shape::of_opened(opened, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
    Golden { version: version.to_owned(), configuration: configuration.to_owned(), machine, shape }
}

/// Every stream; a suppressed vmdesc leaves nothing to compare, and a return path is none.
fn all() -> Vec<Golden> {
    let names = names().into_iter().filter_map(|name| Some(name.strip_suffix(".bin.zst")?.to_owned()));
    let compared = |name: &String| {
        !name.ends_with(".rp") && !name.ends_with("-no-vmdesc") && !name.ends_with("-nothing")
    };
    names.filter(compared).map(|name| golden(&name)).collect()
}

fn worst(judgements: &[Judgement]) -> Verdict {
    judgements.iter().map(|judgement| judgement.verdict).max().unwrap_or(Verdict::Safe)
}

/// Verdict, what breaks, and how often which rule says that it may break.
fn said(judgements: &[Judgement]) -> String {
    let mut said = worst(judgements).name().to_owned();
    let of = |verdict| judgements.iter().filter(move |judgement| judgement.verdict == verdict);
    for judgement in of(Verdict::Breaks).take(NAMED) {
        write!(said, "; {} \"{}\"", judgement.rule, judgement.path).expect("a String takes everything");
    }
    if let more @ 1.. = of(Verdict::Breaks).count().saturating_sub(NAMED) {
        write!(said, "; {more} more").expect("a String takes everything");
    }
    let mut may: BTreeMap<&str, usize> = BTreeMap::new();
    of(Verdict::MayBreak).for_each(|judgement| *may.entry(judgement.rule).or_default() += 1);
    for (rule, count) in may {
        write!(said, "; may: {rule} {count}").expect("a String takes everything");
    }
    said
}

#[test]
fn verdicts_over_all_pairs_are_the_pinned_ones() {
    let all = all();
    let mut table = String::new();
    let mut broken = 0;
    for same_type in [true, false] {
        let title =
            if same_type { "one machine type, two QEMUs" } else { "one configuration, two machine types" };
        writeln!(table, "# {title}").expect("a String takes everything");
        for source in &all {
            for target in all.iter().filter(|target| target.version != source.version) {
                let same = source.machine.is_some() && source.machine == target.machine;
                if same != same_type || (!same && source.configuration != target.configuration) {
                    continue;
                }
                let judgements = judge(&source.shape, &target.shape);
                broken += usize::from(same && worst(&judgements) == Verdict::Breaks);
                let (from, to) = (source.name(), target.name());
                writeln!(table, "{from} -> {to}: {}", said(&judgements)).expect("a String takes everything");
            }
        }
    }
    assert!(broken >= 20, "{broken} pairs of one machine type do not load");
    let pinned = corpus().join("../COMPAT");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&pinned, &table).expect("corpus/COMPAT");
    }
    let expected = std::fs::read_to_string(&pinned).expect("UPDATE=1 makes it");
    let differ: Vec<_> = table.lines().filter(|line| !expected.lines().any(|other| other == *line)).collect();
    assert!(table == expected, "corpus/COMPAT has something else for:\n{}", differ.join("\n"));
}

/// Pairs of one machine type, and what the real QEMU of the target did with the source.
fn labels() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(corpus().join("../LOADS")).expect("corpus/capture --loads makes it");
    text.lines()
        .map(|line| line.split_once(": ").expect("PAIR: LABEL"))
        .map(|(pair, label)| (pair.to_owned(), label.to_owned()))
        .collect()
}

#[test]
fn what_is_safe_was_loaded_and_what_breaks_was_refused_by_the_real_qemus() {
    let (all, labels) = (all(), labels());
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for source in &all {
        for target in all.iter().filter(|target| target.version != source.version) {
            if source.machine.is_none() || source.machine != target.machine {
                continue;
            }
            let pair = format!("{} -> {}", source.name(), target.name());
            // The end of a postcopy cannot be loaded from a file.
            if source.configuration == "pc-postcopy" {
                continue;
            }
            let label = &labels.get(&pair).unwrap_or_else(|| panic!("{pair}: corpus/capture --loads"))[..];
            let verdict = worst(&judge(&source.shape, &target.shape));
            let lost = ["refused", "crashes"].contains(&label);
            assert!(!lost || verdict != Verdict::Safe, "{pair}: called safe, and {label}");
            assert!(label != "loads" || verdict != Verdict::Breaks, "{pair}: called broken, and loaded");
            *counts.entry((label, verdict.name())).or_default() += 1;
        }
    }
    // Both certain verdicts are given, and often.
    assert!(counts.get(&("loads", "safe")).is_some_and(|&count| count >= 100), "{counts:?}");
    assert!(counts.get(&("refused", "breaks")).is_some_and(|&count| count >= 350), "{counts:?}");
}

#[test]
fn nothing_breaks_where_a_stream_meets_itself() {
    for golden in all() {
        let judgements = judge(&golden.shape, &golden.shape);
        assert!(worst(&judgements) < Verdict::Breaks, "{}: {judgements:?}", golden.name());
    }
}
