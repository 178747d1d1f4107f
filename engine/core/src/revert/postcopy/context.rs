//! What all of a postcopy works with.

use super::host_pages::HostPages;
use crate::pool::Pool;
use crate::revert::emit::Emitter;
use crate::revert::metadata::Image;
use crate::revert::output::Output;

/// The parts of a postcopy that looking up, reading and sending pages need at once.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) pages: &'a HostPages,
    pub(crate) emitter: &'a mut Emitter,
    pub(crate) image: &'a mut Image,
    pub(crate) output: &'a mut Output,
    pub(crate) pool: &'a mut Pool,
}
