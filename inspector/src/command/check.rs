//! `check`: findings, one per line.

use super::image;
use super::output::{Output, finding};
use crate::check::Checker;
use crate::cli::{CheckArgs, Format};
use crate::error::Error;
use crate::input::{OpenOptions, open};
use crate::progress;
use crate::refcounts;
use crate::text::plural;
use crate::walk::{Finding, Level, walk};
use std::path::Path;

/// Counts findings by level and writes them.
struct Findings<'a> {
    output: &'a mut Output,
    format: Format,
    file: &'a Path,
    counts: [u64; 3],
    failed: Option<Error>,
}

impl Findings<'_> {
    fn take(&mut self, found: &Finding) {
        self.counts[found.level as usize] += 1;
        let line = finding(found, self.format, self.file);
        if self.failed.is_none()
            && let Err(error) = self.output.line(&line)
        {
            self.failed = Some(error);
        }
    }

    fn summary(&mut self, layout: Option<snapshot_image::Layout>) -> Result<u8, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let [notes, warnings, errors] = self.counts;
        match self.format {
            Format::Text => self.output.line(&format!(
                "{}: {}, {}, {}{}",
                crate::escape::terminal(self.file.as_os_str().as_encoded_bytes()),
                plural(errors, "error"),
                plural(warnings, "warning"),
                plural(notes, "note"),
                layout.map_or_else(String::new, |layout| format!("; {layout} layout"))
            ))?,
            Format::Json => {
                let mut summary = serde_json::json!({
                    "type": "summary", "errors": errors, "warnings": warnings, "notes": notes,
                });
                if let Some(layout) = layout {
                    summary["layout"] = layout.to_string().into();
                }
                self.output.line(&summary.to_string())?;
            }
            Format::Github => {}
        }
        self.output.flush()?;
        Ok(u8::from(warnings + errors > 0))
    }
}

pub(super) fn run(args: &CheckArgs) -> Result<u8, Error> {
    let options = args.input.options();
    let mut output = Output::stdout();
    let mut findings =
        Findings { output: &mut output, format: args.format, file: &args.file, counts: [0; 3], failed: None };
    let layout = examine(&args.file, &options, &mut |found| findings.take(&found))?;
    findings.summary(layout)
}

/// Everything that is checked of a file. Returns the layout of an image, where it is known.
pub(super) fn examine(
    path: &Path,
    options: &OpenOptions,
    mut take: &mut dyn FnMut(Finding),
) -> Result<Option<snapshot_image::Layout>, Error> {
    let opened = open(path, options)?;
    let mut broken = false;
    let mut layout = None;
    if let Some(file) = &opened.image
        && opened.snapshots.is_empty()
    {
        layout = image::check(&opened.name, file, options, &mut |found| {
            broken |= found.level == Level::Error;
            take(found);
        })?;
    }
    // What a damaged image would revert to is no stream to judge, and its tables are none to follow.
    if broken {
        return Ok(layout);
    }
    if let Some(file) = &opened.image {
        refcounts::check(&opened.name, file, &mut take)?;
    }
    let mut checker = Checker::new(&opened, &mut take);
    walk(opened, options, &mut checker, progress::bar())?;
    checker.finish();
    Ok(layout)
}
