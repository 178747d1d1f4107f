//! The walk over a stream, record by record: the only place that knows what may follow what.

mod builder;
mod pages;
mod sections;

use crate::configuration::Configuration;
use crate::early;
use crate::error::{Error, ErrorKind, Inside, name_text};
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::ram::block::RamBlock;
use crate::record::Record;
use crate::section::SectionId;
use crate::span::{Reject, Span};
use crate::width::to_usize;
use alloc::collections::BTreeMap;
pub use builder::{ChannelKind, DEFAULT_MAX_RAM_BYTES, DecoderBuilder, Options};

/// Length of a block that is not listed: a recovery connection and a preempt channel only name them.
pub const UNKNOWN_LENGTH: u64 = u64::MAX;
/// The longest vmdesc that is accepted; some MB are the most that was seen.
pub(crate) const VMDESC_LIMIT_BYTES: u32 = 16 << 20;

/// What a step brings.
#[derive(Debug)]
pub enum Step<'a> {
    /// A record, the first `len` bytes of the input.
    Record {
        /// Its length in bytes.
        len: usize,
        /// The record.
        record: Record<'a>,
    },
    /// More input is needed.
    Incomplete {
        /// At least this many bytes from the present offset on, more than there are.
        needed: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grammar {
    Ram,
    DirtyBitmap,
    Block,
    Htab,
    StorageAttributes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SectionType {
    Start,
    Part,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    MaybeConfiguration,
    TopLevel,
    Body { id: SectionId, grammar: Grammar, kind: SectionType, first: bool },
    Footer { id: SectionId },
    DeviceTail,
    AfterEof,
    AfterVmdesc,
}

#[derive(Debug)]
struct Known {
    idstr: Vec<u8>,
    grammar: Grammar,
}

/// Walks a stream.
///
/// Sans-IO: [`step`](Self::step) is given what has arrived, and either takes a record from its start or says
/// how much more it needs.
#[derive(Debug)]
pub struct Decoder {
    options: Options,
    state: State,
    offset: u64,
    sections: BTreeMap<SectionId, Known>,
    configuration: Option<Configuration>,
    page_size: PageSize,
    page_size_guessed: bool,
    footers: Option<bool>,
    blocks: Vec<RamBlock>,
    /// Numbers of the blocks in the order of their names.
    by_name: Vec<usize>,
    current_block: Option<usize>,
    advised: bool,
    packaged: bool,
    early: early::Search,
    early_behind: early::Search,
    /// The RAM section, and whether a PART or END of it has come.
    ram: Option<(SectionId, bool)>,
    early_devices: Option<(u64, Vec<u8>)>,
    mapped_ram: bool,
    /// Blocks are not listed; each is learned when it is named.
    learns_blocks: bool,
}

/// As [`Decoder::block_named`].
fn block_named(by_name: &[usize], blocks: &[RamBlock], name: &[u8]) -> Result<usize, usize> {
    by_name.binary_search_by(|&block| blocks[block].idstr.as_slice().cmp(name)).map(|at| by_name[at])
}

impl Decoder {
    /// A walk from the start of a stream.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::builder().options(options).build()
    }

    /// A walk that begins elsewhere, or over another channel.
    #[must_use]
    pub fn builder() -> DecoderBuilder {
        DecoderBuilder::default()
    }

    /// The block list of a mapped-ram file; the walk goes on at `offset`, behind the last page.
    pub fn mapped_blocks(&mut self, blocks: Vec<RamBlock>, offset: u64) {
        self.set_blocks(blocks);
        self.offset = offset;
    }

    fn set_blocks(&mut self, blocks: Vec<RamBlock>) {
        self.by_name = (0..blocks.len()).collect();
        self.by_name.sort_unstable_by_key(|&block| &blocks[block].idstr);
        self.blocks = blocks;
    }

    /// The number of a block; where it would be in `by_name` if there is none.
    fn block_named(&self, name: &[u8]) -> Result<usize, usize> {
        block_named(&self.by_name, &self.blocks, name)
    }

    /// Whether the page size is the default, or an option's: nothing in the stream has told it.
    #[must_use]
    pub fn page_size_is_guessed(&self) -> bool {
        self.page_size_guessed
    }

    /// Goes on with another page size, where the stream has not told it and no page has come yet.
    pub fn assume_page_size(&mut self, page_size: PageSize) {
        self.page_size = page_size;
    }

    /// Offset of the next record in the stream.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Target page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The block list; empty before it has come.
    #[must_use]
    pub fn blocks(&self) -> &[RamBlock] {
        &self.blocks
    }

    /// Whether sections have footers; `None` before the first one has ended.
    #[must_use]
    pub fn has_footers(&self) -> Option<bool> {
        self.footers
    }

    /// The configuration section, if the stream has one.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// The id of the RAM section, once its START has come.
    #[must_use]
    pub fn ram_section(&self) -> Option<SectionId> {
        self.ram.map(|(id, _)| id)
    }

    /// Device sections before the RAM section: their offset and bytes.
    #[must_use]
    pub fn early_devices(&self) -> Option<(u64, &[u8])> {
        self.early_devices.as_ref().map(|(offset, bytes)| (*offset, &bytes[..]))
    }

    /// Takes the next record from `input`, which begins at [`offset`](Self::offset).
    ///
    /// # Errors
    ///
    /// What is wrong, and where. The walk cannot go on after that.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Error> {
        let before = self.offset;
        if let Some(page) = self.plain_page(input) {
            return Ok(Step::Record { len: to_usize(self.offset - before), record: Record::Page(page) });
        }
        let span = Span::new(input, self.offset);
        match self.record(span) {
            Ok((rest, record)) => {
                let len = span.consumed(&rest);
                self.offset += len as u64;
                Ok(Step::Record { len, record })
            }
            Err(nom::Err::Incomplete(nom::Needed::Size(more))) => {
                Ok(Step::Incomplete { needed: input.len() + more.get() })
            }
            Err(nom::Err::Incomplete(nom::Needed::Unknown)) => {
                Ok(Step::Incomplete { needed: input.len() + 1 })
            }
            Err(nom::Err::Error(reject) | nom::Err::Failure(reject)) => Err(self.located(reject)),
        }
    }

    /// The end of the input, with `rest` bytes of it not understood: is the stream complete?
    ///
    /// # Errors
    ///
    /// `Truncated`, with what the stream ends in.
    pub fn finish(&self, rest: &[u8]) -> Result<(), Error> {
        let inside = match self.state {
            State::AfterEof | State::AfterVmdesc | State::DeviceTail if rest.is_empty() => return Ok(()),
            // A preempt channel ends with EOS up to 7.2, and just so since.
            State::Body { .. } | State::Footer { .. }
                if rest.is_empty() && self.learns_blocks && !self.packaged =>
            {
                return Ok(());
            }
            State::Header => Inside::FileHeader,
            State::MaybeConfiguration => Inside::Configuration,
            State::TopLevel if rest.is_empty() => Inside::NoEndMark,
            State::TopLevel => Inside::HeaderOrCommand,
            State::Body { .. } => Inside::SectionBody,
            State::Footer { .. } => Inside::SectionFooter,
            State::DeviceTail => Inside::DeviceSections,
            State::AfterEof | State::AfterVmdesc => Inside::Vmdesc,
        };
        let kind = ErrorKind::Truncated { inside };
        Err(Error { offset: self.offset + rest.len() as u64, path: self.path(), kind })
    }

    fn located(&self, reject: Reject) -> Error {
        Error { offset: reject.offset, path: self.path(), kind: *reject.kind }
    }

    fn path(&self) -> String {
        match self.state {
            State::Body { id, .. } | State::Footer { id } => {
                let idstr = self.sections.get(&id).map_or(&[][..], |known| &known.idstr);
                format!("section {} \"{}\"", id.0, name_text(idstr))
            }
            State::MaybeConfiguration => "configuration".to_owned(),
            _ => String::new(),
        }
    }
}
