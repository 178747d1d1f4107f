//! Strict validation: everything that the walk finds, and the rules that span more than one record.

mod bitmaps;
mod multifd;
mod postcopy;
mod ram;
mod return_path;
mod sections;

use crate::input::{Kind, Opened};
use crate::walk::{Context, Event, Finding, Flow, Item, Level, Visitor};
use bitmaps::Bitmaps;
use migration_stream::{Command, Record};
use multifd::Multifd;
use postcopy::Postcopy;
use ram::Ram;
use return_path::ReturnPath;
use sections::Sections;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Findings of one rule that are reported one by one.
const TOLD: u64 = 20;

/// What a rule found, with the rule's name, so that a rule that fails everywhere does not fill the terminal.
struct Report<'a> {
    told: &'a mut BTreeMap<&'static str, u64>,
    found: &'a mut dyn FnMut(Finding),
}

impl Report<'_> {
    fn say(&mut self, rule: &'static str, finding: Finding) {
        let told = self.told.entry(rule).or_default();
        *told += 1;
        if *told <= TOLD {
            (self.found)(finding);
        }
    }

    fn error(&mut self, rule: &'static str, offset: u64, path: &str, text: impl Into<String>) {
        self.say(rule, Finding::new(Level::Error, offset, path, text));
    }

    fn warning(&mut self, rule: &'static str, offset: u64, path: &str, text: impl Into<String>) {
        self.say(rule, Finding::new(Level::Warning, offset, path, text));
    }

    fn note(&mut self, rule: &'static str, offset: impl Into<Option<u64>>, text: impl Into<String>) {
        self.say(rule, Finding::new(Level::Note, offset, "", text));
    }
}

/// Checks what a walk comes across.
pub struct Checker<'a> {
    found: &'a mut dyn FnMut(Finding),
    told: BTreeMap<&'static str, u64>,
    kind: Kind,
    sections: Sections,
    ram: Ram,
    postcopy: Postcopy,
    bitmaps: Bitmaps,
    return_path: ReturnPath,
    multifd: Multifd,
    eof: bool,
    broken: bool,
}

impl std::fmt::Debug for Checker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<'a> Checker<'a> {
    /// A check of `opened`, whose walk is to follow.
    pub fn new(opened: &Opened, found: &'a mut dyn FnMut(Finding)) -> Self {
        if let Some((header, _)) = &opened.libvirt
            && !header.complete
        {
            let text = "the save was not completed (LibvirtQemudPart)";
            found(Finding::new(Level::Error, 0, "libvirt header", text));
        }
        Self {
            found,
            told: BTreeMap::new(),
            kind: opened.kind,
            sections: Sections::default(),
            ram: Ram::default(),
            postcopy: Postcopy::default(),
            bitmaps: Bitmaps::default(),
            return_path: ReturnPath::default(),
            multifd: Multifd::default(),
            eof: false,
            broken: false,
        }
    }

    /// What only the end shows.
    pub fn finish(mut self) {
        let mut report = Report { told: &mut self.told, found: self.found };
        // Behind damage everything would seem to be missing.
        if !self.broken {
            if self.eof {
                self.sections.finish(&mut report, &self.postcopy);
                self.ram.finish(&mut report, &self.postcopy);
                self.bitmaps.finish(&mut report);
            }
            if self.kind == Kind::ReturnPath {
                self.return_path.finish(&mut report);
            }
        }
        for (rule, told) in self.told.iter().filter(|(_, told)| **told > TOLD) {
            let text = format!("rule \"{rule}\": {} more like those before", told - TOLD);
            (self.found)(Finding::new(Level::Note, None, "", text));
        }
    }

    fn record(&mut self, item: &Item<'_>, record: &Record<'_>, context: Context<'_>) {
        let mut report = Report { told: &mut self.told, found: self.found };
        match record {
            Record::Page(_) => {
                self.ram.page(&mut report, item.offset, record, context, &self.postcopy);
                self.postcopy.page(&mut report, item.offset, record);
            }
            Record::RamBlocks(list) => self.ram.blocks(&mut report, item.offset, list),
            Record::Command(command) => {
                if self.kind != Kind::Recovery {
                    self.postcopy.command(&mut report, item, command, context);
                }
                if let Command::PostcopyRamDiscard { block, ranges } = command {
                    self.ram.discard(&mut report, item.offset, block, ranges, context);
                }
            }
            Record::DirtyBitmap(chunk) => self.bitmaps.chunk(&mut report, item.offset, chunk),
            Record::Eof if !item.packaged => {
                self.eof = true;
                if self.kind != Kind::Recovery {
                    self.postcopy.eof(&mut report, item.offset);
                }
            }
            Record::VmDescription(json) => sections::vmdesc(&mut report, item.offset, json, context),
            record => self.sections.record(&mut report, item.offset, record),
        }
    }
}

impl Visitor for Checker<'_> {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        self.ram.item(item, context);
        if let Event::Record(record) = &item.event {
            self.record(item, record, context);
            return ControlFlow::Continue(());
        }
        let mut report = Report { told: &mut self.told, found: self.found };
        match &item.event {
            Event::Device(section) => self.sections.device(&mut report, item.offset, section),
            Event::MappedBlock(mapped) => self.ram.name(&mut report, item.offset, &mapped.block.idstr),
            Event::MappedBitmap { block, first_page, bits } => {
                ram::mapped_bitmap(&mut report, item.offset, (*block, *first_page), bits, context);
            }
            Event::Multifd(message) => self.multifd.message(&mut report, item.offset, message, context),
            Event::MultifdPages(pages) => {
                for record in pages.records(context.page_size) {
                    self.ram.page(&mut report, item.offset, &record, context, &self.postcopy);
                }
            }
            Event::ReturnPath(message) => self.return_path.message(&mut report, item.offset, message),
            Event::Opaque(bytes, why) => {
                report.note("opaque", item.offset, format!("{} bytes not decoded: {why}", bytes.len()));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        self.broken |= finding.level == Level::Error;
        (self.found)(finding);
        ControlFlow::Continue(())
    }
}
