//! The commands.

mod check;
mod compat;
mod convert;
mod diff;
mod dump;
mod extract;
mod image;
mod manual;
mod map;
mod output;
mod progress;
mod stat;

pub(crate) use output::finding_text;

use crate::cli::{Cli, Command};
use crate::error::Error;

/// Runs a command; returns the exit status.
///
/// # Errors
///
/// Why there is no answer.
pub fn run(cli: &Cli) -> Result<u8, Error> {
    match &cli.command {
        Command::Dump(args) => dump::run(args),
        Command::Check(args) => check::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Compat(args) => compat::run(args),
        Command::Map(args) => map::run(args),
        Command::Extract(args) => extract::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { command } => manual::man(command.as_deref()),
    }
}
