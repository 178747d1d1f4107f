//! What can be wrong with a stream, and where.

use crate::prelude::*;
use core::fmt;

mod parts;

pub use parts::{EarlyDevicesError, Inside, TailError};

/// Names are untrusted: bytes that are not printable ASCII are escaped.
#[must_use]
pub fn name_text(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

/// Something in a stream that cannot be read: where it is, inside what, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Offset of the wrong field in the stream, in bytes.
    pub offset: u64,
    /// What it is part of: `section 2 "ram" > page record`; empty at the top level.
    pub path: String,
    /// What is wrong.
    pub kind: ErrorKind,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {:#x}: ", self.offset)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.kind)
    }
}

impl core::error::Error for Error {}

impl ErrorKind {
    /// Whether this can be wrong only because of the page size, which the stream does not state: with another
    /// one the same bytes may be right.
    #[must_use]
    pub fn may_be_of_page_size(&self) -> bool {
        match self {
            Self::SectionType { found, page_size_guessed } => {
                *page_size_guessed && section_type_hint(*found).is_empty()
            }
            Self::PageFlags { page_size_guessed, .. } | Self::BlockLength { page_size_guessed, .. } => {
                *page_size_guessed
            }
            _ => false,
        }
    }

    /// Whether the stream has more RAM than [`Options::max_ram_bytes`](crate::Options::max_ram_bytes).
    #[must_use]
    pub fn is_ram_limit(&self) -> bool {
        matches!(self, Self::Limit { what: RAM_SIZE, .. })
    }
}

/// What [`ErrorKind::Limit`] calls the size of all RAM blocks.
pub(crate) const RAM_SIZE: &str = "RAM size";

