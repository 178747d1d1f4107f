//! Walks over an input, piece by piece, in constant memory; the only place that knows how the kinds of input differ.

mod channel;
mod event;
mod feed;
mod mapped;
mod stream;
mod tail;
mod window;

pub use event::{Border, Context, DeviceSection, Event, Finding, Flow, Item, Level, Visitor};
pub use feed::Progress;

use crate::error::Error;
use crate::input::{Kind, OpenOptions, Opened};
use feed::Feed;
use std::ops::ControlFlow;

/// What stops a walk before its end.
pub(crate) enum Stop {
    /// The visitor wants no more.
    Visitor(Error),
    /// The input could not be read.
    Io(std::io::Error, u64),
    /// The input cannot be understood any further.
    Wrong(migration_stream::Error),
}

impl From<migration_stream::Error> for Stop {
    fn from(error: migration_stream::Error) -> Self {
        Self::Wrong(error)
    }
}

/// Turns what a visitor says into a result.
fn go(flow: Flow) -> Result<(), Stop> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(Stop::Visitor(error)),
    }
}

/// Walks over the whole input.
///
/// # Errors
///
/// When the input cannot be read, or the visitor stops. What is wrong with the input goes to the visitor as findings.
pub fn walk(
    opened: Opened,
    options: &OpenOptions,
    visitor: &mut dyn Visitor,
    progress: Option<Progress>,
) -> Result<(), Error> {
    let (name, kind, image) = (opened.name, opened.kind, opened.image.is_some());
    let mut feed = Feed::new(opened.source, opened.start, progress);
    let result = match kind {
        Kind::Multifd | Kind::ReturnPath => channel::walk(&mut feed, kind, options, visitor),
        _ => stream::walk(&mut feed, kind, options, visitor),
    };
    match result {
        Ok(()) => Ok(()),
        Err(Stop::Visitor(error)) => Err(error),
        // What the engine says of a damaged image is about the image, not about reading it.
        Err(Stop::Io(error, _)) if image && error.kind() == std::io::ErrorKind::Other => {
            let finding = Finding::new(Level::Error, None, "image", error.to_string());
            match visitor.finding(finding) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(error) => Err(error),
            }
        }
        Err(Stop::Io(error, offset)) => Err(Error::Io { what: format!("{name}: offset {offset:#x}"), error }),
        Err(Stop::Wrong(error)) => match visitor.finding(error.into()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        },
    }
}
