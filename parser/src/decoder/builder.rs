//! What a walk begins with.

use super::{Decoder, Grammar, Known, SectionType, State};
use crate::early;
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::section::SectionId;
use alloc::collections::BTreeMap;

/// RAM beyond this is refused unless an option says otherwise: 16 TiB.
pub const DEFAULT_MAX_RAM_BYTES: u64 = 16 << 40;

/// What is known of a stream beforehand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Target page size, where the stream does not state it.
    pub page_size: Option<PageSize>,
    /// The most RAM that is accepted, in bytes.
    pub max_ram_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_size: None, max_ram_bytes: DEFAULT_MAX_RAM_BYTES }
    }
}

impl Options {
    /// The same with this page size for a stream that does not state it.
    #[must_use]
    pub fn with_page_size(mut self, page_size: impl Into<Option<PageSize>>) -> Self {
        self.page_size = page_size.into();
        self
    }

    /// The same with this limit on RAM, in bytes.
    #[must_use]
    pub fn with_max_ram_bytes(mut self, bytes: u64) -> Self {
        self.max_ram_bytes = bytes;
        self
    }
}

/// Which channel a walk reads, which decides what the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelKind {
    /// The main channel, or a file: a stream from its file header on.
    #[default]
    Main,
    /// The main channel of a connection that resumes an interrupted postcopy: no file header, no
    /// configuration, no START. The ids of its sections are those of the first connection, which are not
    /// known here: the first one that PART or END names is taken for `ram`. Blocks are learned from the
    /// commands that ask for their bitmaps; their lengths are not known
    /// ([`UNKNOWN_LENGTH`](super::UNKNOWN_LENGTH)).
    Recovery,
    /// A postcopy's preempt channel: page records without a section around them. Blocks are learned when they
    /// are named, as in [`Recovery`](Self::Recovery).
    Preempt,
}

/// Makes a [`Decoder`] that does not begin with the first byte of a plain stream.
#[derive(Debug, Clone, Default)]
pub struct DecoderBuilder {
    options: Options,
    channel: ChannelKind,
    offset: u64,
    mapped_ram: bool,
}

impl DecoderBuilder {
    /// What is known of the stream beforehand.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The channel that is read; [`ChannelKind::Main`] unless said otherwise.
    #[must_use]
    pub fn channel(mut self, channel: ChannelKind) -> Self {
        self.channel = channel;
        self
    }

    /// Where in the input the walk begins, for offsets in errors: what lies before it belongs to another
    /// program.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Accepts capability mapped-ram. Behind START of `ram` the caller reads the block list itself (it has
    /// holes: [`mapped`](crate::ram::mapped)) and gives it to [`Decoder::mapped_blocks`].
    #[must_use]
    pub fn accept_mapped_ram(mut self) -> Self {
        self.mapped_ram = true;
        self
    }

    /// The walk.
    #[must_use]
    pub fn build(self) -> Decoder {
        let (id, grammar) = (SectionId(0), Grammar::Ram);
        let mut sections = BTreeMap::new();
        let state = match self.channel {
            ChannelKind::Main => State::Header,
            ChannelKind::Recovery => State::TopLevel,
            ChannelKind::Preempt => {
                sections.insert(id, Known { idstr: b"preempt channel".to_vec(), grammar });
                State::Body { id, grammar, kind: SectionType::Part, first: true }
            }
        };
        Decoder {
            page_size: self.options.page_size.unwrap_or(PageSize::DEFAULT),
            page_size_guessed: true,
            options: self.options,
            state,
            offset: self.offset,
            sections,
            configuration: None,
            footers: None,
            blocks: Vec::new(),
            by_name: Vec::new(),
            current_block: None,
            advised: false,
            packaged: self.channel == ChannelKind::Recovery,
            early: early::Search::default(),
            early_behind: early::Search::default(),
            ram: None,
            early_devices: None,
            mapped_ram: self.mapped_ram,
            learns_blocks: self.channel != ChannelKind::Main,
        }
    }
}
