//! `snapsim`: a source and a destination of migrations without QEMU.
//!
//! Exit status 0: done, and everything was right. 1: what came from the other end is wrong. 2: it
//! could not be done.

mod destination;
mod explore;
mod hint;
mod options;
mod source;
mod strategies;

use clap::{Parser, Subcommand};
use standard_streams::Stream;
use std::io::{self, Stdout, Write};
use std::process::ExitCode;
use vm_simulator::real::{Error, Fault, Report};

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
    if options::asks_for_faults() {
        return end(answer(|out| writeln!(out, "{}", Fault::names().join("\n"))));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // There is no one to report to if stderr is gone.
            let _ = error.print();
            return ExitCode::from(2);
        }
        // --help and --version.
        Err(help) => return end(answer(|_| help.print())),
    };
    // Each command writes a stream or a report to it.
    let open =
        standard_streams::check(Stream::Stdout).map_err(|error| Failure::Usage(format!("stdout: {error}")));
    end(open.and_then(|()| run(&cli.command)))
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Source(arguments) => source::run(arguments),
        Command::Destination(arguments) => destination::run(arguments),
        Command::Strategies(arguments) => strategies::run(arguments),
        Command::Explore(arguments) => explore::run(arguments),
    }
}

/// The exit status of a result; prints to stderr what went wrong.
fn end(result: Result<(), Failure>) -> ExitCode {
    let (text, status) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Job(error)) => (hint::text(&error), if error.is_wrong_input() { 1 } else { 2 }),
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Found(count)) => (format!("{count} seeds failed"), 1),
    };
    // No one reads it if stderr is gone.
    let _ = writeln!(io::stderr(), "snapsim: {text}");
    ExitCode::from(status)
}

/// Prints an answer on stdout.
///
/// # Errors
///
/// It could not be printed.
fn answer(print: impl FnOnce(&mut Stdout) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::stdout();
    let printed =
        standard_streams::check(Stream::Stdout).and_then(|()| print(&mut out)).and_then(|()| out.flush());
    printed.map_err(|error| Failure::Usage(format!("stdout: {error}")))
}

/// Prints a report: to stdout, unless the stream goes there.
fn print(report: &Report, json: bool, stdout_is_taken: bool) -> Result<(), Failure> {
    let text = if json { format!("{}\n", report.to_json()) } else { report.to_text() };
    if stdout_is_taken {
        // There is no one to report to if stderr is gone.
        let _ = io::stderr().write_all(text.as_bytes());
        return Ok(());
    }
    tell(&text)
}

/// Prints what was done on stdout. A reader that has gone does not change it.
///
/// # Errors
///
/// It could not be printed for another reason.
fn tell(text: &str) -> Result<(), Failure> {
    answer(|out| match out.write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    })
}
