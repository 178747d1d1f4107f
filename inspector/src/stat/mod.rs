//! Counts what a stream consists of, in constant memory.

mod content;

use crate::advice::Advice;
use crate::pages::PageSet;
use crate::presence::{Arrivals, Presence};
use crate::walk::{Context, Event, Finding, Flow, Item, Level, PacketPages, Visitor};
use content::Content;
pub use content::ContentStat;
use migration_stream::{Page, PageContent, Record, SectionId, UNKNOWN_LENGTH};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Names that are counted apart; the rest is counted together.
const NAMES_LIMIT: usize = 1 << 14;

/// Counts of one RAM block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlockStat {
    /// Its name, escaped.
    pub name: String,
    /// Its length in bytes, where it is known.
    pub bytes: Option<u64>,
    /// Records with a page's content.
    pub normal: u64,
    /// Records of zero pages.
    pub zero: u64,
    /// Records with a difference.
    pub xbzrle: u64,
    /// Records with a compressed page.
    pub compressed: u64,
    /// Records for a page that had come before.
    pub repeated: u64,
    /// Pages that never arrived.
    pub missing: Option<u64>,
    /// Where its content is.
    pub ram: Presence,
    /// Bytes of all these records.
    pub record_bytes: u64,
}

/// Bytes of a section or a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SectionStat {
    /// Its name, escaped.
    pub name: String,
    /// Its instance.
    pub instance: u32,
    /// Its version.
    pub version: u32,
    /// How many sections: START, PART and END, or one.
    pub sections: u64,
    /// Bytes, headers and footers included.
    pub bytes: u64,
}

/// The order in which pages come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OrderStat {
    /// Pages that follow the one before them in their block.
    pub following: u64,
    /// Pages behind the one before, with a gap.
    pub forward: u64,
    /// Pages before the one before.
    pub backward: u64,
    /// Pages of another block than the one before.
    pub other_block: u64,
}

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stat {
    /// What the input is.
    pub kind: &'static str,
    /// How RAM lies in an image (`linear`, `dense`), where that is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Machine type, escaped.
    pub machine: Option<String>,
    /// Target page size in bytes.
    pub page_size: u32,
    /// Bytes of the unpacked stream, and of its multifd channels where they were given.
    pub bytes: u64,
    /// RAM blocks in the stream's order.
    pub blocks: Vec<BlockStat>,
    /// Iterable sections.
    pub sections: Vec<SectionStat>,
    /// Device sections.
    pub devices: Vec<SectionStat>,
    /// Commands by name.
    pub commands: BTreeMap<&'static str, u64>,
    /// Bytes of the vmdesc.
    pub vmdesc_bytes: u64,
    /// Order of pages.
    pub order: OrderStat,
    /// What pages hold.
    pub content: ContentStat,
    /// The first thing that is wrong: counting ends there, or has a gap.
    pub error: Option<String>,
    /// What can be done about that.
    #[serde(skip)]
    pub advice: Option<Advice>,
}

/// Counts what a walk comes across.
#[derive(Debug, Default)]
pub struct Counter {
    stat: Stat,
    /// Pages that came; those that a postcopy takes back stay in it.
    came: PageSet,
    arrivals: Arrivals,
    last: Option<(usize, u64)>,
    sections: BTreeMap<SectionId, usize>,
    current: Option<usize>,
    device: Option<usize>,
    content: Content,
    channel_blocks: BTreeMap<Vec<u8>, usize>,
}

fn text(bytes: &[u8]) -> String {
    crate::escape::json_text(bytes)
}

// Each counts a record of its kind, and says whether its page has content.
impl BlockStat {
    fn normal(&mut self) -> bool {
        self.normal += 1;
        true
    }

    fn zero(&mut self) -> bool {
        self.zero += 1;
        false
    }

    fn xbzrle(&mut self) -> bool {
        self.xbzrle += 1;
        true
    }

    fn compressed(&mut self) -> bool {
        self.compressed += 1;
        true
    }
}

impl Counter {
    /// A counter of an input of this kind.
    #[must_use]
    pub fn new(kind: &'static str) -> Self {
        Self { stat: Stat { kind, ..Stat::default() }, ..Self::default() }
    }

    /// The result.
    #[must_use]
    pub fn finish(mut self) -> Stat {
        let listed = self.arrivals.list().iter().zip(self.arrivals.blocks());
        for (stat, (block, found)) in self.stat.blocks.iter_mut().zip(listed) {
            stat.ram = found.presence;
            if block.used_length != UNKNOWN_LENGTH && !self.arrivals.is_incomplete() {
                stat.missing = Some(found.missing_pages);
            }
            if self.arrivals.leaves_zeros_out() {
                let pages = block.used_length / u64::from(self.stat.page_size.max(1));
                stat.zero += pages.saturating_sub(stat.normal + stat.zero);
            }
        }
        self.stat.content = self.content.finish();
        self.stat
    }

