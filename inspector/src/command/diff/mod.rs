//! `diff`: what differs, the whole of it in one line first.

mod text;

use super::output::Output;
use crate::cli::{DiffArgs, Shown};
use crate::contents::{Contents, RamFile, load};
use crate::diff::diff;
use crate::error::Error;
use crate::line::{Line, Value};
use crate::progress;
use migration_stream::{RamBlock, UNKNOWN_LENGTH};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Seek, Write};
use tempfile::SpooledTempFile;
use text::Text;

/// Differences that are kept in memory until the summary is known; more of them go to a file without a name.
const SPOOL_BYTES: usize = 4 << 20;

pub(super) fn run(args: &DiffArgs) -> Result<u8, Error> {
    if args.a == args.b && args.a.as_os_str() == "-" {
        return Err(Error::Usage("only one of the two can be stdin".to_owned()));
    }
    let options = args.input.options();
    let a = load(&args.a, &options, Some(RamFile::temporary()?), progress::bar())?;
    let b = load(&args.b, &options.without_channels(), Some(RamFile::temporary()?), progress::bar())?;
    let mut output = Output::stdout();
    let mut summary = Summary::default();
    match args.format.or_json(args.json) {
        Shown::Text => people(&a, &b, &mut summary, &mut output)?,
        Shown::Line => diff(&a, &b, &mut |line| {
            summary.take(&line);
            output.show(&line, false)
        })?,
        Shown::Json => {
            diff(&a, &b, &mut |line| {
                summary.take(&line);
                output.show(&line, true)
            })?;
            output.show(&summary.line(&a, &b), true)?;
        }
    }
    output.flush()?;
    Ok(u8::from(summary.differs()))
}

/// The summary has to be first, and is known last.
fn people(a: &Contents, b: &Contents, summary: &mut Summary, output: &mut Output) -> Result<(), Error> {
    let failed = |source| Error::Io { what: "temporary file".to_owned(), source };
    let mut spool = SpooledTempFile::new(SPOOL_BYTES);
    let mut text = Text::new();
    let mut write =
        |rows: Vec<String>| rows.iter().try_for_each(|row| writeln!(spool, "{row}")).map_err(failed);
    diff(a, b, &mut |line| {
        summary.take(&line);
        write(text.line(line))
    })?;
    write(text.finish())?;
    output.line(&summary.words(a, b))?;
    spool.rewind().map_err(failed)?;
    for row in BufReader::new(spool).lines() {
        output.line(&row.map_err(failed)?)?;
    }
    Ok(())
}

/// How much differs.
#[derive(Debug, Default)]
struct Summary {
    pages: u64,
    fields: u64,
    devices: BTreeSet<Vec<u8>>,
    /// Properties of the machine, blocks, sections and whole devices.
    other: u64,
}

impl Summary {
    fn take(&mut self, line: &Line<'_>) {
        let value = |key: &str| line.values.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
        if let Some(Value::Name(device)) = value("device") {
            self.devices.insert(device.clone());
        }
        match (line.kind, value("pages")) {
            ("pages", _) => {}
            ("block_pages", Some(Value::Decimal(pages))) => self.pages += pages,
            ("field", _) => self.fields += 1,
            _ => self.other += 1,
        }
    }

    fn differs(&self) -> bool {
        self.pages + self.fields + self.other > 0
    }

    fn line(&self, a: &Contents, b: &Contents) -> Line<'static> {
        Line { offset: None, ..Line::new(0, 0, "summary") }
            .with("pages", Value::Decimal(self.pages))
            .with("of", Value::Decimal(compared_pages(a, b)))
            .with("fields", Value::Decimal(self.fields))
            .with("devices", Value::Decimal(self.devices.len() as u64))
            .with("other", Value::Decimal(self.other))
    }

    fn words(&self, a: &Contents, b: &Contents) -> String {
        use crate::text::{count, plural};
        let total = compared_pages(a, b);
        if !self.differs() {
            let devices = plural(a.devices.len() as u64, "device");
            return format!("no difference: {} and {devices} are equal", plural(total, "page"));
        }
        let mut words = Vec::new();
        if self.pages > 0 {
            words.push(format!("{} of {}", count(self.pages), plural(total, "page")));
        }
        if self.fields > 0 {
            words.push(format!(
                "{} of {}",
                plural(self.fields, "field"),
                plural(self.devices.len() as u64, "device")
            ));
        }
        if self.other > 0 {
            let what = if words.is_empty() { "difference" } else { "other difference" };
            words.push(plural(self.other, what));
        }
        format!("different: {}", words.join(", "))
    }
}

/// Pages of the blocks that both have, as far as both reach.
fn compared_pages(a: &Contents, b: &Contents) -> u64 {
    let page_size = u64::from(a.page_size.max(b.page_size).max(1));
    let of_b: std::collections::BTreeMap<_, _> =
        here(b).map(|block| (&block.idstr, block.used_length)).collect();
    let both = here(a).filter_map(|block| Some(block.used_length.min(*of_b.get(&block.idstr)?)));
    both.filter(|&length| length != UNKNOWN_LENGTH).map(|length| length / page_size).sum()
}

/// Blocks whose RAM is in the file.
fn here(contents: &Contents) -> impl Iterator<Item = &RamBlock> {
    contents.blocks.iter().enumerate().filter(|(number, _)| contents.is_here(*number)).map(|(_, block)| block)
}
