//! `cargo test-all`: all tests of the workspace, and at the end one line that says how many ran,
//! were skipped whole or in part, and why. Arguments are those of `cargo test`; the exit status is
//! its.
//!
//! A test that takes longer than fifteen minutes (`TEST_LIMIT`, in seconds) is named, and its program killed.

mod limit;
mod summary;

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{ChildStdout, Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use limit::Limit;
use summary::Summary;
use test_support::RECORD;

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("test-all: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let record = env::temp_dir().join(format!("test-all.{}", std::process::id()));
    File::create(&record)?;
    let record = Removed(record);
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tests = Command::new(cargo)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(env::args_os().skip(1))
        .env(RECORD, &record.0)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut summary = Summary::default();
    let output = tests.stdout.take().ok_or_else(|| io::Error::other("no pipe to cargo test"))?;
    let lines = read_lines(output);
    let mut limit = Limit::from_environment();
    loop {
        // A far end while no test is slow: the next line ends the wait.
        let left = limit.left(Instant::now()).unwrap_or(Duration::from_secs(3600));
        match lines.recv_timeout(left) {
            Ok(line) => take_line(&line?, &mut summary, &mut limit)?,
            Err(RecvTimeoutError::Timeout) => {
                let expired = limit.take_expired(Instant::now());
                if !expired.is_empty() {
                    eprintln!("test-all: over {} s, killed: {}", limit.seconds(), expired.join(", "));
                    limit::kill_descendants(tests.id());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = tests.wait()?;
    for line in fs::read_to_string(&record.0)?.lines() {
        summary.skip(line);
    }
    println!("{summary}");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads lines in a thread of its own, so that a silent test can be noticed.
fn read_lines(output: ChildStdout) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn take_line(line: &[u8], summary: &mut Summary, limit: &mut Limit) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    summary.result(&text);
    limit.line(&text, Instant::now());
    let mut stdout = io::stdout().lock();
    stdout.write_all(line)?;
    stdout.write_all(b"\n")
}

/// A file that is removed in the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
