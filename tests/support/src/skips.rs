//! A test without a thing that it needs.

use std::{
    collections::BTreeSet,
    env,
    fs::OpenOptions,
    io::Write,
    sync::{Mutex, PoisonError},
    thread,
};

/// Environment variable: a file that every skip is appended to, a line each: kind, package, test
/// and reason, between tabs.
pub const RECORD: &str = "TEST_SKIPS";

/// How much of a test was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Some of its assertions.
    InPart,
    /// All of it.
    NotRun,
}

impl Kind {
    /// As it is printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InPart => "in part",
            Self::NotRun => "not run",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::InPart, Self::NotRun].into_iter().find(|kind| kind.name() == name)
    }
}

/// Says that the running test is not run at all for `reason`, as "no QEMU 7.2: run .ci/qemu"; it is
/// to return.
///
/// The message goes to the process's own stderr, past the test harness's capture, so that it is
/// seen although the test passes; each reason once for a test.
///
/// # Panics
///
/// Where `CI=true`: there everything has to be installed, and a skipped test would look like a passed one.
pub fn not_run(reason: &str) {
    skip(Kind::NotRun, reason);
}

/// Says that the running test goes on without something: `reason` names it, as "without qemu-img check".
///
/// # Panics
///
/// Where `CI=true`, as [`not_run`].
pub fn in_part(reason: &str) {
    skip(Kind::InPart, reason);
}

fn skip(kind: Kind, reason: &str) {
    static SAID: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());
    assert!(env::var_os("CI").is_none_or(|ci| ci != "true"), "needed in CI, but missing: {reason}");
    let thread = thread::current();
    let test = thread.name().unwrap_or("a thread of a test").to_owned();
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.insert((test.clone(), reason.to_owned())) {
        return;
    }
    let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
    let line = format!("SKIPPED ({}): {package}: {test}: {reason}\n", kind.name());
    // Where stderr is closed, the record and the summary still have it.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(record) = env::var_os(RECORD) {
        let line = format!("{}\t{package}\t{test}\t{reason}\n", kind.name());
        let written =
            OpenOptions::new().append(true).open(record).and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the record of skips was made before");
    }
}
