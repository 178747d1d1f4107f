//! The commands.

mod check;
mod compat;
mod convert;
mod diff;
mod dump;
mod extract;
mod image;
mod info;
mod manual;
mod map;
mod output;
mod qemu_args;
mod stat;

use crate::cli::{Cli, Command};
use crate::error::Error;
use crate::progress;
use crate::sink;
use standard_streams::Stream;

/// Runs a command; returns the exit status.
///
/// # Errors
///
/// Why there is no answer.
pub fn run(cli: &Cli) -> Result<u8, Error> {
    progress::choose(cli.progress);
    let inputs = cli.command.inputs();
    if cli.command.answers_on_stdout() {
        standard_streams::check(Stream::Stdout).map_err(Error::io("stdout"))?;
    }
    if sink::stdout_is_input(&inputs) {
        return Err(Error::Usage("stdout is an input, and would be overwritten".to_owned()));
    }
    match &cli.command {
        Command::Info(args) => info::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Check(args) => check::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Compat(args) => compat::run(args),
        Command::Map(args) => map::run(args, &inputs),
        Command::Extract(args) => extract::run(args, &inputs),
        Command::Convert(args) => convert::run(args, &inputs),
        Command::QemuArgs(args) => qemu_args::run(args),
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { command } => manual::man(command.as_deref()),
    }
}
