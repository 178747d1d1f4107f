//! RAM: which pages come, how often, and whether what packs them can be unpacked.

use super::Report;
use super::postcopy::Postcopy;
use crate::escape::terminal;
use crate::pages::PageSet;
use crate::walk::Context;
use migration_stream::ram::{compressed, xbzrle};
use migration_stream::{BlockList, DiscardRange, Error, RamBlock, Record, UNKNOWN_LENGTH};

#[derive(Debug, Default)]
pub(super) struct Ram {
    seen: PageSet,
    blocks: Vec<RamBlock>,
    page_size: u64,
    normal: u64,
    zero: u64,
    repeated: u64,
    flushes: u64,
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

    pub(super) fn multifd_flush(&mut self) {
        self.flushes += 1;
    }

    pub(super) fn page(
        &mut self,
        report: &mut Report<'_>,
        offset: u64,
        record: &Record<'_>,
        context: Context<'_>,
        postcopy: &Postcopy,
    ) {
        let page_size = u64::from(context.page_size);
        if let Some(new @ [_, ..]) = context.blocks.get(self.blocks.len()..) {
            self.blocks.extend_from_slice(new);
            self.page_size = page_size;
        }
        let (block, at) = match record {
            Record::RamPage { block, offset: at, .. } => {
                self.normal += 1;
                (*block, *at)
            }
            Record::RamZero { block, offset: at, .. } => {
                self.zero += 1;
                (*block, *at)
            }
            Record::RamXbzrle { block, offset: at, data, .. } => {
                self.scratch.resize(context.page_size as usize, 0);
                if let Err(kind) = xbzrle::decode(data, &mut self.scratch) {
                    packed(report, offset, "xbzrle", kind);
                }
                (*block, *at)
            }
            Record::RamCompressed { block, offset: at, data, .. } => {
                self.normal += 1;
                self.scratch.resize(context.page_size as usize, 0);
                if let Err(kind) = compressed::inflate(data, &mut self.scratch) {
                    packed(report, offset, "compressed", kind);
                }
                (*block, *at)
            }
            _ => return,
        };
        if !self.seen.insert(block, at / page_size) {
            self.repeated += 1;
            if postcopy.is_placing() {
                let name = terminal(context.blocks.get(block).map_or(&[][..], |block| &block.idstr));
                let text = format!(
                    "page {at:#x} of \"{name}\" came before and was not discarded: the destination cannot place it"
                );
                report.error("placed-twice", offset, "page record", text);
            }
        }
    }

    pub(super) fn discard(
        &mut self,
        report: &mut Report<'_>,
        offset: u64,
        name: &[u8],
        ranges: &[DiscardRange],
        context: Context<'_>,
    ) {
        let path = "command POSTCOPY_RAM_DISCARD";
        let Some(number) = context.blocks.iter().position(|block| block.idstr == name) else {
            let text = format!("block \"{}\" is not in the block list", terminal(name));
            return report.error("discard-block", offset, path, text);
        };
        let block = &context.blocks[number];
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
            } else if let Some(end) = end {
                self.seen.remove(number, range.start / page_size..end / page_size);
            }
        }
    }

    pub(super) fn finish(&self, report: &mut Report<'_>, postcopy: &Postcopy) {
        if self.seen.is_incomplete() {
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
                format!("{} pages came more than once: a live precopy", self.repeated),
            );
        }
        let mut missing = 0;
        for (number, block) in self.blocks.iter().enumerate() {
            if block.used_length != UNKNOWN_LENGTH && self.page_size > 0 {
                missing += (block.used_length / self.page_size).saturating_sub(self.seen.count(number));
            }
        }
        if self.flushes > 0 && self.normal == 0 {
            let text =
                "no page with content, and records that synchronise multifd channels: RAM travels there";
            report.note("multifd", None, text);
        } else if missing > 0 && !self.seen.is_incomplete() {
            let text = format!(
                "{missing} pages never came and stay zero (mapped-ram leaves zero pages out; a balloon, virtio-mem, shared \
                 RAM and multifd channels do that, too)"
            );
            report.note("missing", None, text);
        }
    }
}

/// Bits behind the block's last page: QEMU reads whole words and passes over them (`read_ramblock_mapped_ram`).
pub(super) fn mapped_bitmap(
    report: &mut Report<'_>,
    offset: u64,
    block: usize,
    bits: &[u8],
    context: Context<'_>,
) {
    let Some(block) = context.blocks.get(block) else { return };
    let pages = block.used_length / u64::from(context.page_size);
    let behind = usize::try_from(pages / 8).ok().and_then(|last| bits.get(last..)).unwrap_or_default();
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
