//! `info`: what a file is, on one screen.

use super::check::examine;
use super::output::Output;
use crate::cli::InfoArgs;
use crate::error::Error;
use crate::escape::{json_line, terminal, terminal_words};
use crate::hint::{self, presence_text};
use crate::info::{Block, Info, info};
use crate::input::{OpenOptions, open};
use crate::progress;
use crate::text::{Layout, count, date, plural};
use snapshot_engine::size_text;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Where the facts begin.
const COLUMN: usize = 14;
/// Names of blocks and devices that fit on a screen.
const NAMES_SHOWN: usize = 40;

pub(super) fn run(args: &InfoArgs) -> Result<u8, Error> {
    let stdin = args.file.as_os_str() == "-";
    if stdin && args.check {
        return Err(Error::Usage(
            "--check reads a file a second time, which stdin does not allow".to_owned(),
        ));
    }
    let options = OpenOptions { any_snapshot: true, ..args.input.options() };
    let mut facts = info(open(&args.file, &options)?, &options, progress::bar())?;
    if args.check && facts.no_snapshot.is_none() {
        facts.verdict = crate::info::Verdict { checked: true, ..Default::default() };
        let verdict = &mut facts.verdict;
        examine(&args.file, &options, &mut |finding| verdict.take(&finding))?;
    }
    let verdict = &mut facts.verdict;
    verdict.first_error = verdict.first_error.take().map(|error| hint::with(error, verdict.advice.as_ref()));
    facts.no_snapshot =
        facts.no_snapshot.take().map(|text| hint::with(text, facts.no_snapshot_advice.as_ref()));
    let mut output = Output::stdout();
    let wrong = facts.verdict.errors > 0;
    if args.json {
        let json = serde_json::to_string(&facts).map_err(|error| Error::Usage(error.to_string()))?;
        output.line(&json_line(&json))?;
    } else {
        let name =
            if stdin { "stdin".to_owned() } else { terminal(args.file.as_os_str().as_encoded_bytes()) };
        let metadata = if stdin { None } else { std::fs::metadata(&args.file).ok() };
        Screen { layout: Layout::new(), output: &mut output }.show(&name, metadata.as_ref(), &facts)?;
    }
    output.flush()?;
    Ok(u8::from(wrong))
}

struct Screen<'a> {
    layout: Layout,
    output: &'a mut Output,
}

impl Screen<'_> {
    fn fact(&mut self, name: &str, items: &[String], separator: &str) -> Result<(), Error> {
        let start = format!("  {name}");
        let lines = self.layout.wrapped(start, COLUMN, items, separator);
        lines.iter().try_for_each(|line| self.output.line(line))
    }

    fn show(&mut self, name: &str, metadata: Option<&Metadata>, facts: &Info) -> Result<(), Error> {
        let lines = self.layout.wrapped(name.to_owned(), 0, &[], "");
        lines.iter().try_for_each(|line| self.output.line(line))?;
        self.fact("what", &what(facts, metadata), ", ")?;
        if facts.no_snapshot.is_some() {
            return Ok(());
        }
        self.fact("verdict", &[verdict(facts)], "")?;
        self.fact("made", &made(facts, metadata), ", ")?;
        for snapshot in facts.internal_snapshots.iter().take(NAMES_SHOWN) {
            let when = date(snapshot.created_unix_s).unwrap_or_else(|| "-".to_owned());
            let state = match snapshot.vm_state_bytes {
                0 => "of the disk alone".to_owned(),
                bytes => format!("VM state {}", size_text(bytes)),
            };
            let words = vec![format!("\"{}\"", terminal_words(&snapshot.name)), when, state];
            self.fact("  snapshot", &words, ", ")?;
        }
        if let Some(libvirt) = &facts.libvirt {
            let mut words = vec![format!(
                "domain {}",
                terminal_words(libvirt.domain.as_deref().unwrap_or("without a name"))
            )];
            words.push(if libvirt.was_running { "was running" } else { "was paused" }.to_owned());
            words.extend((!libvirt.complete).then(|| "the save was not completed".to_owned()));
            self.fact("libvirt", &words, ", ")?;
        }
        if let Some(machine) = &facts.machine {
            let mut words =
                vec![terminal_words(machine), format!("pages of {}", size_text(facts.page_size.into()))];
            words.extend(facts.vm_uuid.as_ref().map(|uuid| format!("UUID of the VM {uuid}")));
            self.fact("machine", &words, ", ")?;
            self.fact("QEMU", &[qemu(facts)], "")?;
        }
        self.ram(facts)?;
        if !facts.devices.is_empty() {
            let vmdesc = match facts.vmdesc_bytes {
                Some(_) => "described by a vmdesc",
                None => "without a vmdesc: they are bytes only",
            };
            self.fact("devices", &[plural(facts.devices.len() as u64, "section"), vmdesc.to_owned()], ", ")?;
            self.fact("", &device_names(&facts.devices), ", ")?;
        }
        Ok(())
    }

    fn ram(&mut self, facts: &Info) -> Result<(), Error> {
        if facts.blocks.is_empty() {
            return Ok(());
        }
        let mut words =
            vec![format!("{} in {}", size_text(facts.ram_bytes), plural(facts.blocks.len() as u64, "block"))];
        let nonzero = facts.image.as_ref().and_then(|image| image.nonzero_bytes);
        words.extend(nonzero.map(|bytes| format!("{} of it not zero", size_text(bytes))));
        if facts.normal_pages.is_some() || facts.zero_pages.is_some() {
            let normal = plural(facts.normal_pages.unwrap_or(0), "page record");
            words.push(format!("{normal} with content, {} zero", count(facts.zero_pages.unwrap_or(0))));
        }
        let elsewhere: Vec<_> = facts.blocks.iter().filter(|block| !block.ram.is_here()).collect();
        if let Some(first) = elsewhere.first() {
            let (blocks, reason) = (plural(elsewhere.len() as u64, "block"), presence_text(first.ram));
            words.push(format!("{blocks} not in this file: {reason}"));
        }
        words.extend(facts.postcopy.then(|| "sent in postcopy".to_owned()));
        self.fact("RAM", &words, ", ")?;
        self.fact("", &shortened(facts.blocks.iter().map(block)), ", ")
    }
}

