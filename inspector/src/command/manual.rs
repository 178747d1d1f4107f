//! `completions` and `man`, made from the definition of the command line.

use crate::cli::Cli;
use crate::error::Error;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use std::io::{Write, stdout};

pub(super) fn completions(shell: Shell) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "snapinspect", &mut script);
    stdout().write_all(&script).and_then(|()| stdout().flush()).map_err(Error::output)?;
    Ok(0)
}

pub(super) fn man(wanted: Option<&str>) -> Result<u8, Error> {
    let mut program = Cli::command();
    program.build();
    let command = match wanted {
        None => program,
        Some(name) => {
            let found = program.find_subcommand(name).cloned();
            found.ok_or_else(|| {
                Error::Usage(format!("no command \"{}\"", crate::escape::terminal(name.as_bytes())))
            })?
        }
    };
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(Error::output)?;
    stdout().write_all(&page).and_then(|()| stdout().flush()).map_err(Error::output)?;
    Ok(0)
}