/// What is wrong; the numbers are what was found, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file header's magic.
    #[error("not a migration stream: magic {found:#010x}{}, expected 0x5145564d", what_it_is(*.found))]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// The file header's version.
    #[error("stream version {found}{}, expected 3", if *.found == 2 { " (obsolete v2 format)" } else { "" })]
    Version {
        /// The second four bytes.
        found: u32,
    },
    /// The input ended inside of something.
    #[error("truncated: the stream ends {}", .inside)]
    Truncated {
        /// Inside of what.
        inside: Inside,
    },
    /// A byte that begins no section here.
    #[error("unknown section type {found:#04x}{}", section_type_hint(*.found))]
    SectionType {
        /// The byte.
        found: u8,
        /// The stream does not state the page size.
        page_size_guessed: bool,
    },
    /// A length or a count beyond its limit.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// Which one.
        what: &'static str,
        /// What the stream says.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// An empty name.
    #[error("{what} of length 0")]
    EmptyName {
        /// Whose.
        what: &'static str,
    },
    /// An unknown subsection of the configuration.
    #[error("unknown configuration subsection \"{}\"", name_text(.name))]
    ConfigurationSubsection {
        /// Its name.
        name: Vec<u8>,
    },
    /// A value that the field cannot have.
    #[error("{what} {found:#x}, expected {expected}")]
    Value {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it can be.
        expected: &'static str,
    },
    /// A section id without START.
    #[error("section id {found} was not started")]
    UnknownSection {
        /// The id.
        found: u32,
    },
    /// A section id that is started twice.
    #[error("section id {found} is started again, first as \"{}\"", name_text(.first))]
    SectionTwice {
        /// The id.
        found: u32,
        /// The idstr of its first START.
        first: Vec<u8>,
    },
    /// An iterable whose grammar is not known; it has no length, so nothing behind it can be read.
    #[error("section \"{}\" version {version} has a body of unknown grammar", name_text(.idstr))]
    UnknownIterable {
        /// Its idstr.
        idstr: Vec<u8>,
        /// Its version.
        version: u32,
    },
    /// A footer's mark.
    #[error("section footer mark {found:#04x}, expected 0x7e (send-section-footer)")]
    FooterMark {
        /// The byte.
        found: u8,
    },
    /// A footer's id.
    #[error("section footer id {found}, expected {expected} (send-section-footer)")]
    FooterId {
        /// The id.
        found: u32,
        /// The section's.
        expected: u32,
    },
    /// A flag word of a RAM record.
    #[error("page flags {flags:#x} unknown{}", page_size_hint(*.page_size, *.page_size_guessed))]
    PageFlags {
        /// The flags.
        flags: u64,
        /// The page size that was used, in bytes.
        page_size: u32,
        /// The stream does not state the page size.
        page_size_guessed: bool,
    },
    /// CONTINUE before any block was named.
    #[error("page flag CONTINUE before any block was named")]
    ContinueFirst,
    /// A page before the block list.
    #[error("page before the block list")]
    PageBeforeBlocks,
    /// A second block list.
    #[error("second block list")]
    SecondBlockList,
    /// A block that is not in the list.
    #[error("unknown ram block \"{}\"", name_text(.name))]
    UnknownBlock {
        /// Its name.
        name: Vec<u8>,
    },
    /// A block that is listed twice.
    #[error("ram block \"{}\" listed twice", name_text(.name))]
    BlockTwice {
        /// Its name.
        name: Vec<u8>,
    },
    /// A block's length.
    #[error(
        "ram block \"{}\" used length {found} bytes, {why}{}",
        name_text(.name),
        page_size_hint(*.page_size, *.page_size_guessed)
    )]
    BlockLength {
        /// Its name.
        name: Vec<u8>,
        /// The length, in bytes.
        found: u64,
        /// What is wrong with it.
        why: &'static str,
        /// The page size that was used, in bytes.
        page_size: u32,
        /// The stream does not state the page size.
        page_size_guessed: bool,
    },
    /// A page outside its block.
    #[error("ram block \"{}\" page offset {found:#x}, the block has {length:#x} bytes", name_text(.name))]
    PageOutside {
        /// The block's name.
        name: Vec<u8>,
        /// The page's offset in it.
        found: u64,
        /// The block's length.
        length: u64,
    },
    /// A zero page's fill byte.
    #[error("zero page with fill byte {found:#04x}, expected 0x00")]
    ZeroFill {
        /// The byte.
        found: u8,
    },
    /// An XBZRLE delta.
    #[error("XBZRLE delta: {0}")]
    Xbzrle(&'static str),
    /// A compressed page.
    #[error("compressed page: {0}")]
    Compressed(&'static str),
    /// A capability with which the stream cannot be read from a channel.
    #[error(
        "capability mapped-ram: RAM lies in a file with holes, not in this stream; it cannot be read from a channel"
    )]
    MappedRam,
    /// The header of a block in a mapped-ram file.
    #[error("mapped-ram block \"{}\": {what} {found:#x}, expected {expected}", name_text(.name))]
    MappedBlock {
        /// The block's name.
        name: Vec<u8>,
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it can be.
        expected: &'static str,
    },
    /// A multifd channel.
    #[error("multifd {what} {found:#x}, expected {expected}")]
    Multifd {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it can be.
        expected: &'static str,
    },
    /// An unknown command.
    #[error("unknown command {found}")]
    Command {
        /// Its number.
        found: u16,
    },
    /// A command's length.
    #[error("command {command} with length {found}, expected {expected}")]
    CommandLength {
        /// The command.
        command: &'static str,
        /// Its length.
        found: u16,
        /// What it can be.
        expected: &'static str,
    },
    /// A dirty-bitmap chunk.
    #[error("dirty-bitmap chunk: {0}")]
    DirtyBitmap(&'static str),
    /// A message on the return path.
    #[error("return path message type {found} of length {length}")]
    ReturnPath {
        /// Its type.
        found: u16,
        /// Its length.
        length: u16,
    },
    /// Device sections, EOF and vmdesc do not fit each other.
    #[error("{0}")]
    Tail(TailError),
    /// Bytes behind the end; how many there are is not known, for a pipe may go on.
    #[error("bytes behind the end of the stream")]
    TrailingBytes,
    /// Early device sections without a RAM section that can be told from their bytes.
    #[error("{0}")]
    EarlyDevices(EarlyDevicesError),
    /// A basic field could not be read.
    #[error("malformed field")]
    Malformed,
}

fn what_it_is(magic: u32) -> &'static str {
    match magic.to_be_bytes() {
        [0x1f, 0x8b, ..] => " (gzip)",
        [0x28, 0xb5, 0x2f, 0xfd] => " (zstd)",
        [0xfd, b'7', b'z', b'X'] => " (xz)",
        [b'B', b'Z', b'h', _] => " (bzip2)",
        [b'L', b'i', b'b', b'v'] => " (a libvirt save file: the stream is behind its header)",
        [b'Q', b'F', b'I', 0xfb] => " (a qcow2 image)",
        [0x11, 0x22, 0x33, 0x44] => " (a multifd channel)",
        _ => "",
    }
}

fn section_type_hint(found: u8) -> &'static str {
    match found {
        0x7e => ": a footer without a section",
        0x05..=0x07 => ": not allowed here",
        _ => "",
    }
}

fn page_size_hint(page_size: u32, guessed: bool) -> String {
    if guessed { format!("; page size {page_size} was assumed") } else { String::new() }
}
