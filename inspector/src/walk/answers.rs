//! The return path: what the destination answered.

use super::event::{Context, Event, Item, Visitor};
use super::feed::Feed;
use super::{Stop, go, io};
use migration_stream::return_path::{ReturnPathMessage, received_bitmap, return_path_message};
use migration_stream::{Error, ErrorKind, Inside};

/// Walks the return path. Behind an error there is no place where reading could go on.
pub(super) fn walk(mut feed: Feed, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
    let Err(stop) = messages(&mut feed, visitor, context) else { return Ok(()) };
    let Stop::Wrong(error) = stop else { return Err(stop) };
    go(visitor.finding(error.into()))?;
    super::skip_rest(&mut feed, visitor, context)
}

fn messages(feed: &mut Feed, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
    let mut bitmap_follows = false;
    loop {
        let offset = feed.offset();
        let taken = if bitmap_follows {
            received_bitmap(feed.bytes(), offset)?.map(|(length, bits)| {
                let event = Event::ReceivedBitmap(bits);
                let item = Item { offset, length: length as u64, packaged: false, event };
                (length, false, visitor.item(&item, context))
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
            if feed.bytes().is_empty() && !bitmap_follows {
                return Ok(());
            }
            let offset = feed.offset() + feed.bytes().len() as u64;
            let kind = ErrorKind::Truncated { inside: Inside::ReturnPathMessage };
            return Err(Error { offset, path: String::new(), kind }.into());
        }
    }
}
