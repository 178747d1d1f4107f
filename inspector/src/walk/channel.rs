//! A multifd channel: by itself, or beside its main stream.

use super::event::{Context, Event, Finding, Item, Level, PacketPages, Visitor};
use super::feed::Feed;
use super::{Stop, go, io};
use crate::escape::terminal;
use crate::unpack::ChannelUnpacker;
use migration_stream::ram::multifd::{Channel, Compression, Hello, Message};
use migration_stream::{Error, ErrorKind, Inside};
use snapshot_engine::error_text;
use std::collections::HashMap;

/// A channel that is walked step by step.
pub(super) struct ChannelWalk {
    feed: Feed,
    messages: Channel,
    unpacker: ChannelUnpacker,
    /// Blocks of the main stream by name: each packet names one.
    by_name: HashMap<Vec<u8>, usize>,
    /// What it began with.
    pub(super) hello: Option<Hello>,
    /// Its pages are not looked at any more: something is wrong with them, or nothing here can unpack them.
    blind: bool,
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// A packet: its number, whether all channels wait for each other behind it, and whether it has pages.
    Packet { number: u64, sync: bool, pages: bool },
    /// Something else.
    Other,
    /// The channel has ended.
    End,
}

/// What a packet says of the pages behind it, kept while they arrive.
struct Announced {
    block: Vec<u8>,
    normal: Vec<u64>,
    zero: Vec<u64>,
    compression: Compression,
}

impl ChannelWalk {
    pub(super) fn new(feed: Feed, page_size: u32) -> Self {
        let (messages, unpacker) = (Channel::new(page_size), ChannelUnpacker::default());
        Self { feed, messages, unpacker, by_name: HashMap::new(), hello: None, blind: false }
    }

