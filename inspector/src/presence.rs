//! Where the RAM of an input is, block by block. RAM that is not in the input is not zeros: every
//! command that shows, compares or writes RAM asks here first.

use crate::advice::Advice;
use crate::error::Error;
use crate::escape::terminal;
use crate::pages::PageSet;
use crate::walk::{Context, Event, Item};
use migration_stream::{Command, DiscardRange, PageContent, RamBlock, Record, UNKNOWN_LENGTH};
use serde::Serialize;
use std::collections::BTreeSet;

/// Where the content of a RAM block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// In the input: every page arrived, or is zero because a mapped-ram file leaves it out.
    #[default]
    Here,
    /// In the input, but for pages that the guest had given away: a destination keeps what its
    /// memory holds there.
    Partly,
    /// In memory that source and destination share (capability x-ignore-shared).
    IgnoredShared,
    /// In memory that QEMU hands over to the next QEMU (migration modes cpr-exec and cpr-transfer).
    Cpr,
    /// On multifd channels, which were not given.
    Multifd,
    /// In part on another connection of the same postcopy: main, preempt or recovery.
    OtherConnection,
    /// Its pages never arrived, and nothing in the input says why; or the input is cut.
    NeverArrived,
}

impl Presence {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Here,
        Self::Partly,
        Self::IgnoredShared,
        Self::Cpr,
        Self::Multifd,
        Self::OtherConnection,
        Self::NeverArrived,
    ];

    /// The block can be shown, compared and written.
    #[must_use]
    pub fn is_here(self) -> bool {
        matches!(self, Self::Here | Self::Partly)
    }

    /// Its name in JSON and in lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Partly => "partly",
            Self::IgnoredShared => "ignored_shared",
            Self::Cpr => "cpr",
            Self::Multifd => "multifd",
            Self::OtherConnection => "other_connection",
            Self::NeverArrived => "never_arrived",
        }
    }

    /// Why the block is not in the input, and where it is.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Here => "every page is in it",
            Self::Partly => "some pages never arrived, as with a balloon or virtio-mem",
            Self::IgnoredShared => {
                "capability x-ignore-shared: it is in the memory or file that source and destination share"
            }
            Self::Cpr => "migration mode cpr-exec or cpr-transfer: QEMU hands it over in memory",
            Self::Multifd => "it was sent on multifd channels, which are not here",
            Self::OtherConnection => {
                "postcopy: pages of it were sent on another connection (main, preempt or recovery)"
            }
            Self::NeverArrived => "its pages never arrived",
        }
    }

    /// What brings the block into the input, if something does.
    #[must_use]
    pub fn advice(self) -> Option<Advice> {
        (self == Self::Multifd).then_some(Advice::Channels)
    }
}

/// A block, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockPresence {
    pub(crate) presence: Presence,
    /// Pages that did not arrive; a mapped-ram file leaves zero pages out.
    pub(crate) missing_pages: u64,
}

impl BlockPresence {
    /// The error of a command that would have to make the block up.
    pub(crate) fn refusal(self, input: &str, block: &RamBlock) -> Error {
        let (name, reason) = (terminal(&block.idstr), self.presence.reason());
        let text = format!("{input}: the RAM of block \"{name}\" is not in it: {reason}");
        Error::Usage(text).advised(self.presence.advice())
    }

    /// What a command that goes on says of pages that did not arrive.
    pub(crate) fn remark(self, input: &str, block: &RamBlock) -> Option<String> {
        let pages = self.missing_pages;
        (self.presence == Presence::Partly).then(|| {
            let name = terminal(&block.idstr);
            format!(
                "{input}: {pages} pages of block \"{name}\" never arrived (balloon or virtio-mem), zeros here"
            )
        })
    }
}

