//! `snapsim`: a source and a destination of migrations without QEMU.
//!
//! Exit status 0: done, and everything was right. 1: what came from the other end is wrong. 2: it could not be done.

mod destination;
mod explore;
mod options;
mod source;
mod strategies;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;
use vm_simulator::real::{Error, Report};

/// Both ends of a migration without QEMU: real memory, real threads, real page faults
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Source(source::Arguments),
    Destination(destination::Arguments),
    Strategies(strategies::Arguments),
    Explore(explore::Arguments),
}

/// Why a command did not do what was asked.
#[derive(Debug)]
enum Failure {
    Job(Error),
    Usage(String),
    /// So many seeds failed.
    Found(usize),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Job(error)
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Source(arguments) => source::run(&arguments),
        Command::Destination(arguments) => destination::run(&arguments),
        Command::Strategies(arguments) => strategies::run(&arguments),
        Command::Explore(arguments) => explore::run(&arguments),
    };
    let (text, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Job(error)) => (error.to_string(), if error.is_wrong_input() { 1 } else { 2 }),
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Found(count)) => (format!("{count} seeds failed"), 1),
    };
    // There is nobody to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "snapsim: {text}");
    ExitCode::from(status)
}

/// Prints a report: to stdout, unless the stream goes there.
fn print(report: &Report, json: bool, stdout_is_taken: bool) {
    let text = if json { format!("{}\n", report.to_json()) } else { report.to_text() };
    // A reader that has gone does not change what was done.
    let _ = if stdout_is_taken {
        std::io::stderr().write_all(text.as_bytes())
    } else {
        std::io::stdout().write_all(text.as_bytes())
    };
}
