//! `dump`: every record, in the order of the file.

mod coverage;
mod events;
mod records;
mod text;

use super::{image, output::Output};
use crate::cli::{DumpArgs, Shown};
use crate::error::Error;
use crate::input::{OpenOptions, Opened, open};
use crate::line::{Line, Value};
use crate::progress;
use crate::size::to_usize;
use crate::walk::{Context, Event, Finding, Flow, Item, Level, Visitor, walk};
use coverage::Coverages;
use events::{container, finding_line};
use migration_stream::{Page, PageContent, Record, SectionId};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use text::Text;

pub(super) fn run(args: &DumpArgs) -> Result<u8, Error> {
    let options = options(args);
    let opened = open(&args.file, &options)?;
    let mut output = Output::stdout();
    if args.coverage {
        return self::coverage(args, opened, &mut output);
    }
    let shown = args.format.or_json(args.json);
    let mut dump = Dump {
        args,
        shown,
        text: Text::new(&opened.name, args.section.is_some() || args.at.is_some()),
        output: &mut output,
        run: None,
        section: None,
        sections: BTreeMap::new(),
        wrong: false,
    };
    for line in container(&opened) {
        dump.show(line, None)?;
    }
    if let Some(file) = &opened.image
        && opened.snapshots.is_empty()
    {
        for line in image::lines(&opened.name, file, &options)? {
            dump.show_container(line)?;
        }
    }
    walk(opened, &options, &mut dump, progress::bar())?;
    dump.end_run()?;
    dump.text.finish(dump.output)?;
    let wrong = dump.wrong;
    output.flush()?;
    Ok(u8::from(wrong))
}

/// Every record is shown, those of zero pages too.
fn options(args: &DumpArgs) -> OpenOptions {
    OpenOptions { every_page: true, ..args.input.options() }
}

fn coverage(args: &DumpArgs, opened: Opened, output: &mut Output) -> Result<u8, Error> {
    let options = options(args);
    let mut coverages = Coverages::new(opened.start, opened.channels.len());
    let lengths: Vec<_> =
        std::iter::once(&opened.source).chain(&opened.channels).map(|source| source.length()).collect();
    walk(opened, &options, &mut coverages, progress::bar())?;
    let json = args.format.or_json(args.json) == Shown::Json;
    let mut show = |line: Line| output.show(&line, json);
    let mut all_accounted = true;
    let inputs = std::iter::once((None, &coverages.main))
        .chain(coverages.channels.iter().enumerate().map(|(number, channel)| (Some(number), channel)));
    for ((channel, coverage), length) in inputs.zip(lengths) {
        let whole = length.is_none_or(|length| length == coverage.bytes());
        let accounted = coverage.gap.is_none() && whole && coverage.skipped_bytes == 0;
        all_accounted &= accounted;
        let accounted = accounted && coverages.errors.is_empty();
        let mut line = Line::new(coverage.end() - coverage.bytes(), coverage.bytes(), "coverage")
            .on_channel(channel)
            .with("bytes", Value::Decimal(coverage.bytes()))
            .with("pieces", Value::Decimal(coverage.pieces))
            .with("fields", Value::Decimal(coverage.fields))
            .with("opaque_bytes", Value::Decimal(coverage.opaque.values().sum()))
            .with("skipped_bytes", Value::Decimal(coverage.skipped_bytes))
            .with("complete", Value::Bool(accounted));
        if let Some((expected, found)) = coverage.gap {
            line = line.with("gap", Value::List(vec![Value::Hex(expected), Value::Hex(found)]));
        }
        show(line)?;
        for (why, bytes) in &coverage.opaque {
            let line = Line { offset: None, ..Line::new(0, *bytes, "opaque") }
                .on_channel(channel)
                .with("bytes", Value::Decimal(*bytes))
                .with("why", Value::Word(why));
            show(line)?;
        }
    }
    for finding in &coverages.errors {
        show(finding_line(finding))?;
    }
    output.flush()?;
    Ok(u8::from(!all_accounted || !coverages.errors.is_empty()))
}

/// Pages of one kind that follow each other, in the stream and in their block.
#[derive(Debug)]
struct Run {
    offset: u64,
    length: u64,
    kind: &'static str,
    block: usize,
    name: Value<'static>,
    start: u64,
    pages: u64,
}

struct Dump<'a> {
    args: &'a DumpArgs,
    shown: Shown,
    /// What is folded for people.
    text: Text,
    output: &'a mut Output,
    run: Option<Run>,
    /// The section that the walk is in: its id and idstr.
    section: Option<(SectionId, Vec<u8>)>,
    sections: BTreeMap<SectionId, Vec<u8>>,
    wrong: bool,
}

