//! Writes the answer.

use crate::cli::Format;
use crate::error::Error;
use crate::escape::{github_message, github_property, json_line};
use crate::hint::finding_text;
use crate::line::Line;
use crate::walk::{Finding, Level};
use std::io::{BufWriter, IsTerminal, Stdout, Write, stdout};
use std::path::Path;

/// stdout, line by line.
pub(super) struct Output {
    out: BufWriter<Stdout>,
}

impl Output {
    pub(super) fn stdout() -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, stdout()) }
    }

    pub(super) fn line(&mut self, line: &str) -> Result<(), Error> {
        self.out.write_all(line.as_bytes()).and_then(|()| self.out.write_all(b"\n")).map_err(Error::output)
    }

    /// Writes lines as they are.
    pub(super) fn bytes(&mut self, lines: &[u8]) -> Result<(), Error> {
        self.out.write_all(lines).map_err(Error::output)
    }

    /// Writes a line piece by piece, as text or as JSON.
    pub(super) fn show(&mut self, line: &Line<'_>, json: bool) -> Result<(), Error> {
        let written = if json { line.write_json(&mut self.out) } else { line.write_text(&mut self.out) };
        written.and_then(|()| self.out.write_all(b"\n")).map_err(Error::output)
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::output)
    }
}

/// A word in a colour: red, yellow, or none; where stdout is a terminal, and no one asked for none
/// (NO_COLOR).
pub(super) fn coloured(word: &str, level: Level) -> String {
    let wanted = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match level {
        Level::Error if wanted => format!("\x1b[31m{word}\x1b[0m"),
        Level::Warning if wanted => format!("\x1b[33m{word}\x1b[0m"),
        _ => word.to_owned(),
    }
}

/// The line of a finding.
pub(super) fn finding(found: &Finding, format: Format, file: &Path) -> String {
    let place = found.offset.map_or_else(|| "-         ".to_owned(), |offset| format!("{offset:#010x}"));
    let text = finding_text(found);
    let path = if found.path.is_empty() { String::new() } else { format!("{}: ", found.path) };
    match format {
        Format::Text => {
            format!("{place} {} {path}{text}", coloured(found.level.name(), found.level))
        }
        Format::Json => {
            let json = serde_json::json!({
                "type": "finding", "level": found.level, "offset": found.offset, "path": found.path,
                "text": text,
            });
            json_line(&json.to_string()).into_owned()
        }
        Format::Github => {
            let command = match found.level {
                Level::Note => "notice",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            let message = github_message(&format!("{} {path}{text}", place.trim_end()));
            let file = github_property(file.as_os_str().as_encoded_bytes());
            format!("::{command} file={file},title=snapinspect::{message}")
        }
    }
}