/// Records which pages arrive, and what says where the others are.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    seen: PageSet,
    blocks: Vec<RamBlock>,
    page_size: u64,
    /// Pages with content, and zero pages.
    content: u64,
    zero: u64,
    /// Blocks that a mapped-ram file lists without a place.
    without_place: BTreeSet<usize>,
    mapped: bool,
    /// An image: what does not arrive is zero.
    image: bool,
    ignore_shared: bool,
    virtio_mem: bool,
    flushes: bool,
    /// Pages of multifd channels arrive beside the main stream.
    joined: bool,
    postcopy: bool,
    /// The end mark came: what did not arrive will not.
    over: bool,
}

impl Arrivals {
    /// Records a piece, pages included.
    pub(crate) fn item(&mut self, item: &Item<'_>, context: Context<'_>) {
        self.other(item, context);
        match &item.event {
            Event::Record(record) => {
                self.page(record);
            }
            Event::MultifdPages(pages) => pages.records(context.page_size).for_each(|record| {
                self.page(&record);
            }),
            _ => {}
        }
    }

    /// Records a piece, but not of pages.
    pub(crate) fn other(&mut self, item: &Item<'_>, context: Context<'_>) {
        if let Some(new @ [_, ..]) = context.blocks.get(self.blocks.len()..) {
            self.blocks.extend_from_slice(new);
        }
        self.page_size = context.page_size.into();
        self.joined |= context.channel.is_some();
        match &item.event {
            Event::Record(Record::Configuration(configuration)) => {
                self.ignore_shared = configuration.has_capability("x-ignore-shared");
            }
            Event::Record(Record::RamMultifdFlush) => self.flushes = true,
            Event::Record(Record::Eof) => self.over = true,
            Event::Record(Record::Command(Command::PostcopyListen | Command::PostcopyRun)) => {
                self.postcopy = true;
            }
            Event::Record(Record::Command(Command::PostcopyRamDiscard { block, ranges })) => {
                self.postcopy = true;
                self.discard(block, ranges);
            }
            Event::ZerosLeftOut => self.image = true,
            Event::MappedBlock(mapped) => {
                self.mapped = true;
                if mapped.place.is_none() {
                    self.without_place.insert(self.blocks.len().saturating_sub(1));
                }
            }
            Event::Device(section) => self.virtio_mem |= names_virtio_mem(section.header.idstr),
            Event::Record(Record::EarlyDevices(bytes)) | Event::Opaque(bytes, _) => {
                self.virtio_mem |= names_virtio_mem(bytes);
            }
            _ => {}
        }
    }

    /// Records a page, if the record is one; whether it came for the first time.
    pub(crate) fn page(&mut self, record: &Record<'_>) -> bool {
        match record {
            Record::Page(page) => self.arrived(page.block, page.offset, page.content != PageContent::Zero),
            _ => true,
        }
    }

    /// A page arrived; whether for the first time.
    pub(crate) fn arrived(&mut self, block: usize, offset: u64, content: bool) -> bool {
        let count = if content { &mut self.content } else { &mut self.zero };
        *count += 1;
        self.seen.insert(block, offset / self.page_size.max(1))
    }

    /// Pages that the source takes back: it sends them again in postcopy.
    fn discard(&mut self, name: &[u8], ranges: &[DiscardRange]) {
        let Some(number) = self.blocks.iter().position(|block| block.idstr == name) else { return };
        let (length, page) = (self.blocks[number].used_length, self.page_size.max(1));
        for range in ranges {
            if let Some(end) = range.start.checked_add(range.length).filter(|&end| end <= length) {
                self.seen.remove(number, range.start / page..end / page);
            }
        }
    }

