//! RAM: which pages come, how often, and whether what packs them can be unpacked.

use super::Report;
use super::postcopy::Postcopy;
use crate::escape::terminal;
use crate::presence::{Arrivals, Presence};
use crate::size::to_usize;
use crate::walk::{Context, Finding, Item, Level};
use migration_stream::{BlockList, DiscardRange, Error, Page, PageContent, Record};

/// Blocks that a finding names.
const NAMED: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Ram {
    arrivals: Arrivals,
    repeated: u64,
    scratch: Vec<u8>,
}

impl Ram {
    pub(super) fn blocks(&mut self, report: &mut Report<'_>, offset: u64, list: &BlockList) {
        for block in &list.blocks {
            self.name(report, offset, &block.idstr);
        }
    }

    pub(super) fn name(&self, report: &mut Report<'_>, offset: u64, name: &[u8]) {
        if !name.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            let text = "a block's name with characters that cannot be printed";
            report.warning("name", offset, "block list", text);
        }
    }

    /// Any piece, whatever it is.
    pub(super) fn item(&mut self, item: &Item<'_>, context: Context<'_>) {
        self.arrivals.other(item, context);
    }

    pub(super) fn page(
        &mut self,
        report: &mut Report<'_>,
        offset: u64,
        record: &Record<'_>,
        context: Context<'_>,
        postcopy: &Postcopy,
    ) {
        let &Record::Page(Page { block, offset: at, content, .. }) = record else { return };
        if let PageContent::Xbzrle(_) | PageContent::Zlib(_) = content {
            self.scratch.resize(context.page_size as usize, 0);
            if let Err(kind) = content.apply(&mut self.scratch) {
                let form = if matches!(content, PageContent::Zlib(_)) { "compressed" } else { "xbzrle" };
                packed(report, offset, form, kind);
            }
        }
        if !self.arrivals.page(record) {
            self.repeated += 1;
            if postcopy.is_placing() {
                let name = terminal(context.blocks.get(block).map_or(&[][..], |block| &block.idstr));
                let text = format!(
                    "page {at:#x} of \"{name}\" arrived before and was not discarded: the destination cannot place it"
                );
                report.error("placed-twice", offset, "page record", text);
            }
        }
    }

    pub(super) fn discard(
        &self,
        report: &mut Report<'_>,
        offset: u64,
        name: &[u8],
        ranges: &[DiscardRange],
        context: Context<'_>,
    ) {
        let path = "command POSTCOPY_RAM_DISCARD";
        let Some(block) = context.blocks.iter().find(|block| block.idstr == name) else {
            let text = format!("block \"{}\" is not in the block list", terminal(name));
            return report.error("discard-block", offset, path, text);
        };
        let page_size = u64::from(context.page_size);
        let host_page = block.host_page_size.unwrap_or(page_size);
        for range in ranges {
            let end = range.start.checked_add(range.length);
            let fits = end.is_some_and(|end| end <= block.used_length);
            if range.length == 0 || range.start % host_page != 0 || range.length % host_page != 0 || !fits {
                let text = format!(
                    "range {:#x} + {:#x} of \"{}\": not host pages of {host_page} bytes below {:#x}",
                    range.start,
                    range.length,
                    terminal(name),
                    block.used_length
                );
                report.error("discard-range", offset, path, text);
            }
        }
    }

    pub(super) fn finish(&self, report: &mut Report<'_>, postcopy: &Postcopy) {
        if self.arrivals.is_incomplete() {
            report.note(
                "page-set",
                None,
                "more RAM than pages are remembered of: repetitions were not all seen",
            );
        }
        if self.repeated > 0 && !postcopy.was_used() {
            report.note(
                "repeated",
                None,
                format!("{} pages arrived more than once: a live precopy", self.repeated),
            );
        }
        self.presence(report);
    }

    /// Where RAM is that did not arrive.
    fn presence(&self, report: &mut Report<'_>) {
        let found = self.arrivals.blocks();
        let total = found.len();
        for presence in Presence::ALL {
            let blocks = self.arrivals.list().iter().zip(&found);
            let of_it: Vec<_> =
                blocks.filter(|(_, block)| block.presence == presence && block.missing_pages > 0).collect();
            if of_it.is_empty() {
                continue;
            }
            let pages: u64 = of_it.iter().map(|(_, block)| block.missing_pages).sum();
            let mut names: Vec<_> = of_it
                .iter()
                .take(NAMED)
                .map(|(block, _)| format!("\"{}\"", terminal(&block.idstr)))
                .collect();
            if of_it.len() > NAMED {
                names.push("...".to_owned());
            }
            let (blocks, names) = (of_it.len(), names.join(", "));
            match presence {
                Presence::Here if !self.arrivals.is_incomplete() => {
                    let text = format!("{pages} pages are left out of the file: they are zero (mapped-ram)");
                    report.note("missing", None, text);
                }
                Presence::Here => {}
                Presence::Partly if self.arrivals.is_incomplete() => {}
                Presence::Partly => {
                    let text = format!(
                        "{pages} pages of {names} never arrived: a destination keeps what its memory holds there \
                         (a balloon and virtio-mem leave pages out)"
                    );
                    report.note("missing", None, text);
                }
                _ => {
                    let text = format!(
                        "the RAM of {blocks} of {total} blocks ({names}) is not in this file: {}",
                        presence.reason()
                    );
                    let level = if presence == Presence::NeverArrived { Level::Warning } else { Level::Note };
                    let finding = Finding::new(level, None, "", text).advised(presence.advice());
                    report.say("missing", finding);
                }
            }
        }
    }
}

/// Bits behind the block's last page: QEMU reads whole words and passes over them
/// (`read_ramblock_mapped_ram`).
pub(super) fn mapped_bitmap(
    report: &mut Report<'_>,
    offset: u64,
    (block, first_page): (usize, u64),
    bits: &[u8],
    context: Context<'_>,
) {
    let Some(block) = context.blocks.get(block) else { return };
    let pages = (block.used_length / u64::from(context.page_size)).saturating_sub(first_page);
    let behind = bits.get(to_usize(pages / 8)..).unwrap_or_default();
    let shared =
        u64::from(behind.first().map_or(0, |byte| byte.count_ones() - (byte >> (pages % 8)).count_ones()));
    let stray = behind.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>() - shared;
    if stray > 0 {
        let text = format!("{stray} bits of pages behind the end of \"{}\"", terminal(&block.idstr));
        report.warning("bitmap", offset, "mapped-ram bitmap", text);
    }
}

fn packed(report: &mut Report<'_>, offset: u64, rule: &'static str, kind: migration_stream::ErrorKind) {
    let error = Error { offset, path: "section \"ram\" > page record".to_owned(), kind };
    report.say(rule, error.into());
}
