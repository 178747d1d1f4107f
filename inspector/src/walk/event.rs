//! What a walk comes across.

use crate::advice::Advice;
use migration_stream::device::State;
use migration_stream::ram::mapped::MappedBlock;
use migration_stream::ram::multifd;
use migration_stream::return_path::ReturnPathMessage;
use migration_stream::{Configuration, Page, PageContent, RamBlock, Record, SectionHeader};
use std::fmt;
use std::ops::ControlFlow;

/// A piece of the input, and what it is.
#[derive(Debug)]
pub struct Item<'a> {
    /// Where it begins in the unpacked input.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// It is inside of a package.
    pub packaged: bool,
    /// What it is.
    pub event: Event<'a>,
}

/// What a piece is.
#[derive(Debug)]
pub enum Event<'a> {
    /// A record of the stream. A package comes as its header alone: what is in it follows piece by piece.
    Record(Record<'a>),
    /// A device section without its footer.
    Device(DeviceSection<'a>),
    /// The start of the block list of a mapped-ram file: bytes of all blocks.
    MappedList(u64),
    /// A block's entry in the list of a mapped-ram file.
    MappedBlock(&'a MappedBlock),
    /// The bitmap of the pages of a mapped block that are there, or a part of it: a long one
    /// arrives in parts of 1 MiB.
    MappedBitmap {
        /// Index in the block list.
        block: usize,
        /// Number of the page that the first bit is for.
        first_page: u64,
        /// One bit per page.
        bits: &'a [u8],
    },
    /// Room for pages that are not there: they are zero, whatever the bytes are.
    MappedRoom {
        /// Index in the block list; none: the room between two.
        block: Option<usize>,
        /// Byte offset in the block of the first page.
        offset: u64,
    },
    /// A header of a multifd channel.
    Multifd(&'a multifd::Message<'a>),
    /// The pages of the multifd packet before, if it has any.
    MultifdPages(PacketPages<'a>),
    /// The state of a device on a multifd channel.
    MultifdData(&'a [u8]),
    /// A message on the return path.
    ReturnPath(&'a ReturnPathMessage<'a>),
    /// The bitmap behind RECV_BITMAP.
    ReceivedBitmap(&'a [u8]),
    /// What could not be understood, and why.
    Opaque(&'a [u8], &'static str),
    /// What was passed over behind damage.
    Skipped,
    /// The input is an image: it holds all RAM, and a page that does not arrive is zero. It has no bytes.
    ZerosLeftOut,
}

/// The pages of a multifd packet.
#[derive(Debug, Clone, Copy)]
pub struct PacketPages<'a> {
    /// Name of their block.
    pub name: &'a [u8],
    /// Its index in the block list, where the main stream is there and has it.
    pub block: Option<usize>,
    /// Byte offsets of the pages with content.
    pub normal: &'a [u64],
    /// Byte offsets of zero pages.
    pub zero: &'a [u64],
    /// What is on the channel.
    pub data: &'a [u8],
    /// The pages with content, one after the other; none where they could not be unpacked.
    pub unpacked: Option<&'a [u8]>,
}

impl<'a> PacketPages<'a> {
    /// The pages as records of the main stream, if they have their place there.
    pub fn records(&self, page_size: u32) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let placed = self.block.zip(self.unpacked);
        let (normal, zero) = (self.normal, self.zero);
        placed.into_iter().flat_map(move |(block, unpacked)| {
            let pages = unpacked.chunks_exact(page_size as usize).zip(normal);
            let page = move |offset, content| Record::Page(Page { block, offset, named: false, content });
            let pages = pages.map(move |(data, &offset)| page(offset, PageContent::Raw(data)));
            pages.chain(zero.iter().map(move |&offset| page(offset, PageContent::Zero)))
        })
    }
}

/// How the end of a device section was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Border {
    /// Where the vmdesc has it.
    Described,
    /// By the next section's header, where the vmdesc is known to be inexact.
    NextSection,
    /// By its footer alone: there is no vmdesc.
    Footer,
}

/// A device section.
#[derive(Debug, Clone, Copy)]
pub struct DeviceSection<'a> {
    /// Its header.
    pub header: SectionHeader<'a>,
    /// Bytes of type byte and header.
    pub header_bytes: usize,
    /// Its state.
    pub body: &'a [u8],
    /// What it consists of, where that is known.
    pub description: Option<&'a State>,
    /// How its end was found.
    pub border: Border,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing.
    Note,
    /// It may go wrong.
    Warning,
    /// It is wrong.
    Error,
}

impl Level {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that is worth knowing, or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Where in the unpacked input.
    pub offset: Option<u64>,
    /// Inside of what.
    pub path: String,
    /// What it is. Names in it are escaped for a terminal.
    pub text: String,
    /// What can be done about it, where that is known.
    pub advice: Option<Advice>,
}

impl Finding {
    /// A finding.
    pub fn new(level: Level, offset: impl Into<Option<u64>>, path: &str, text: impl Into<String>) -> Self {
        Self { level, offset: offset.into(), path: path.to_owned(), text: text.into(), advice: None }
    }

    /// The same finding, with what can be done about it.
    #[must_use]
    pub fn advised(self, advice: Option<Advice>) -> Self {
        Self { advice, ..self }
    }
}

/// As words, without its level: `offset 0x10: PATH: TEXT`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(offset) = self.offset {
            write!(f, "offset {offset:#x}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

impl From<migration_stream::Error> for Finding {
    fn from(error: migration_stream::Error) -> Self {
        Self {
            level: Level::Error,
            offset: Some(error.offset),
            path: error.path,
            text: error.kind.to_string(),
            advice: Advice::of_stream(&error.kind),
        }
    }
}

/// What is known of the stream so far.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The block list.
    pub blocks: &'a [RamBlock],
    /// Target page size in bytes.
    pub page_size: u32,
    /// The configuration section.
    pub configuration: Option<&'a Configuration>,
    /// The piece is on this channel beside the main stream, counted as they were given; so its
    /// offset is one there.
    pub channel: Option<usize>,
}

/// The first error of a walk: what a destination would refuse has no contents.
#[derive(Debug, Default)]
pub(crate) struct FirstError(Option<Finding>);

impl FirstError {
    /// Keeps a finding, if it is the first error.
    pub(crate) fn take(&mut self, finding: Finding) -> Flow {
        if finding.level == Level::Error {
            self.0.get_or_insert(finding);
        }
        ControlFlow::Continue(())
    }

    /// # Errors
    ///
    /// The error, of the input with this name.
    pub(crate) fn into_result(self, name: &str) -> Result<(), crate::Error> {
        match self.0 {
            Some(finding) => Err(crate::Error::Wrong(format!("{name}: {finding}")).advised(finding.advice)),
            None => Ok(()),
        }
    }
}

/// Whether the walk goes on.
pub type Flow = ControlFlow<crate::Error>;

/// Takes what a walk comes across.
pub trait Visitor {
    /// The next piece; pieces leave no byte out.
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow;

    /// Something is worth knowing, or wrong. The walk goes on where it can.
    fn finding(&mut self, finding: Finding) -> Flow;
}
