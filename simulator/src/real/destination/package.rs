//! A package: LISTEN, device sections, PINGs, RUN.
//!
//! Nothing in it says how long the device sections are; QEMU knows its devices. We know how a
//! package begins and how it ends: commands, and a section's footer before them.

use migration_stream::{Command, Decoder, Options, Record, Step, put_file_header};

const PING_BYTES: usize = 9;
const RUN_BYTES: usize = 5;
const FOOTER_BYTES: usize = 5;
const FULL: u8 = 0x04;
const FOOTER: u8 = 0x7e;

/// A package, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Package<'a> {
    /// Commands before the device sections.
    pub(super) before: Vec<Command<'a>>,
    /// Device sections with headers and footers; may be empty.
    pub(super) sections: &'a [u8],
    /// Commands behind them.
    pub(super) after: Vec<Command<'a>>,
}

/// The commands that `bytes` begin with, and their length.
fn commands(bytes: &[u8]) -> Result<(Vec<Command<'_>>, usize), migration_stream::Error> {
    let mut decoder = Decoder::new(Options::default());
    let mut header = Vec::new();
    put_file_header(&mut header);
    decoder.step(&header)?;
    let (mut commands, mut at) = (Vec::new(), 0);
    // A section's first byte is none of a command's.
    while bytes.get(at) == Some(&0x08) {
        match decoder.step(&bytes[at..])? {
            Step::Record { len, record: Record::Command(command) } => {
                commands.push(command);
                at += len;
            }
            _ => break,
        }
    }
    Ok((commands, at))
}

/// Takes a package apart.
///
/// # Errors
///
/// What it should have been.
pub(super) fn split(bytes: &[u8]) -> Result<Package<'_>, String> {
    let (mut before, start) = commands(bytes).map_err(|error| format!("package: {error}"))?;
    if start == bytes.len() {
        let listen = before.iter().position(|command| *command == Command::PostcopyListen);
        let after = before.split_off(listen.map_or(before.len(), |at| at + 1));
        return Ok(Package { before, sections: &[], after });
    }
    if bytes[start] != FULL {
        let found = bytes[start];
        return Err(format!(
            "package offset {start:#x}: section type {found:#04x}, expected commands and FULL sections"
        ));
    }
    // RUN is the last command, or has been forgotten.
    let mut end = bytes.len();
    if bytes[start..].ends_with(&[0x08, 0, 5, 0, 0]) {
        end -= RUN_BYTES;
    }
    // A footer's mark is where a PING has the low byte of its length, so the two cannot be mistaken.
    while end - start > PING_BYTES && bytes[end - PING_BYTES..][..5] == [0x08, 0, 2, 0, 4] {
        end -= PING_BYTES;
    }
    if end - start < FOOTER_BYTES || bytes[end - FOOTER_BYTES] != FOOTER {
        return Err(format!("package offset {end:#x}: no section footer before the last commands"));
    }
    let (after, length) = commands(&bytes[end..]).map_err(|error| format!("package: {error}"))?;
    debug_assert_eq!(end + length, bytes.len(), "PINGs and RUN");
    Ok(Package { before, sections: &bytes[start..end], after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::devices::Devices;
    use migration_stream::put_command;

    #[test]
    fn packages_are_cut_where_their_devices_begin_and_end() {
        let devices = Devices::at(1, 1, 3);
        for pings in 0..3u32 {
            let mut bytes = Vec::new();
            put_command(&mut bytes, &Command::PostcopyListen);
            bytes.extend_from_slice(devices.sections());
            (0..pings).for_each(|value| put_command(&mut bytes, &Command::Ping(value)));
            put_command(&mut bytes, &Command::PostcopyRun);
            let package = split(&bytes).unwrap();
            assert_eq!(package.before, [Command::PostcopyListen]);
            assert_eq!(package.sections, devices.sections());
            assert_eq!(package.after.len(), pings as usize + 1);
            assert_eq!(package.after.last(), Some(&Command::PostcopyRun));
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        assert_eq!(
            split(&[0x08, 0, 4, 0, 0, 0x00]).unwrap_err(),
            "package offset 0x5: section type 0x00, expected commands and FULL sections"
        );
        assert_eq!(
            split(&[0x04, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap_err(),
            "package offset 0x9: no section footer before the last commands"
        );
        assert_eq!(split(&[]).unwrap().before, []);
    }

    #[test]
    fn without_devices_listen_is_where_they_would_begin() {
        let mut bytes = Vec::new();
        let commands = [Command::PostcopyListen, Command::Ping(3), Command::PostcopyRun];
        commands.iter().for_each(|command| put_command(&mut bytes, command));
        let package = split(&bytes).unwrap();
        assert_eq!((package.before.len(), package.after.len()), (1, 2));
    }
}
