//! `qemu-snapshot`: parses the command line, does the job, and turns its end into an exit status.

use clap::{CommandFactory, Parser};
use qemu_snapshot::{Cli, refuse_peer, revert, save};
use snapshot_engine::{Class, Failure, Milestone, uuid_text};
use snapshot_image::Verification;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return stop(&error),
    };
    if let Some(shell) = cli.completions {
        clap_complete::generate(shell, &mut Cli::command(), "qemu-snapshot", &mut io::stdout());
        return ExitCode::SUCCESS;
    }
    if cli.man {
        let page = clap_mangen::Man::new(Cli::command());
        return page.render(&mut io::stdout()).map_or(ExitCode::from(2), |()| ExitCode::SUCCESS);
    }
    match if cli.revert { run_revert(&cli) } else { run_save(&cli) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::from(match failure.class() {
                Class::InputWrong => 1,
                Class::CouldNot => 2,
            })
        }
    }
}

/// `--help` and `--version` are answers; anything else that is not understood is an error that also the peer has to see,
/// as long as it is the one on stdin and stdout.
fn stop(error: &clap::Error) -> ExitCode {
    // A reader that is gone changes nothing.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let has = |start: &str| arguments.iter().any(|a| a.as_encoded_bytes().starts_with(start.as_bytes()));
    if !has("--uri") {
        refuse_peer(has("--revert") || has("-r"));
    }
    ExitCode::from(2)
}

/// One line on stderr; if nobody reads it, so be it.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "qemu-snapshot: {text}");
}

fn run_save(cli: &Cli) -> Result<(), Failure> {
    let summary = save(cli)?;
    if summary.source_could_not_see {
        say("warning: the source opened no return path, so on a socket it could not have seen a failure");
    }
    say(&format!(
        "saved {} of {} KiB of RAM that are not zero, snapshot {}",
        (summary.nonzero_pages * summary.page_bytes) >> 10,
        summary.ram_bytes >> 10,
        uuid_text(&summary.uuid)
    ));
    Ok(())
}

fn run_revert(cli: &Cli) -> Result<(), Failure> {
    let say_milestone = |milestone, time: Duration| match milestone {
        Milestone::Serving { uuid: Some(uuid) } => say(&format!(
            "serving pages; should this end too early, go on with --recover={} in migrate-recover",
            uuid_text(&uuid)
        )),
        Milestone::Serving { uuid: None } => {
            say("serving pages; the snapshot has no UUID, so there is no recovery")
        }
        Milestone::Running => say(&format!("devices loaded after {:.1} ms", time.as_secs_f64() * 1e3)),
    };
    let start = Instant::now();
    let summary = revert(cli, say_milestone, |text| say(&format!("warning: {text}")))?;
    if let Some(postcopy) = summary.postcopy {
        say(&format!(
            "all pages sent after {:.1} ms: {} with content, {} zero; {} host pages on {} requests",
            start.elapsed().as_secs_f64() * 1e3,
            summary.normal_pages,
            summary.zero_pages,
            postcopy.requested_host_pages,
            postcopy.requests
        ));
    }
    if let Verification::Unverified(why) = summary.verification {
        say(&format!("warning: unverified: {why}"));
    }
    Ok(())
}
