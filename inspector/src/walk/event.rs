//! What a walk comes across.

use migration_stream::device::State;
use migration_stream::ram::mapped::MappedBlock;
use migration_stream::ram::multifd;
use migration_stream::return_path::ReturnPathMessage;
use migration_stream::{Configuration, RamBlock, Record, SectionHeader};
use std::ops::ControlFlow;

/// A piece of the input, and what it is.
#[derive(Debug)]
pub struct Item<'a> {
    /// Where it begins in the unpacked input.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// It stands inside of a package.
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
    /// The bitmap of the pages of a mapped block that are there.
    MappedBitmap {
        /// Index in the block list.
        block: usize,
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
    /// The data of a multifd packet.
    MultifdData(&'a [u8]),
    /// A message on the return path.
    ReturnPath(&'a ReturnPathMessage<'a>),
    /// The bitmap behind RECV_BITMAP.
    ReceivedBitmap(&'a [u8]),
    /// What could not be understood, and why.
    Opaque(&'a [u8], &'static str),
    /// What was passed over behind damage.
    Skipped,
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
}

impl Finding {
    /// A finding.
    pub fn new(level: Level, offset: impl Into<Option<u64>>, path: &str, text: impl Into<String>) -> Self {
        Self { level, offset: offset.into(), path: path.to_owned(), text: text.into() }
    }
}

impl From<migration_stream::Error> for Finding {
    fn from(error: migration_stream::Error) -> Self {
        Self {
            level: Level::Error,
            offset: Some(error.offset),
            path: error.path,
            text: error.kind.to_string(),
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
