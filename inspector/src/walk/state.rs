//! What a walk over a stream has at hand, whichever part of the stream it is in.

use super::bitmap::Written;
use super::event::{Context, Visitor};
use super::feed::Feed;
use super::join::Join;
use migration_stream::Decoder;
use migration_stream::device::Vmdesc;

/// What a walk over a stream has at hand.
pub(super) struct StreamWalk<'a> {
    pub(super) feed: Feed,
    pub(super) decoder: Decoder,
    pub(super) visitor: &'a mut dyn Visitor,
    /// What the end of a file says of its devices, where it could be read beforehand.
    pub(super) description: Option<Vmdesc>,
    /// Device sections that came before RAM.
    pub(super) early: usize,
    /// The page size is not known, and no page has come yet.
    pub(super) guesses: bool,
    /// Its multifd channels, if they are there.
    pub(super) join: Option<Join>,
    /// What of the bitmaps of a mapped-ram file was written.
    pub(super) mapped: Written,
    /// Pages of a mapped-ram file without bitmaps are taken from their places.
    pub(super) salvage: bool,
}

pub(super) fn context(decoder: &Decoder) -> Context<'_> {
    Context {
        blocks: decoder.blocks(),
        page_size: decoder.page_size().bytes(),
        configuration: decoder.configuration(),
        channel: None,
    }
}
