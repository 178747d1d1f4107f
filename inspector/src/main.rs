//! `snapinspect`: the command line of the library.

use clap::Parser;
use snapinspect::cli::Cli;
use standard_streams::Stream;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = snapinspect::end_on_bus_error() {
        let _ = writeln!(std::io::stderr(), "snapinspect: a signal's handler: {error}");
        return ExitCode::from(2);
    }
    let answer = match Cli::try_parse() {
        Ok(cli) => snapinspect::run(&cli),
        Err(error) if error.use_stderr() => {
            // There is no one to report to if stderr is gone.
            let _ = error.print();
            return ExitCode::from(2);
        }
        // --help and --version.
        Err(help) => standard_streams::check(Stream::Stdout)
            .and_then(|()| help.print())
            .and_then(|()| std::io::stdout().flush())
            .map_err(snapinspect::Error::output)
            .map(|()| 0),
    };
    match answer {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !matches!(error, snapinspect::Error::Closed) {
                // As above.
                let _ = writeln!(std::io::stderr(), "snapinspect: {}", snapinspect::error_text(&error));
            }
            ExitCode::from(error.exit_status())
        }
    }
}
