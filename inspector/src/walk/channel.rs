//! What travels beside the main stream: multifd channels, and the return path.

use super::event::{Context, Event, Finding, Item, Level, Visitor};
use super::feed::Feed;
use super::stream::io;
use super::{Stop, go};
use crate::input::{Kind, OpenOptions};
use migration_stream::ram::multifd::{Channel, Message};
use migration_stream::return_path::{ReturnPathMessage, received_bitmap, return_path_message};
use migration_stream::{DEFAULT_PAGE_SIZE, Error, ErrorKind};

fn nothing(page_size: u32) -> Context<'static> {
    Context { blocks: &[], page_size, configuration: None }
}

fn truncated(feed: &Feed, inside: &str) -> Stop {
    let offset = feed.offset() + feed.bytes().len() as u64;
    Error { offset, path: String::new(), kind: ErrorKind::Truncated { inside: inside.to_owned() } }.into()
}

/// What is kept of the rest of a channel that cannot be read: nothing is looked for in it.
const KEPT_BYTES: usize = 0;

/// Walks a channel. Behind an error there is no place where reading could go on.
pub(super) fn walk(
    feed: &mut Feed,
    kind: Kind,
    options: &OpenOptions,
    visitor: &mut dyn Visitor,
) -> Result<(), Stop> {
    let result = match kind {
        Kind::Multifd => multifd(feed, options, visitor),
        _ => return_path(feed, visitor),
    };
    let Err(Stop::Wrong(error)) = result else { return result };
    go(visitor.finding(error.into()))?;
    let from = feed.offset();
    let rest = feed.keep_last(KEPT_BYTES);
    rest.map_err(io(feed))?;
    let length = feed.offset() - from;
    if length > 0 {
        let text = format!("{length} bytes could not be read");
        go(visitor.finding(Finding::new(Level::Note, from, "", text)))?;
        let item = Item { offset: from, length, packaged: false, event: Event::Skipped };
        go(visitor.item(&item, nothing(DEFAULT_PAGE_SIZE)))?;
    }
    Ok(())
}

fn multifd(feed: &mut Feed, options: &OpenOptions, visitor: &mut dyn Visitor) -> Result<(), Stop> {
    let page_size = options.page_size.unwrap_or(DEFAULT_PAGE_SIZE);
    let mut channel = Channel::new(page_size);
    let context = nothing(page_size);
    loop {
        let Some((length, message)) = channel.step(feed.bytes())? else {
            let more = feed.more();
            if more.map_err(io(feed))? {
                continue;
            }
            return if feed.bytes().is_empty() {
                Ok(())
            } else {
                Err(truncated(feed, "inside a multifd packet"))
            };
        };
        let data_bytes = match &message {
            Message::Hello(_) => 0,
            Message::Packet(packet) => packet.data_bytes as usize,
            Message::DeviceState(state) => state.data_bytes as usize,
        };
        let offset = feed.offset();
        let event = Event::Multifd(&message);
        go(visitor.item(&Item { offset, length: length as u64, packaged: false, event }, context))?;
        feed.consume(length);
        if data_bytes > 0 {
            let filled = feed.fill(data_bytes);
            if !filled.map_err(io(feed))? {
                return Err(truncated(feed, "inside the data of a multifd packet"));
            }
            let (offset, event) = (feed.offset(), Event::MultifdData(&feed.bytes()[..data_bytes]));
            let length = data_bytes as u64;
            go(visitor.item(&Item { offset, length, packaged: false, event }, context))?;
            feed.consume(data_bytes);
        }
    }
}

fn return_path(feed: &mut Feed, visitor: &mut dyn Visitor) -> Result<(), Stop> {
    let context = nothing(DEFAULT_PAGE_SIZE);
    let mut bitmap_follows = false;
    loop {
        let offset = feed.offset();
        let taken = if bitmap_follows {
            received_bitmap(feed.bytes(), offset)?.map(|(length, bits)| {
                let event = Event::ReceivedBitmap(bits);
                (
                    length,
                    false,
                    visitor.item(&Item { offset, length: length as u64, packaged: false, event }, context),
                )
            })
        } else {
            return_path_message(feed.bytes(), offset)?.map(|(length, message)| {
                let follows = matches!(message, ReturnPathMessage::ReceivedBitmap(_));
                let event = Event::ReturnPath(&message);
                let item = Item { offset, length: length as u64, packaged: false, event };
                (length, follows, visitor.item(&item, context))
            })
        };
        if let Some((length, follows, flow)) = taken {
            go(flow)?;
            bitmap_follows = follows;
            feed.consume(length);
            continue;
        }
        let more = feed.more();
        if !more.map_err(io(feed))? {
            return if feed.bytes().is_empty() && !bitmap_follows {
                Ok(())
            } else {
                Err(truncated(feed, "inside a return path message"))
            };
        }
    }
}
