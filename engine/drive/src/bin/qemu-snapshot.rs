//! `qemu-snapshot`: parses the command line, does the job, and turns its end into an exit status.

use clap::{CommandFactory, Parser};
use qemu_snapshot::mapped::verify_mapped;
use qemu_snapshot::{
    Cli, Command, LockArgs, Report, Reverted, UnpackArgs, lock_inherited, refuse_peer, revert, save, unpack,
};
use snapshot_engine::{Failure, Milestone, error_text, uuid_text};
use standard_streams::Stream;
use std::ffi::OsString;
use std::io::{self, Stdout, Write};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if let Err(error) = qemu_snapshot::prepare() {
        // A job can be done all the same.
        let _ = writeln!(io::stderr(), "qemu-snapshot: warning: SIGABRT: {error}");
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return stop(&error),
    };
    let mut text = Vec::new();
    if let Some(shell) = cli.completions {
        clap_complete::generate(shell, &mut Cli::command(), "qemu-snapshot", &mut text);
        return answer(|out| out.write_all(&text));
    }
    if let Some(command) = &cli.man {
        return match manual(command, &mut text) {
            Ok(rendered) => answer(|out| rendered.and_then(|()| out.write_all(&text))),
            Err(error) => stop(&error),
        };
    }
    match &cli.command {
        Some(Command::Unpack(args)) => run_unpack(args),
        Some(Command::Lock(args)) => run_lock(args),
        None => run_job(&cli),
    }
}

fn run_job(cli: &Cli) -> ExitCode {
    let report = Report::new(cli);
    let done = match cli {
        Cli { verify_running, .. } if !verify_running.is_empty() => run_verify(cli, &report),
        Cli { revert: true, .. } => run_revert(cli, &report),
        _ => run_save(cli, &report),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(report.failed(&failure)),
    }
}

fn run_unpack(args: &UnpackArgs) -> ExitCode {
    let report = Report::of_unpack(args);
    match unpack(args, |text| report.warning(text)) {
        Ok(summary) => {
            report.unpacked(&summary);
            ExitCode::SUCCESS
        }
        Err(failure) => ExitCode::from(report.failed(&failure)),
    }
}

fn run_lock(args: &LockArgs) -> ExitCode {
    match lock_inherited(args.fd) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is no one to report to if stderr is gone.
            let _ = writeln!(io::stderr(), "qemu-snapshot: error: {}", error_text(&error));
            ExitCode::from(2)
        }
    }
}

/// Renders the manual page of the program, or of the command with this name.
fn manual(command: &str, text: &mut Vec<u8>) -> Result<io::Result<()>, clap::Error> {
    let mut program = Cli::command();
    program.build();
    let page = if command.is_empty() { Some(&program) } else { program.find_subcommand(command) };
    match page {
        Some(page) => Ok(clap_mangen::Man::new(page.clone()).render(text)),
        None => {
            let commands: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
            let words = format!("--man={command}: the commands are {}", commands.join(", "));
            Err(Cli::command().error(clap::error::ErrorKind::InvalidValue, words))
        }
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

/// `--help` and `--version` are answers; anything else that is not understood is an error that also
/// the peer has to see, as long as it is the one on stdin and stdout.
fn stop(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return answer(|_| error.print());
    }
    // There is no one to report to if stderr is gone.
    let _ = error.print();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let has = |start: &str| arguments.iter().any(|a| a.as_encoded_bytes().starts_with(start.as_bytes()));
    // A command has no peer.
    let is_command = arguments.first().is_some_and(|first| Cli::command().find_subcommand(first).is_some());
    if !has("--uri") && !is_command {
        refuse_peer(has("--revert") || has("-r"));
    }
    ExitCode::from(2)
}

fn run_verify(cli: &Cli, report: &Report) -> Result<(), Failure> {
    let path = cli.image_spec().map_err(Failure::refused)?.path;
    verify_mapped(&path, &cli.verify_running, |text| report.warning(text))
}

fn run_save(cli: &Cli, report: &Report) -> Result<(), Failure> {
    report.saved(&save(cli, |text| report.warning(text))?);
    Ok(())
}

/// What to do if the server ends while a guest depends on it.
fn recovery_hint(uuid: Option<[u8; 16]>) -> String {
    match uuid {
        Some(uuid) => format!(
            "if this program ends before all pages are sent, go on with --recover={} in migrate-recover",
            uuid_text(&uuid)
        ),
        None => "the snapshot has no UUID, so an interrupted postcopy cannot be recovered".to_owned(),
    }
}

fn run_revert(cli: &Cli, report: &Report) -> Result<(), Failure> {
    let say_milestone = |milestone, time: Duration| {
        let ms = time.as_secs_f64() * 1e3;
        report.info(&match milestone {
            Milestone::Identity { assigned } => return report.identity(&assigned),
            Milestone::Serving { uuid } => {
                let uuid = uuid.map_or("without UUID".to_owned(), |uuid| uuid_text(&uuid));
                format!("serving pages of snapshot {uuid}")
            }
            Milestone::Running { uuid } => {
                report.drivers_use_old_macs();
                format!("devices loaded after {ms:.1} ms; {}", recovery_hint(uuid))
            }
            Milestone::Resumed { uuid } => {
                format!("the guest goes on after {ms:.1} ms; {}", recovery_hint(uuid))
            }
        });
    };
    let reverted = revert(cli, say_milestone, |text| report.info(text), |text| report.warning(text));
    let Reverted { summary, drivers_told } = reverted?;
    if !drivers_told {
        report.drivers_use_old_macs();
    }
    report.reverted(&summary);
    Ok(())
}
