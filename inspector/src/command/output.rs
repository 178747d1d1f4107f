//! Writes the answer.

use crate::cli::Format;
use crate::error::Error;
use crate::escape::{github_message, github_property};
use crate::walk::{Finding, Level};
use std::io::{BufWriter, Stdout, Write, stdout};

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

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::output)
    }
}

/// A finding as words.
pub(crate) fn finding_text(found: &Finding) -> String {
    let place = found.offset.map_or_else(String::new, |offset| format!("offset {offset:#x}: "));
    let path = if found.path.is_empty() { String::new() } else { format!("{}: ", found.path) };
    format!("{place}{path}{}", found.text)
}

/// The line of a finding.
pub(super) fn finding(found: &Finding, format: Format, file: &str) -> String {
    let place = found.offset.map_or_else(|| "-         ".to_owned(), |offset| format!("{offset:#010x}"));
    let path = if found.path.is_empty() { String::new() } else { format!("{}: ", found.path) };
    match format {
        Format::Text => format!("{place} {} {path}{}", found.level.name(), found.text),
        Format::Json => serde_json::json!({
            "type": "finding", "level": found.level, "offset": found.offset, "path": found.path, "text": found.text,
        })
        .to_string(),
        Format::Github => {
            let command = match found.level {
                Level::Note => "notice",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            let message = github_message(&format!("{} {path}{}", place.trim_end(), found.text));
            format!("::{command} file={},title=snapinspect::{message}", github_property(file))
        }
    }
}