fn block(block: &Block) -> String {
    let size = block.bytes.map_or_else(|| "of unknown length".to_owned(), size_text);
    format!("{} {size}", terminal_words(&block.name))
}

fn what(facts: &Info, metadata: Option<&Metadata>) -> Vec<String> {
    let mut words = vec![match &facts.no_snapshot {
        Some(instead) => terminal_words(instead),
        None => facts.kind.to_owned(),
    }];
    if !facts.packed.is_empty() {
        words.push(format!("packed with {}", facts.packed.join(", ")));
    }
    let layout = facts.image.as_ref().and_then(|image| image.layout.as_ref());
    words.extend(layout.map(|layout| format!("{layout} layout")));
    if let Some(metadata) = metadata.filter(|metadata| metadata.is_file()) {
        words.push(format!("{} long", size_text(metadata.len())));
        words.push(format!("{} on disk", size_text(metadata.blocks() * 512)));
    }
    words
}

fn verdict(facts: &Info) -> String {
    let verdict = &facts.verdict;
    if let Some(error) = &verdict.first_error {
        return format!("WRONG: {}, the first: {}", plural(verdict.errors, "error"), terminal_words(error));
    }
    if verdict.checked {
        let (warnings, notes) = (plural(verdict.warnings, "warning"), plural(verdict.notes, "note"));
        return format!("checked to the last byte: no error, {warnings}, {notes}");
    }
    match &facts.image {
        Some(image) => match &image.unverified_because {
            Some(why) => format!("complete, but its pages cannot be verified: {why}"),
            None => "complete; --check reads and verifies each page".to_owned(),
        },
        None => "read to its end without an error; --check applies all rules".to_owned(),
    }
}

fn made(facts: &Info, metadata: Option<&Metadata>) -> Vec<String> {
    let modified = || {
        let modified = metadata?.mtime();
        let date = date(u64::try_from(modified).ok()?)?;
        Some(format!("not recorded; the file was modified {date}"))
    };
    let image = facts.image.as_ref();
    let when = match image {
        Some(image) => image.created_unix_s.and_then(date),
        None => (facts.internal_snapshots.len() == 1)
            .then(|| date(facts.internal_snapshots[0].created_unix_s))
            .flatten(),
    };
    let mut words = vec![when.or_else(modified).unwrap_or_else(|| "not recorded".to_owned())];
    words.extend(image.and_then(|image| image.uuid.as_ref()).map(|uuid| format!("UUID {uuid}")));
    words
}

fn qemu(facts: &Info) -> String {
    match &facts.qemu_at_least {
        Some(version) => {
            format!("{version} or later, by the machine type; a stream does not name the QEMU that wrote it")
        }
        None => "not recorded: a stream does not name the QEMU that wrote it".to_owned(),
    }
}

/// Each name once, with a count where there are several.
fn device_names(devices: &[String]) -> Vec<String> {
    let mut names: Vec<(&str, u64)> = Vec::new();
    for device in devices {
        match names.iter_mut().find(|(name, _)| name == device) {
            Some((_, count)) => *count += 1,
            None => names.push((device, 1)),
        }
        if names.len() > NAMES_SHOWN {
            break;
        }
    }
    let shown: u64 = names.iter().take(NAMES_SHOWN).map(|(_, count)| count).sum();
    let words = names.iter().take(NAMES_SHOWN).map(|(name, count)| match count {
        1 => terminal_words(name),
        count => format!("{count} x {}", terminal_words(name)),
    });
    let mut words: Vec<_> = words.collect();
    if shown < devices.len() as u64 {
        words.push(format!("and {} more", devices.len() as u64 - shown));
    }
    words
}

/// The first names, and how many more there are.
fn shortened(names: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let left = names.len().saturating_sub(NAMES_SHOWN);
    let mut words: Vec<_> = names.take(NAMES_SHOWN).collect();
    words.extend((left > 0).then(|| format!("and {left} more")));
    words
}
