//! A limit for each test: a test program with one that takes longer is killed, and the run goes on
//! with the next program.

use std::{
    collections::BTreeMap,
    env, fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Environment variable: the limit in seconds.
const VARIABLE: &str = "TEST_LIMIT";

const DEFAULT: Duration = Duration::from_secs(15 * 60);

/// After this time the test harness reports a test that still runs.
const REPORTED_AFTER: Duration = Duration::from_secs(60);

/// The tests that the harness has reported as slow, and when each began.
#[derive(Debug)]
pub(crate) struct Limit {
    limit: Duration,
    slow: BTreeMap<String, Instant>,
}

impl Limit {
    /// With the limit in the environment, which is no shorter than the time after which the harness
    /// reports a test.
    pub(crate) fn from_environment() -> Self {
        let seconds = env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        Self::new(seconds.map_or(DEFAULT, Duration::from_secs))
    }

    fn new(limit: Duration) -> Self {
        Self { limit: limit.max(REPORTED_AFTER), slow: BTreeMap::new() }
    }

    /// Takes a line of the harness: a test that is slow, or one that has ended, or the end of a program.
    pub(crate) fn line(&mut self, line: &str, now: Instant) {
        if line.starts_with("running ") || line.starts_with("test result: ") {
            self.slow.clear();
        } else if let Some(rest) = line.strip_prefix("test ") {
            if let Some((name, _)) = rest.split_once(" has been running for over ") {
                self.slow.insert(name.to_owned(), now.checked_sub(REPORTED_AFTER).unwrap_or(now));
            } else if let Some((name, _)) = rest.split_once(" ... ") {
                self.slow.remove(name);
            }
        }
    }

    /// How long until a test is over its limit; `None` while none is slow.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let begun = self.slow.values().min()?;
        Some((*begun + self.limit).saturating_duration_since(now))
    }

    /// The tests over their limit, which are forgotten then, with their program.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<String> {
        let is_over = |begun: &Instant| now.duration_since(*begun) >= self.limit;
        let expired: Vec<String> =
            self.slow.iter().filter(|(_, begun)| is_over(begun)).map(|(name, _)| name.clone()).collect();
        if !expired.is_empty() {
            self.slow.clear();
        }
        expired
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.limit.as_secs()
    }
}

/// Kills all descendants of a process, not itself.
pub(crate) fn kill_descendants(process: u32) {
    // A killed process has no children any more, so all of them are found first.
    for id in descendants(process) {
        if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

fn descendants(process: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Limit, kill_descendants};
    use std::io::Read;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn a_test_over_its_limit_is_named_and_one_that_ended_is_not() {
        let mut limit = Limit::new(Duration::from_secs(100));
        let start = Instant::now() + Duration::from_secs(1000);
        let after = |seconds| start + Duration::from_secs(seconds);
        limit.line("running 3 tests", start);
        assert_eq!(limit.left(after(0)), None);
        limit.line("test one::slow has been running for over 60 seconds", after(60));
        limit.line("test one::other has been running for over 60 seconds", after(70));
        limit.line("test one::other ... ok", after(80));
        assert_eq!(limit.left(after(90)), Some(Duration::from_secs(10)));
        assert!(limit.take_expired(after(99)).is_empty());
        assert_eq!(limit.take_expired(after(100)), ["one::slow"]);
        assert_eq!(limit.left(after(101)), None);
    }

    #[test]
    fn a_test_is_not_held_to_the_end_of_another_program() {
        let mut limit = Limit::new(Duration::from_secs(100));
        let now = Instant::now() + Duration::from_secs(1000);
        limit.line("test one::slow has been running for over 60 seconds", now);
        limit.line("test result: FAILED. 3 passed; 2 failed", now);
        assert_eq!(limit.left(now), None);
    }

    #[test]
    fn descendants_are_killed_and_the_process_itself_lives() {
        let mut shell = Command::new("sh");
        // The pipe is closed when the last of the three has ended.
        shell.args([
            "-c",
            "sh -c 'sleep 1000 & sleep 1000; true' & echo begun; wait; exec >&-; echo lives >&2",
        ]);
        let mut child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
        let mut output = child.stdout.take().expect("piped");
        let mut begun = [0; 6];
        output.read_exact(&mut begun).expect("the shell's line");
        // The inner shell starts its children at once; until they are there they are killed again.
        while child.try_wait().expect("our own child").is_none() {
            kill_descendants(child.id());
            std::thread::sleep(Duration::from_millis(5));
        }
        output.read_to_end(&mut Vec::new()).expect("no one holds the pipe");
        let mut lives = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut lives).expect("text");
        assert!(lives.ends_with("lives\n"), "{lives}");
    }
}
