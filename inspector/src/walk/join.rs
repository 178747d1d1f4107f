//! The multifd channels of a main stream, put into its order.
//!
//! A source has all channels say SYNC, and then a record on the main stream: FLUSH (8.1 and later),
//! or the end of a `ram` body (before, and for old machine types). What a channel brings between
//! two of its SYNCs therefore belongs before the record that belongs to the second; pages of
//! different channels do not overlap there. FLUSH is used if the first body has one.

use super::channel::{ChannelWalk, Took, path};
use super::event::{Context, Finding, Level, Visitor};
use super::feed::Feed;
use super::{Stop, go};
use crate::pages::PageSet;
use migration_stream::{Configuration, Page, PageContent, Record, UNKNOWN_LENGTH};

/// The channels, in the order in which they were given.
pub(super) struct Join {
    feeds: Vec<Feed>,
    channels: Vec<Joined>,
    flushes: bool,
    syncs: u64,
    /// Pages that came, on any channel.
    seen: PageSet,
    /// Numbers of packets that came, and the largest.
    numbers: PageSet,
    largest: Option<u64>,
}

struct Joined {
    walk: ChannelWalk,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Broken,
}

impl Join {
    pub(super) fn new(feeds: Vec<Feed>) -> Self {
        Self {
            feeds,
            channels: Vec::new(),
            flushes: false,
            syncs: 0,
            seen: PageSet::default(),
            numbers: PageSet::default(),
            largest: None,
        }
    }

    /// What has to happen before a record of the main stream, which is at `offset`.
    pub(super) fn before(
        &mut self,
        record: &Record<'_>,
        offset: u64,
        visitor: &mut dyn Visitor,
        context: Context<'_>,
    ) -> Result<(), Stop> {
        match record {
            Record::Page(Page {
                block, offset, content: PageContent::Raw(_) | PageContent::Zero, ..
            }) => {
                self.seen.insert(*block, offset / u64::from(context.page_size));
            }
            Record::RamMultifdFlush => {
                self.flushes |= self.syncs == 0;
                if self.flushes {
                    self.sync(offset, visitor, context)?;
                }
            }
            Record::RamEndOfSection if !self.flushes => self.sync(offset, visitor, context)?,
            Record::Eof | Record::DeviceTail => self.finish(visitor, context)?,
            _ => {}
        }
        Ok(())
    }

    /// Begins with the channels. Not before the first record that they wait for: until there it may
    /// not have been known how large a page is.
    fn open(&mut self, page_size: u32) {
        let feeds = std::mem::take(&mut self.feeds).into_iter();
        self.channels
            .extend(feeds.map(|feed| Joined { walk: ChannelWalk::new(feed, page_size), state: State::Open }));
    }

    /// Walks all channels up to their next SYNC.
    fn sync(&mut self, offset: u64, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
        self.open(context.page_size);
        self.syncs += 1;
        for number in 0..self.channels.len() {
            let before = self.channels[number].state;
            while self.channels[number].state == State::Open {
                let took = self.step(number, visitor, context)?;
                if matches!(took, Took::Packet { sync: true, .. }) {
                    break;
                }
            }
            if before == State::Open && self.channels[number].state == State::Ended {
                let text = format!(
                    "ends without the SYNC number {} that the main stream has at {offset:#x}",
                    self.syncs
                );
                go(visitor.finding(Finding::new(Level::Error, None, &path(Some(number)), text)))?;
            }
        }
        if self.syncs == 1 { self.introduced(visitor, context.configuration) } else { Ok(()) }
    }

