//! `cargo test-all`: all tests of the workspace, and at the end one line that says how many ran, were skipped whole or in
//! part, and why. Arguments are those of `cargo test`; the exit status is its.

mod summary;

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

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
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        summary.result(&String::from_utf8_lossy(&line));
        let mut stdout = io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
    }
    let status = tests.wait()?;
    for line in fs::read_to_string(&record.0)?.lines() {
        summary.skip(line);
    }
    println!("{summary}");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A file that is removed in the end.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
