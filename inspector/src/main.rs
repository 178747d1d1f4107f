//! `snapinspect`: the command line of the library.

use clap::Parser;
use snapinspect::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match snapinspect::run(&cli) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !matches!(error, snapinspect::Error::Closed) {
                eprintln!("snapinspect: {error}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}