impl Dump<'_> {
    fn wanted_here(&self) -> bool {
        let by_name = |wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| {
                self.section
                    .as_ref()
                    .is_some_and(|(id, idstr)| idstr == wanted.as_bytes() || wanted.parse() == Ok(id.0))
            })
        };
        by_name(&self.args.section) && by_name(&self.args.device)
    }

    /// Shows a line, if it is wanted; `record` is for the bytes.
    fn show<'a>(&mut self, mut line: Line<'a>, bytes: Option<&'a [u8]>) -> Result<(), Error> {
        if !self.wanted_here() {
            return Ok(());
        }
        if let Some(at) = self.args.at {
            let hit = line.offset.is_some_and(|offset| offset <= at && at < offset + line.length);
            if !hit {
                return Ok(());
            }
        }
        line.bytes = if self.args.hex { bytes.map(Cow::Borrowed).or(line.bytes) } else { None };
        match self.shown {
            Shown::Text => self.text.line(line, self.output),
            Shown::Line | Shown::Json => self.output.show(&line, self.shown == Shown::Json),
        }
    }

    fn show_container(
        &mut self,
        (kind, values): (&'static str, Vec<(&'static str, image::Fact)>),
    ) -> Result<(), Error> {
        let mut line = Line { offset: None, ..Line::new(0, 0, kind) };
        for (key, fact) in values {
            let value = match fact {
                image::Fact::Number(number) => Value::Decimal(number),
                image::Fact::Text(text) => Value::Name(text.into_bytes()),
            };
            line = line.with(key, value);
        }
        self.show(line, None)
    }

    fn end_run(&mut self) -> Result<(), Error> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let line = Line::new(run.offset, run.length, run.kind)
            .with("block", run.name)
            .with("start", Value::Hex(run.start))
            .with("pages", Value::Decimal(run.pages));
        self.show(line, None)
    }

    /// Takes a page into the run; false if it is to be shown by itself.
    fn page(&mut self, item: &Item<'_>, record: &Record<'_>, context: &Context<'_>) -> Result<bool, Error> {
        let &Record::Page(Page { block, offset: start, content, .. }) = record else { return Ok(false) };
        let kind = match content {
            PageContent::Raw(_) => "page_run",
            PageContent::Zero => "zero_run",
            PageContent::Xbzrle(_) => "xbzrle_run",
            PageContent::Zlib(_) => "compressed_run",
        };
        if self.args.pages || self.args.at.is_some() {
            return Ok(false);
        }
        if let Some(run) = &mut self.run {
            let next = run.start + run.pages * u64::from(context.page_size);
            if run.kind == kind
                && run.block == block
                && next == start
                && run.offset + run.length == item.offset
            {
                run.pages += 1;
                run.length += item.length;
                return Ok(true);
            }
            self.end_run()?;
        }
        let (offset, length) = (item.offset, item.length);
        let name = records::block_name(context, block);
        self.run = Some(Run { offset, length, kind, block, name, start, pages: 1 });
        Ok(true)
    }

    fn record(&mut self, item: &Item<'_>, record: &Record<'_>, context: &Context<'_>) -> Result<(), Error> {
        if self.page(item, record, context)? {
            return Ok(());
        }
        self.end_run()?;
        match record {
            Record::SectionStart(header) => {
                self.sections.insert(header.section_id, header.idstr.to_vec());
                self.section = Some((header.section_id, header.idstr.to_vec()));
            }
            Record::SectionPart(id) | Record::SectionEnd(id) => {
                self.section = Some((*id, self.sections.get(id).cloned().unwrap_or_default()));
            }
            // Footers come last; everything else without a section is between two.
            Record::Command(_) | Record::Eof | Record::VmDescription(_) => self.section = None,
            _ => {}
        }
        let bytes = self.args.hex.then(|| {
            let mut bytes = Vec::new();
            record.put(&mut bytes, context.blocks);
            bytes.truncate(to_usize(item.length));
            bytes
        });
        let mut lines = records::lines(item.offset, item.length, record, context);
        if let [line] = &mut lines[..] {
            if item.packaged {
                line.values.push(("packaged", Value::Bool(true)));
            }
            let line = line.clone();
            self.show(line, bytes.as_deref())?;
        } else {
            for line in lines {
                let from = to_usize(line.offset.unwrap_or(0).saturating_sub(item.offset));
                let to = from.saturating_add(to_usize(line.length));
                let part = bytes.as_ref().and_then(|bytes| bytes.get(from..to));
                self.show(line, part)?;
            }
        }
        if matches!(record, Record::Footer(_)) {
            self.section = None;
        }
        Ok(())
    }

    fn event(&mut self, item: &Item<'_>, context: &Context<'_>) -> Result<(), Error> {
        match &item.event {
            Event::Record(record) => return self.record(item, record, context),
            // Nothing is left out of a dump, and this has no bytes.
            Event::ZerosLeftOut => return Ok(()),
            // `--at` means a place in the stream itself.
            _ if self.args.at.is_some() && context.channel.is_some() => return Ok(()),
            Event::Device(section) => {
                self.end_run()?;
                self.section = Some((section.header.section_id, section.header.idstr.to_vec()));
            }
            _ => self.end_run()?,
        }
        events::lines(item, context).into_iter().try_for_each(|(line, bytes)| self.show(line, bytes))
    }
}

fn flow(result: Result<(), Error>) -> Flow {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Visitor for Dump<'_> {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        flow(self.event(item, &context))
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        self.wrong |= finding.level == Level::Error;
        flow(self.end_run().and_then(|()| {
            if self.args.at.is_some() { Ok(()) } else { self.show(finding_line(&finding), None) }
        }))
    }
}
