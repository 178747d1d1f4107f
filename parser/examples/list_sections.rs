//! Lists the sections of a migration stream: where each begins, and which handler in QEMU it belongs to.
//!
//! ```sh
//! cargo run -p migration-stream --example list_sections -- vm.stream
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "an example reads a file")]

use migration_stream::{Options, ReadError, Record, StreamReader, name_text};
use std::fs::File;
use std::io::Read;

/// One line for each section that begins.
pub(crate) fn list_sections(source: impl Read) -> Result<Vec<String>, ReadError> {
    let mut lines = Vec::new();
    let mut reader = StreamReader::new(source, Options::default());
    while let Some(entry) = reader.advance()? {
        let at = entry.offset;
        match entry.record {
            Record::Configuration(configuration) => {
                lines
                    .push(format!("{at:#010x} configuration: machine {}", name_text(&configuration.machine)));
            }
            Record::SectionStart(header) => {
                let (name, version) = (name_text(header.idstr), header.version_id);
                lines.push(format!("{at:#010x} iterable {name}, version {version}"));
            }
            Record::Full(header, state) => {
                let (name, instance) = (name_text(header.idstr), header.instance_id);
                lines.push(format!("{at:#010x} device {name}, instance {instance}: {} bytes", state.len()));
            }
            _ => {}
        }
    }
    Ok(lines)
}

#[allow(dead_code, reason = "a test of the crate includes this file")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: list_sections FILE")?;
    list_sections(File::open(path)?)?.iter().for_each(|line| println!("{line}"));
    Ok(())
}