    /// Takes one header and the data behind it.
    pub(super) fn step(&mut self, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<Took, Stop> {
        let (length, message) = loop {
            // Asked twice, as what is held cannot be lent and grow at the same time.
            if self.messages.clone().step(self.feed.bytes())?.is_some()
                && let Some(taken) = self.messages.step(self.feed.bytes())?
            {
                break taken;
            }
            let more = self.feed.more();
            if !more.map_err(io(&self.feed))? {
                return if self.feed.bytes().is_empty() {
                    Ok(Took::End)
                } else {
                    Err(truncated(&self.feed, Inside::MultifdPacket))
                };
            }
        };
        let offset = self.feed.offset();
        let event = Event::Multifd(&message);
        go(visitor.item(&Item { offset, length: length as u64, packaged: false, event }, context))?;
        let (data_bytes, announced, took) = match message {
            Message::Hello(hello) => {
                self.hello = Some(hello);
                (0, None, Took::Other)
            }
            Message::Packet(packet) => {
                let pages = !packet.normal.is_empty() || !packet.zero.is_empty();
                let took = Took::Packet { number: packet.number, sync: packet.sync, pages };
                let announced = Announced {
                    block: packet.block.to_vec(),
                    normal: packet.normal,
                    zero: packet.zero,
                    compression: packet.compression,
                };
                (packet.data_bytes as usize, Some(announced), took)
            }
            other => (other.data_bytes() as usize, None, Took::Other),
        };
        self.feed.consume(length);
        let filled = self.feed.fill(data_bytes);
        if !filled.map_err(io(&self.feed))? {
            return Err(truncated(&self.feed, Inside::MultifdData));
        }
        match announced {
            Some(announced) => self.pages(&announced, data_bytes, visitor, context)?,
            None if data_bytes > 0 => {
                let (offset, length) = (self.feed.offset(), data_bytes as u64);
                let event = Event::MultifdData(&self.feed.bytes()[..data_bytes]);
                go(visitor.item(&Item { offset, length, packaged: false, event }, context))?;
            }
            None => {}
        }
        self.feed.consume(data_bytes);
        Ok(took)
    }

    /// The pages of a packet, whose data is held.
    fn pages(
        &mut self,
        packet: &Announced,
        data_bytes: usize,
        visitor: &mut dyn Visitor,
        context: Context<'_>,
    ) -> Result<(), Stop> {
        if packet.normal.is_empty() && packet.zero.is_empty() {
            return Ok(());
        }
        let offset = self.feed.offset();
        let data = &self.feed.bytes()[..data_bytes];
        let mut say = |level, text: String| {
            let path = path(context.channel);
            go(visitor.finding(Finding::new(level, offset, &path, text)))
        };
        let mut block = None;
        if context.channel.is_some() && !self.blind {
            for (number, block) in context.blocks.iter().enumerate().skip(self.by_name.len()) {
                self.by_name.insert(block.idstr.clone(), number);
            }
            block = self.by_name.get(&packet.block).copied();
            if let Some(text) = misplaced(packet, block, context) {
                self.blind = true;
                say(Level::Error, text)?;
            }
        }
        let expected = packet.normal.len() * context.page_size as usize;
        let unpacked = if self.blind {
            None
        } else if packet.normal.is_empty() {
            Some(data)
        } else {
            match self.unpacker.packet(packet.compression, data, expected) {
                Ok(Some(pages)) => Some(pages),
                Ok(None) => {
                    self.blind = true;
                    let text = "packed by hardware (QPL, UADK or QATzip): not unpacked";
                    say(Level::Note, text.to_owned())?;
                    None
                }
                Err(error) => {
                    self.blind = true;
                    say(Level::Error, error_text(&error))?;
                    None
                }
            }
        };
        let pages = PacketPages {
            name: &packet.block,
            block,
            normal: &packet.normal,
            zero: &packet.zero,
            data,
            unpacked,
        };
        let item =
            Item { offset, length: data_bytes as u64, packaged: false, event: Event::MultifdPages(pages) };
        go(visitor.item(&item, context))
    }

    /// Passes over the rest of a channel that cannot be read: nothing is looked for in it.
    pub(super) fn give_up(&mut self, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
        super::skip_rest(&mut self.feed, visitor, context)
    }
}

/// Where a channel's findings are: in the channel, and which one it is where there are several.
pub(super) fn path(channel: Option<usize>) -> String {
    channel.map_or_else(|| "multifd channel".to_owned(), |number| format!("multifd channel {number}"))
}

/// Why the pages of a packet have no place in RAM.
fn misplaced(packet: &Announced, block: Option<usize>, context: Context<'_>) -> Option<String> {
    let name = terminal(&packet.block);
    let Some(block) = block.and_then(|number| context.blocks.get(number)) else {
        return Some(format!("block \"{name}\" is not in the block list"));
    };
    let page_size = u64::from(context.page_size);
    let fits = |offset: u64| {
        offset.is_multiple_of(page_size)
            && offset.checked_add(page_size).is_some_and(|end| end <= block.used_length)
    };
    let stray = packet.normal.iter().chain(&packet.zero).find(|&&offset| !fits(offset))?;
    let length = block.used_length;
    Some(format!("page {stray:#x} of \"{name}\", whose used length is {length:#x}"))
}

fn truncated(feed: &Feed, inside: Inside) -> Stop {
    let offset = feed.offset() + feed.bytes().len() as u64;
    Error { offset, path: String::new(), kind: ErrorKind::Truncated { inside } }.into()
}

/// Walks a channel whose main stream is not there.
pub(super) fn walk(feed: Feed, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
    let mut channel = ChannelWalk::new(feed, context.page_size);
    loop {
        match channel.step(visitor, context) {
            Ok(Took::End) => return Ok(()),
            Ok(_) => {}
            Err(Stop::Wrong(error)) => {
                go(visitor.finding(error.into()))?;
                return channel.give_up(visitor, context);
            }
            Err(stop) => return Err(stop),
        }
    }
}