    /// More pages arrived than are remembered.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.seen.is_incomplete()
    }

    /// Where each block is, in the order of the list.
    pub(crate) fn blocks(&self) -> Vec<BlockPresence> {
        let counts: Vec<u64> = (0..self.blocks.len()).map(|block| self.seen.count(block)).collect();
        let missing: Vec<Option<u64>> = self
            .blocks
            .iter()
            .enumerate()
            .map(|(number, block)| {
                let pages = block.used_length / self.page_size.max(1);
                let arrived = counts[number];
                (block.used_length != UNKNOWN_LENGTH).then(|| pages.saturating_sub(arrived))
            })
            .collect();
        let arrived = |number: usize| counts[number] > 0;
        // Multifd before 8.1 sends zero pages on the main channel, and nothing there says that the
        // others travel elsewhere.
        let multifd = !self.joined && (self.flushes || self.content == 0 && self.zero > 0);
        let nothing = self.content == 0 && self.zero == 0 && !self.postcopy && !self.joined;
        let place = |number: usize, missing: Option<u64>| {
            let missing_pages = missing.filter(|_| !self.image).unwrap_or(0);
            let presence = match missing {
                _ if self.image => Presence::Here,
                _ if self.without_place.contains(&number) => Presence::IgnoredShared,
                _ if self.mapped => Presence::Here,
                None => Presence::OtherConnection,
                Some(0) => Presence::Here,
                Some(_) if !self.over => Presence::NeverArrived,
                Some(_) if self.flushes && multifd => Presence::Multifd,
                Some(_) if self.ignore_shared && !arrived(number) => Presence::IgnoredShared,
                Some(_) if multifd => Presence::Multifd,
                Some(_) if nothing => Presence::Cpr,
                Some(_) if self.postcopy => Presence::OtherConnection,
                Some(_) if self.is_incomplete() || arrived(number) || self.virtio_mem => Presence::Partly,
                Some(_) => Presence::NeverArrived,
            };
            BlockPresence { presence, missing_pages }
        };
        missing.iter().enumerate().map(|(number, &missing)| place(number, missing)).collect()
    }

    /// Pages that did not arrive are zero, and all the others arrived once: the input is an image.
    pub(crate) fn leaves_zeros_out(&self) -> bool {
        self.image
    }

    /// The block list.
    pub(crate) fn list(&self) -> &[RamBlock] {
        &self.blocks
    }
}

