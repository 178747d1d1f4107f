//! What a run of all tests came to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use test_support::Kind;

/// Counts of all test programs, and what their tests did without.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// By package and test: the larger of its kinds.
    skips: BTreeMap<(String, String), Kind>,
    /// The tests without a thing.
    reasons: BTreeMap<String, BTreeSet<(String, String)>>,
}

impl Summary {
    /// Takes a line of `cargo test`'s stdout: those with a program's result count, all others do not.
    pub(crate) fn result(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.1.split("; ") {
            let mut words = count.split(' ');
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<usize>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    /// Takes a line of the record of skips.
    pub(crate) fn skip(&mut self, line: &str) {
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next().unwrap_or_default().to_owned();
        let (kind, test, reason) = (next(), (next(), next()), next());
        let Some(kind) = Kind::named(&kind) else { return };
        let worst = self.skips.entry(test.clone()).or_insert(kind);
        *worst = kind.max(*worst);
        self.reasons.entry(reason).or_default().insert(test);
    }

    fn skipped(&self, kind: Kind) -> usize {
        self.skips.values().filter(|&&found| found == kind).count()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (not_run, in_part) = (self.skipped(Kind::NotRun), self.skipped(Kind::InPart));
        let ran = (self.passed + self.failed).saturating_sub(not_run);
        write!(f, "Summary: {ran} tests ran, {} failed", self.failed)?;
        write!(f, "; skipped: {not_run} whole, {in_part} in part; {} ignored.", self.ignored)?;
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, tests)| (tests.len(), reason)).collect();
        reasons.sort_by(|a, b| b.cmp(a));
        for (index, (tests, reason)) in reasons.into_iter().enumerate() {
            write!(f, "{}{tests}x {reason}", if index == 0 { " Why: " } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn a_run_is_one_line_with_each_kind_of_skip_and_why() {
        let mut summary = Summary::default();
        for line in [
            "running 3 tests",
            "test result: ok. 41 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 89.11s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            summary.result(line);
        }
        for line in [
            "not run\tone\ta\tno QEMU",
            "in part\tone\ta\twithout qemu-img check",
            "in part\tone\tb\twithout qemu-img check",
            "not run\ttwo\ta\tno QEMU",
        ] {
            summary.skip(line);
        }
        assert_eq!(
            summary.to_string(),
            "Summary: 44 tests ran, 2 failed; skipped: 2 whole, 1 in part; 1 ignored. \
             Why: 2x without qemu-img check; 2x no QEMU"
        );
    }

    #[test]
    fn a_run_without_skips_gives_no_reasons() {
        let mut summary = Summary::default();
        summary.result(
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        assert_eq!(
            summary.to_string(),
            "Summary: 5 tests ran, 0 failed; skipped: 0 whole, 0 in part; 0 ignored."
        );
    }
}