    fn page(&mut self, block: usize, offset: u64, length: u64, count: impl FnOnce(&mut BlockStat) -> bool) {
        let page_size = u64::from(self.stat.page_size.max(1));
        let order = &mut self.stat.order;
        match self.last {
            Some((last, _)) if last != block => order.other_block += 1,
            Some((_, at)) if offset == at + page_size => order.following += 1,
            Some((_, at)) if offset > at => order.forward += 1,
            Some(_) => order.backward += 1,
            None => {}
        }
        self.last = Some((block, offset));
        let mut unlisted = BlockStat::default();
        let stat = self.stat.blocks.get_mut(block).unwrap_or(&mut unlisted);
        stat.record_bytes += length;
        let content = count(stat);
        stat.repeated += u64::from(!self.came.insert(block, offset / page_size));
        self.arrivals.arrived(block, offset, content);
    }

    fn blocks(&mut self, context: Context<'_>) {
        self.stat.page_size = context.page_size;
        for block in context.blocks.get(self.arrivals.list().len()..).unwrap_or_default() {
            let bytes = (block.used_length != UNKNOWN_LENGTH).then_some(block.used_length);
            self.stat.blocks.push(BlockStat { name: text(&block.idstr), bytes, ..BlockStat::default() });
        }
    }

    /// Pages of a multifd channel. Without its main stream a block is known by its name alone.
    fn packet(&mut self, pages: &PacketPages<'_>, page_size: u32) {
        let number = pages.block.unwrap_or_else(|| {
            let next = self.stat.blocks.len();
            if next >= NAMES_LIMIT {
                return next;
            }
            let number = *self.channel_blocks.entry(pages.name.to_vec()).or_insert(next);
            if number == next {
                self.stat.blocks.push(BlockStat { name: text(pages.name), ..BlockStat::default() });
            }
            number
        });
        // The bytes of a page on a channel are those of its content, packed or not.
        let bytes = (pages.data.len() as u64).checked_div(pages.normal.len() as u64).unwrap_or(0);
        for &offset in pages.normal {
            self.page(number, offset, bytes, BlockStat::normal);
        }
        for &offset in pages.zero {
            self.page(number, offset, 0, BlockStat::zero);
        }
        // What cannot be unpacked has no content to look at; the walk has said why.
        let unpacked = pages.unpacked.unwrap_or_default();
        unpacked.chunks_exact(page_size as usize).for_each(|page| self.content.page(page));
    }

    /// Counts a record to its section.
    fn section(&mut self, length: u64, record: &Record<'_>) {
        match record {
            Record::SectionStart(header) => {
                let at = self.stat.sections.len();
                if at < NAMES_LIMIT {
                    self.stat.sections.push(SectionStat {
                        name: text(header.idstr),
                        instance: header.instance_id,
                        version: header.version_id,
                        sections: 1,
                        bytes: 0,
                    });
                    self.sections.insert(header.section_id, at);
                }
                self.current = self.sections.get(&header.section_id).copied();
            }
            Record::SectionPart(id) | Record::SectionEnd(id) => {
                self.current = self.sections.get(id).copied();
                if let Some(at) = self.current {
                    self.stat.sections[at].sections += 1;
                }
            }
            _ => {}
        }
        if let Some(at) = self.current {
            self.stat.sections[at].bytes += length;
        } else if let (Some(at), Record::Footer(_)) = (self.device, record) {
            self.stat.devices[at].bytes += length;
        }
        if let Record::Footer(_) = record {
            self.current = None;
        }
    }

    fn record(&mut self, length: u64, record: &Record<'_>) {
        match record {
            Record::Configuration(configuration) => self.stat.machine = Some(text(&configuration.machine)),
            Record::Page(Page { block, offset, content, .. }) => {
                let counter = match content {
                    PageContent::Raw(data) => {
                        self.content.page(data);
                        BlockStat::normal
                    }
                    PageContent::Zero => BlockStat::zero,
                    PageContent::Xbzrle(_) => BlockStat::xbzrle,
                    PageContent::Zlib(_) => BlockStat::compressed,
                };
                self.page(*block, *offset, length, counter);
            }
            Record::Command(command) => {
                *self.stat.commands.entry(command.name()).or_default() += 1;
                self.current = None;
            }
            Record::Eof => self.current = None,
            Record::VmDescription(json) => {
                self.stat.vmdesc_bytes = json.len() as u64;
                self.current = None;
            }
            _ => {}
        }
        self.section(length, record);
    }
}

impl Visitor for Counter {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        self.blocks(context);
        self.arrivals.other(item, context);
        self.stat.bytes += item.length;
        match &item.event {
            Event::Record(record) => self.record(item.length, record),
            Event::Device(section) if self.stat.devices.len() < NAMES_LIMIT => {
                self.current = None;
                self.device = Some(self.stat.devices.len());
                self.stat.devices.push(SectionStat {
                    name: text(section.header.idstr),
                    instance: section.header.instance_id,
                    version: section.header.version_id,
                    sections: 1,
                    bytes: item.length,
                });
            }
            Event::MultifdPages(pages) => self.packet(pages, context.page_size),
            _ if context.channel.is_some() => {}
            _ => {
                if let Some(at) = self.current {
                    self.stat.sections[at].bytes += item.length;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        if finding.level == Level::Error && self.stat.error.is_none() {
            self.stat.error = Some(finding.to_string());
            self.stat.advice = finding.advice;
        }
        ControlFlow::Continue(())
    }
}