/// A device whose memory is not all plugged, so that pages are left out for good.
fn names_virtio_mem(bytes: &[u8]) -> bool {
    bytes.windows(10).any(|window| window == b"virtio-mem")
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::{Configuration, Page, ram::mapped::MappedBlock};

    const PAGE: u32 = 4096;

    fn block(name: &[u8], pages: u64) -> RamBlock {
        RamBlock {
            idstr: name.to_vec(),
            used_length: pages * u64::from(PAGE),
            host_page_size: None,
            guest_physical_address: None,
        }
    }

    /// What is said of two blocks of two pages each after these pieces.
    fn said(events: Vec<Event<'static>>) -> Vec<(Presence, u64)> {
        let blocks = [block(b"a", 2), block(b"b", 2)];
        let context = Context { blocks: &blocks, page_size: PAGE, configuration: None, channel: None };
        let mut arrivals = Arrivals::default();
        for event in events.into_iter().chain([end()]) {
            arrivals.item(&Item { offset: 0, length: 0, packaged: false, event }, context);
        }
        arrivals.blocks().into_iter().map(|block| (block.presence, block.missing_pages)).collect()
    }

    fn page(block: usize, number: u64) -> Event<'static> {
        let offset = number * u64::from(PAGE);
        let content = PageContent::Raw(&[1; PAGE as usize]);
        Event::Record(Record::Page(Page { block, offset, named: true, content }))
    }

    fn zero(block: usize, number: u64) -> Event<'static> {
        let offset = number * u64::from(PAGE);
        Event::Record(Record::Page(Page { block, offset, named: true, content: PageContent::Zero }))
    }

    fn end() -> Event<'static> {
        Event::Record(Record::Eof)
    }

    fn ignore_shared() -> Event<'static> {
        let capabilities = Some(vec![b"x-ignore-shared".to_vec()]);
        Event::Record(Record::Configuration(Configuration { capabilities, ..Configuration::default() }))
    }

    #[test]
    fn blocks_of_which_every_page_arrived_are_here() {
        let all = vec![page(0, 0), zero(0, 1), page(1, 0), page(1, 1), page(1, 1)];
        assert_eq!(said(all), [(Presence::Here, 0), (Presence::Here, 0)]);
    }

    #[test]
    fn a_block_without_a_page_is_elsewhere_with_ignore_shared_and_nowhere_without() {
        let pages = || vec![page(1, 0), zero(1, 1)];
        let shared = [vec![ignore_shared()], pages()].into_iter().flatten().collect();
        assert_eq!(said(shared), [(Presence::IgnoredShared, 2), (Presence::Here, 0)]);
        assert_eq!(said(pages()), [(Presence::NeverArrived, 2), (Presence::Here, 0)]);
    }

    #[test]
    fn a_stream_without_any_page_is_of_cpr_and_one_that_synchronises_channels_of_multifd() {
        assert_eq!(said(Vec::new()), [(Presence::Cpr, 2), (Presence::Cpr, 2)]);
        let flush = Event::Record(Record::RamMultifdFlush);
        assert_eq!(said(vec![flush]), [(Presence::Multifd, 2), (Presence::Multifd, 2)]);
        // Before 8.1: zero pages alone.
        let zeros = vec![zero(0, 1), zero(1, 0), zero(1, 1)];
        assert_eq!(said(zeros), [(Presence::Multifd, 1), (Presence::Here, 0)]);
        let nothing_but_zeros = vec![zero(0, 0), zero(0, 1), zero(1, 0), zero(1, 1)];
        assert_eq!(said(nothing_but_zeros), [(Presence::Here, 0), (Presence::Here, 0)]);
    }

    #[test]
    fn an_input_that_is_cut_says_nothing_of_where_the_rest_is() {
        let blocks = [block(b"a", 2)];
        let context = Context { blocks: &blocks, page_size: PAGE, configuration: None, channel: None };
        let mut arrivals = Arrivals::default();
        let event = Event::Record(Record::RamEndOfSection);
        arrivals.item(&Item { offset: 0, length: 8, packaged: false, event }, context);
        let expected = BlockPresence { presence: Presence::NeverArrived, missing_pages: 2 };
        assert_eq!(arrivals.blocks(), [expected]);
    }

    #[test]
    fn pages_that_are_left_out_for_good_are_counted() {
        let pages = || vec![page(0, 0), page(1, 0), page(1, 1)];
        assert_eq!(said(pages()), [(Presence::Partly, 1), (Presence::Here, 0)]);
        let unplugged = vec![page(1, 0), page(1, 1), Event::Opaque(b"0000:00:02.0/virtio-mem", "")];
        assert_eq!(said(unplugged), [(Presence::Partly, 2), (Presence::Here, 0)]);
    }

    #[test]
    fn in_postcopy_pages_that_were_taken_back_and_did_not_come_again_are_on_another_connection() {
        let range = DiscardRange { start: 0, length: u64::from(PAGE) };
        let discard = Command::PostcopyRamDiscard { block: b"a", ranges: vec![range] };
        let pages = vec![
            page(0, 0),
            page(0, 1),
            page(1, 0),
            page(1, 1),
            Event::Record(Record::Command(discard)),
            Event::Record(Record::Command(Command::PostcopyRun)),
        ];
        assert_eq!(said(pages), [(Presence::OtherConnection, 1), (Presence::Here, 0)]);
    }

    #[test]
    fn a_mapped_block_without_a_place_is_elsewhere_and_any_other_is_here() {
        let blocks = [block(b"a", 2)];
        let mapped = MappedBlock { block: blocks[0].clone(), place: None };
        let context = Context { blocks: &blocks, page_size: PAGE, configuration: None, channel: None };
        let mut arrivals = Arrivals::default();
        let event = Event::MappedBlock(&mapped);
        arrivals.item(&Item { offset: 0, length: 0, packaged: false, event }, context);
        let both = [block(b"a", 2), block(b"b", 2)];
        let context = Context { blocks: &both, ..context };
        arrivals.item(&Item { offset: 0, length: 0, packaged: false, event: end() }, context);
        let said: Vec<_> = arrivals.blocks().iter().map(|block| block.presence).collect();
        assert_eq!(said, [Presence::IgnoredShared, Presence::Here]);
    }
}
