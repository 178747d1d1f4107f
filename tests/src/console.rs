//! What the guest says about its memory.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long a guest may take for a step (fill its memory, verify it once) on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// A line of the guest's, see `guest/guest.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Memory is filled.
    Ready {
        /// Pages that the guest writes and verifies.
        pages: u32,
    },
    /// So many pages were written in all.
    Progress {
        /// Page writes since the start.
        writes: u32,
    },
    /// Every page was verified once more.
    Pass {
        /// Number of the pass, from 1.
        number: u32,
        /// Page writes since the start.
        writes: u32,
        /// Mismatches since the start.
        mismatches: u32,
    },
    /// A page does not hold what was written, or the guest could not start. The whole line.
    Trouble(String),
}

impl Report {
    /// Reads one line. [`None`]: the end of a line whose beginning was printed before the snapshot.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let number = |word: Option<&str>, key: &str| word?.strip_prefix(key)?.parse().ok();
        match words.next()? {
            "ready" => Some(Self::Ready { pages: number(words.next(), "pages=")? }),
            "progress" => Some(Self::Progress { writes: number(words.next(), "")? }),
            "pass" => Some(Self::Pass {
                number: number(words.next(), "")?,
                writes: number(words.next(), "writes=")?,
                mismatches: number(words.next(), "mismatches=")?,
            }),
            "mismatch" | "failed" => Some(Self::Trouble(line.to_owned())),
            _ => None,
        }
    }
}

/// The file that a guest's debug console goes to.
///
/// Every wait panics on a mismatch that the guest reports, and after two minutes without what it waits for.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
}

impl Console {
    /// What is written to the file at `path`, which need not be there yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// All complete lines so far.
    ///
    /// # Panics
    ///
    /// If a line, other than the first one, is none of the guest's.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        let text = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut reports = Vec::new();
        for (index, line) in complete.lines().enumerate() {
            match Report::parse(line) {
                Some(report) => reports.push(report),
                None => assert!(index == 0, "not a line of the guest's: {line:?}"),
            }
        }
        reports
    }

    /// Page writes that the guest last reported; 0 before its first report.
    ///
    /// # Panics
    ///
    /// As [`Console::reports`].
    #[must_use]
    pub fn writes(&self) -> u32 {
        let writes = |report: &Report| match *report {
            Report::Progress { writes } | Report::Pass { writes, .. } => Some(writes),
            Report::Ready { .. } | Report::Trouble(_) => None,
        };
        self.reports().iter().rev().find_map(writes).unwrap_or(0)
    }

    /// Number of the pass that the guest last completed; 0 before its first one.
    ///
    /// # Panics
    ///
    /// As [`Console::reports`].
    #[must_use]
    pub fn passes(&self) -> u32 {
        let number = |report: &Report| match *report {
            Report::Pass { number, .. } => Some(number),
            _ => None,
        };
        self.reports().iter().rev().find_map(number).unwrap_or(0)
    }

    /// Waits until the guest has filled its memory, and gives its number of pages.
    ///
    /// # Panics
    ///
    /// On trouble, or too late.
    pub fn wait_ready(&self) -> u32 {
        let pages = |report: &Report| match *report {
            Report::Ready { pages } => Some(pages),
            _ => None,
        };
        self.wait("ready", |reports| reports.iter().find_map(pages))
    }

    /// Waits until the guest has completed `count` more passes than at the time of the call: one to
    /// end the pass that runs, the others each from first page to last.
    ///
    /// # Panics
    ///
    /// On trouble, or too late.
    pub fn wait_passes(&self, count: usize) {
        let before = passes(&self.reports());
        self.wait(&format!("{count} more passes"), |reports| {
            (passes(reports) >= before + count).then_some(())
        });
    }

    /// As [`Console::wait_passes`], but trouble is an answer: false.
    ///
    /// # Panics
    ///
    /// Too late.
    #[must_use]
    pub fn is_sound_for(&self, count: usize) -> bool {
        let before = passes(&self.reports());
        self.wait_for(&format!("{count} more passes"), |reports| match trouble(reports) {
            Some(_) => Some(false),
            None => (passes(reports) >= before + count).then_some(true),
        })
    }

    /// Waits until the guest has written `pages` more pages than it had last reported at the time
    /// of the call.
    ///
    /// # Panics
    ///
    /// On trouble, or too late.
    pub fn wait_writes(&self, pages: u32) {
        let wanted = self.writes() + pages;
        self.wait(&format!("{wanted} writes"), |_| (self.writes() >= wanted).then_some(()));
    }

    /// Panics if the guest has reported trouble so far.
    ///
    /// # Panics
    ///
    /// That is its job.
    pub fn assert_sound(&self) {
        check(&self.reports());
    }

    fn wait<T>(&self, what: &str, found: impl Fn(&[Report]) -> Option<T>) -> T {
        self.wait_for(what, |reports| {
            check(reports);
            found(reports)
        })
    }

    fn wait_for<T>(&self, what: &str, found: impl Fn(&[Report]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let reports = self.reports();
            if let Some(found) = found(&reports) {
                return found;
            }
            assert!(
                Instant::now() < end,
                "no {what} from the guest within {PATIENCE:?}; its last word: {:?}",
                reports.last()
            );
            thread::sleep(POLL);
        }
    }
}

fn passes(reports: &[Report]) -> usize {
    reports.iter().filter(|report| matches!(report, Report::Pass { .. })).count()
}

fn check(reports: &[Report]) {
    if let Some(trouble) = trouble(reports) {
        panic!("the guest reports: {trouble}");
    }
}

fn trouble(reports: &[Report]) -> Option<String> {
    reports.iter().find_map(|report| match report {
        Report::Trouble(line) => Some(line.clone()),
        Report::Pass { mismatches, .. } if *mismatches > 0 => Some(format!("{report:?}")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console_of(text: &str) -> (tempfile::TempDir, Console) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("console");
        fs::write(&path, text).expect("a small file");
        (folder, Console::new(&path))
    }

    #[test]
    fn reports_skip_a_cut_first_line_and_an_incomplete_last_one() {
        let (_folder, console) = console_of("s 3 writes=12 mismatches=0\nprogress 4096\npass 4 writes=50");
        assert_eq!(console.reports(), [Report::Progress { writes: 4096 }]);
        assert_eq!(console.writes(), 4096);
        assert_eq!(console.passes(), 0);
    }

    #[test]
    #[should_panic(
        expected = "the guest reports: mismatch page=7 word=0 expected=0x1 found=0x2 generation=3"
    )]
    fn wait_panics_on_a_mismatch() {
        let (_folder, console) =
            console_of("ready pages=9\nmismatch page=7 word=0 expected=0x1 found=0x2 generation=3\n");
        console.wait_ready();
    }

    #[test]
    #[should_panic(expected = "mismatches: 1")]
    fn wait_panics_on_a_pass_that_counts_a_mismatch() {
        let (_folder, console) = console_of("ready pages=9\npass 4 writes=50 mismatches=1\n");
        console.wait_ready();
    }
}