    /// One step of a channel.
    fn step(&mut self, number: usize, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<Took, Stop> {
        let context = Context { channel: Some(number), ..context };
        let mut counted = Counted { visitor, seen: &mut self.seen };
        let channel = &mut self.channels[number];
        match channel.walk.step(&mut counted, context) {
            Ok(took) => {
                if let Took::Packet { number, .. } = took {
                    self.numbers.insert(0, number);
                    self.largest = self.largest.max(Some(number));
                } else if took == Took::End {
                    channel.state = State::Ended;
                }
                Ok(took)
            }
            Err(Stop::Wrong(error)) => {
                channel.state = State::Broken;
                let finding = Finding { path: path(Some(number)), ..Finding::from(error) };
                go(visitor.finding(finding))?;
                channel.walk.give_up(visitor, context)?;
                Ok(Took::End)
            }
            Err(stop) => Err(stop),
        }
    }

    /// Whether the channels are those of one source, and each of them once.
    fn introduced(
        &self,
        visitor: &mut dyn Visitor,
        configuration: Option<&Configuration>,
    ) -> Result<(), Stop> {
        let expected = configuration.and_then(|configuration| configuration.uuid);
        let first = self.channels.iter().find_map(|channel| channel.walk.hello).map(|hello| hello.uuid);
        let mut ids = Vec::new();
        for (number, channel) in self.channels.iter().enumerate() {
            let Some(hello) = channel.walk.hello else { continue };
            let mut wrong =
                |text: String| go(visitor.finding(Finding::new(Level::Error, 0, &path(Some(number)), text)));
            if ids.contains(&hello.channel) {
                wrong(format!("it is channel {}, which was given before", hello.channel))?;
            }
            ids.push(hello.channel);
            let uuid = snapshot_engine::uuid_text;
            if let Some(other) = expected.or(first).filter(|other| *other != hello.uuid) {
                wrong(format!("UUID {}, expected {}", uuid(&hello.uuid), uuid(&other)))?;
            }
        }
        Ok(())
    }

    /// What the end of RAM shows.
    fn finish(&mut self, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
        self.open(context.page_size);
        for number in 0..self.channels.len() {
            let mut late = 0_u64;
            while self.channels[number].state == State::Open {
                let took = self.step(number, visitor, context)?;
                late += u64::from(matches!(took, Took::Packet { pages: true, .. }));
            }
            if late > 0 {
                let text =
                    format!("{late} packets with pages behind the last SYNC that the main stream waits for");
                go(visitor.finding(Finding::new(Level::Warning, None, &path(Some(number)), text)))?;
            }
        }
        if self.channels.iter().any(|channel| channel.state == State::Broken) || self.seen.is_incomplete() {
            return Ok(());
        }
        let page_size = u64::from(context.page_size);
        let missing: u64 = context
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, block)| block.used_length != UNKNOWN_LENGTH)
            .map(|(number, block)| (block.used_length / page_size).saturating_sub(self.seen.count(number)))
            .sum();
        // Before 9.0 a source leaves numbers out itself: both together tell.
        let numbers = self.largest.map_or(0, |largest| largest.saturating_add(1));
        let packets = self.numbers.count(0);
        if missing > 0 && packets < numbers {
            let text = format!(
                "{missing} pages never came, and {} packets up to number {} neither: a channel is missing",
                numbers - packets,
                numbers - 1
            );
            go(visitor.finding(Finding::new(Level::Error, None, "multifd channels", text)))?;
        }
        Ok(())
    }
}

/// Notes which pages a channel brings, and passes everything on.
struct Counted<'a> {
    visitor: &'a mut dyn Visitor,
    seen: &'a mut PageSet,
}

impl Visitor for Counted<'_> {
    fn item(&mut self, item: &super::Item<'_>, context: Context<'_>) -> super::Flow {
        if let super::Event::MultifdPages(pages) = &item.event
            && let Some(block) = pages.block
        {
            for offset in pages.normal.iter().chain(pages.zero) {
                self.seen.insert(block, offset / u64::from(context.page_size));
            }
        }
        self.visitor.item(item, context)
    }

    fn finding(&mut self, finding: Finding) -> super::Flow {
        self.visitor.finding(finding)
    }
}
