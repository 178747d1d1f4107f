//! Walks over an input, piece by piece, in constant memory; the only place that knows how the kinds
//! of input differ.

mod answers;
mod bitmap;
mod channel;
mod devices;
mod event;
mod feed;
mod join;
mod mapped;
mod state;
mod stream;
mod tail;
mod window;

pub(crate) use event::FirstError;
pub use event::{Border, Context, DeviceSection, Event, Finding, Flow, Item, Level, PacketPages, Visitor};
pub use feed::Progress;
pub(crate) use mapped::BLOCK_LIMIT as MAPPED_BLOCK_LIMIT;

use crate::error::Error;
use crate::input::{Kind, OpenOptions, Opened};
use crate::source::SourceError;
use feed::Feed;
use migration_stream::PageSize;
use std::ops::ControlFlow;

/// What stops a walk before its end.
pub(crate) enum Stop {
    /// The visitor wants no more.
    Visitor(Error),
    /// The input could not be read.
    Source(SourceError, u64),
    /// The input cannot be understood any further.
    Wrong(migration_stream::Error),
}

impl From<migration_stream::Error> for Stop {
    fn from(error: migration_stream::Error) -> Self {
        Self::Wrong(error)
    }
}

/// Says where a read failed.
fn io(feed: &Feed) -> impl FnOnce(SourceError) -> Stop {
    let offset = feed.offset() + feed.bytes().len() as u64;
    move |error| Stop::Source(error, offset)
}

/// Turns what a visitor says into a result.
fn go(flow: Flow) -> Result<(), Stop> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(Stop::Visitor(error)),
    }
}

/// Passes over all that is left behind an error, where there is no place at which reading could go on.
fn skip_rest(feed: &mut Feed, visitor: &mut dyn Visitor, context: Context<'_>) -> Result<(), Stop> {
    let from = feed.offset();
    let rest = feed.keep_last(0);
    rest.map_err(io(feed))?;
    let length = feed.offset() - from;
    if length == 0 {
        return Ok(());
    }
    let path = context.channel.map_or_else(String::new, |number| channel::path(Some(number)));
    let text = format!("{length} bytes could not be read");
    go(visitor.finding(Finding::new(Level::Note, from, &path, text)))?;
    go(visitor.item(&Item { offset: from, length, packaged: false, event: Event::Skipped }, context))
}

/// Walks over the whole input, and over its multifd channels where they belong.
///
/// # Errors
///
/// When the input cannot be read, or the visitor stops. What is wrong with the input goes to the
/// visitor as findings.
pub fn walk(
    opened: Opened,
    options: &OpenOptions,
    visitor: &mut dyn Visitor,
    progress: Option<Progress>,
) -> Result<(), Error> {
    let (name, kind) = (opened.name, opened.kind);
    let feed = Feed::new(opened.source, opened.start, progress);
    let channels = opened.channels.into_iter().map(|source| Feed::new(source, 0, None)).collect();
    let page_size = options.page_size.unwrap_or(PageSize::DEFAULT).bytes();
    let alone = Context { blocks: &[], page_size, configuration: None, channel: None };
    if opened.leaves_zeros_out {
        let item = Item { offset: opened.start, length: 0, packaged: false, event: Event::ZerosLeftOut };
        if let ControlFlow::Break(error) = visitor.item(&item, alone) {
            return Err(error);
        }
    }
    let result = match kind {
        Kind::Multifd => channel::walk(feed, visitor, alone),
        Kind::ReturnPath => answers::walk(feed, visitor, alone),
        _ => stream::walk(feed, channels, kind, options, visitor),
    };
    match result {
        Ok(()) => Ok(()),
        Err(Stop::Visitor(error)) => Err(error),
        // What the engine says of a damaged image is about the image, not about reading it.
        Err(Stop::Source(error, _)) if error.is_wrong_input() => {
            let finding =
                Finding::new(Level::Error, None, "image", error.to_string()).advised(error.advice());
            match visitor.finding(finding) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(error) => Err(error),
            }
        }
        Err(Stop::Source(error, offset)) => {
            Err(Error::Io { what: format!("{name}: offset {offset:#x}"), source: error.into() })
        }
        Err(Stop::Wrong(error)) => match visitor.finding(error.into()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        },
    }
}
