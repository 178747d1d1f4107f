//! `qemu-snapshot`: parses the command line, does the job, and turns its end into an exit status.

use clap::{CommandFactory, Parser};
use qemu_snapshot::{Cli, Report, refuse_peer, revert, save};
use snapshot_engine::{Failure, Milestone, uuid_text};
use standard_streams::Stream;
use std::ffi::OsString;
use std::io::{self, Stdout, Write};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return stop(&error),
    };
    let mut text = Vec::new();
    if let Some(shell) = cli.completions {
        clap_complete::generate(shell, &mut Cli::command(), "qemu-snapshot", &mut text);
        return answer(|out| out.write_all(&text));
    }
    if cli.man {
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
        return answer(|out| rendered.and_then(|()| out.write_all(&text)));
    }
    let report = Report::new(&cli);
    match if cli.revert { run_revert(&cli, &report) } else { run_save(&cli, &report) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(report.failed(&failure)),
    }
}

/// Prints an answer on stdout; that it could not be printed is an error.
fn answer(print: impl FnOnce(&mut Stdout) -> io::Result<()>) -> ExitCode {
    let mut out = io::stdout();
    let printed =
        standard_streams::check(Stream::Stdout).and_then(|()| print(&mut out)).and_then(|()| out.flush());
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is no one to report to if stderr is gone.
            let _ = writeln!(io::stderr(), "qemu-snapshot: error: stdout: {error}");
            ExitCode::from(2)
        }
    }
}

/// `--help` and `--version` are answers; anything else that is not understood is an error that also the peer has to see,
/// as long as it is the one on stdin and stdout.
fn stop(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return answer(|_| error.print());
    }
    // There is no one to report to if stderr is gone.
    let _ = error.print();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let has = |start: &str| arguments.iter().any(|a| a.as_encoded_bytes().starts_with(start.as_bytes()));
    if !has("--uri") {
        refuse_peer(has("--revert") || has("-r"));
    }
    ExitCode::from(2)
}

fn run_save(cli: &Cli, report: &Report) -> Result<(), Failure> {
    report.saved(&save(cli, |text| report.warning(text))?);
    Ok(())
}

fn run_revert(cli: &Cli, report: &Report) -> Result<(), Failure> {
    let say_milestone = |milestone, time: Duration| match milestone {
        Milestone::Serving { uuid: Some(uuid) } => report.info(&format!(
            "serving pages; should this end too early, go on with --recover={} in migrate-recover",
            uuid_text(&uuid)
        )),
        Milestone::Serving { uuid: None } => {
            report.info("serving pages; the snapshot has no UUID, so there is no recovery");
        }
        Milestone::Running => {
            report.info(&format!("devices loaded after {:.1} ms", time.as_secs_f64() * 1e3))
        }
    };
    report.reverted(&revert(cli, say_milestone, |text| report.warning(text))?);
    Ok(())
}
