//! The walk over a stream, record by record: the only place that knows what may follow what.

use crate::command::{Command, command};
use crate::configuration::{Configuration, QEMU_VM_CONFIGURATION, configuration, file_header};
use crate::dirty_bitmap::{ChunkKind, dirty_bitmap_chunk};
use crate::early;
use crate::error::{Error, ErrorKind, name_text};
use crate::iterable::{
    BlockMigration, Htab, StorageAttributes, block_migration, htab_entries, htab_header, storage_attributes,
};
use crate::ram::block::{BlockListContext, RamBlock, block_list};
use crate::ram::{
    ENCODING_FLAG_XBZRLE, RAM_SAVE_FLAG_COMPRESS_PAGE, RAM_SAVE_FLAG_CONTINUE, RAM_SAVE_FLAG_EOS,
    RAM_SAVE_FLAG_MEM_SIZE, RAM_SAVE_FLAG_MULTIFD_FLUSH, RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_XBZRLE,
    RAM_SAVE_FLAG_ZERO, RAM_SECTION_VERSION, compressed,
};
use crate::record::Record;
use crate::section::{
    QEMU_VM_COMMAND, QEMU_VM_EOF, QEMU_VM_SECTION_END, QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART, QEMU_VM_SECTION_START, QEMU_VM_VMDESCRIPTION, SectionId, section_footer,
    section_header, str8,
};
use crate::span::{Parsed, Reject, Span, take};
use nom::Parser;
use nom::number::streaming::{be_u8, be_u16, be_u32, be_u64};
use std::collections::HashMap;

/// The page size that is assumed where neither the stream nor an option tells it.
pub const DEFAULT_PAGE_SIZE: u32 = 4096;
/// RAM beyond this is refused unless an option says otherwise: 16 TiB.
pub const DEFAULT_MAX_RAM_BYTES: u64 = 16 << 40;
/// Length of a block that is not listed: a recovery connection and a preempt channel only name them.
pub const UNKNOWN_LENGTH: u64 = u64::MAX;
/// The most blocks that are learned from their names.
const LEARNED_LIMIT: usize = 1 << 16;
/// The longest vmdesc that is accepted; some MB are the most that was seen.
pub(crate) const VMDESC_LIMIT_BYTES: u32 = 16 << 20;

/// What is known of a stream beforehand.
#[derive(Debug, Clone)]
pub struct Options {
    /// Target page size in bytes, a power of two from 1 KiB to 64 KiB, where the stream does not tell it.
    pub page_size: Option<u32>,
    /// The most RAM that is accepted, in bytes.
    pub max_ram_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { page_size: None, max_ram_bytes: DEFAULT_MAX_RAM_BYTES }
    }
}

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
/// Sans-IO: [`step`](Self::step) is given what has arrived, and either takes a record from its start or says how much
/// more it needs.
#[derive(Debug)]
pub struct Decoder {
    options: Options,
    state: State,
    offset: u64,
    sections: HashMap<SectionId, Known>,
    configuration: Option<Configuration>,
    page_size: u32,
    page_size_guessed: bool,
    footers: Option<bool>,
    blocks: Vec<RamBlock>,
    by_name: HashMap<Vec<u8>, usize>,
    current_block: Option<usize>,
    advised: bool,
    packaged: bool,
    early: early::Search,
    early_devices: Option<(u64, Vec<u8>)>,
    eof: bool,
    mapped_ram: bool,
    /// Blocks are not listed; each is learned when it is named.
    learns_blocks: bool,
}

impl Decoder {
    /// A walk from the start of a stream.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            page_size: options.page_size.unwrap_or(DEFAULT_PAGE_SIZE),
            page_size_guessed: true,
            options,
            state: State::Header,
            offset: 0,
            sections: HashMap::new(),
            configuration: None,
            footers: None,
            blocks: Vec::new(),
            by_name: HashMap::new(),
            current_block: None,
            advised: false,
            packaged: false,
            early: early::Search::default(),
            early_devices: None,
            eof: false,
            mapped_ram: false,
            learns_blocks: false,
        }
    }

    /// A walk from the start of a connection that resumes an interrupted postcopy: no file header, no configuration, no
    /// START. The ids of its sections are those of the first connection, which are not known here: the first one that
    /// PART or END names is taken for `ram`. Blocks are learned from the commands that ask for their bitmaps; their
    /// lengths are not known ([`UNKNOWN_LENGTH`]).
    #[must_use]
    pub fn recovery(options: Options) -> Self {
        Self { state: State::TopLevel, learns_blocks: true, packaged: true, ..Self::new(options) }
    }

    /// A walk over a postcopy's preempt channel: bare page records, without a section around them. Blocks are learned
    /// when they are named, as in [`recovery`](Self::recovery).
    #[must_use]
    pub fn preempt(options: Options) -> Self {
        let (id, grammar, kind) = (SectionId(0), Grammar::Ram, SectionType::Part);
        let mut sections = HashMap::new();
        sections.insert(id, Known { idstr: b"preempt channel".to_vec(), grammar });
        let state = State::Body { id, grammar, kind, first: true };
        Self { state, sections, learns_blocks: true, ..Self::new(options) }
    }

    /// Accepts capability mapped-ram. Behind START of `ram` the caller reads the block list itself (it has holes:
    /// [`mapped`](crate::ram::mapped)) and gives it to [`mapped_blocks`](Self::mapped_blocks).
    #[must_use]
    pub fn accept_mapped_ram(mut self) -> Self {
        self.mapped_ram = true;
        self
    }

    /// The block list of a mapped-ram file; the walk goes on at `offset`, behind the last page.
    pub fn mapped_blocks(&mut self, blocks: Vec<RamBlock>, offset: u64) {
        self.by_name = blocks.iter().enumerate().map(|(at, block)| (block.idstr.clone(), at)).collect();
        self.blocks = blocks;
        self.offset = offset;
    }

    /// Lets the walk begin at this offset instead of 0: what stands before it is somebody else's.
    #[must_use]
    pub fn starting_at(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Offset of the next record in the stream.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Target page size in bytes.
    #[must_use]
    pub fn page_size(&self) -> u32 {
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
        if let State::Body { grammar: Grammar::Ram, .. } = self.state
            && let Some(step) = self.plain_page(input)
        {
            return Ok(step);
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

    /// The record that a stream consists of: a page of the same block as before. Everything else, and everything
    /// wrong, is left to the general way.
    #[inline]
    fn plain_page<'a>(&mut self, input: &'a [u8]) -> Option<Step<'a>> {
        let (word, rest) = input.split_first_chunk::<8>()?;
        let word = u64::from_be_bytes(*word);
        let mask = u64::from(self.page_size) - 1;
        if word & mask != RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE {
            return None;
        }
        let block = self.current_block?;
        let offset = word & !mask;
        if offset >= self.blocks[block].used_length {
            return None;
        }
        let data = rest.get(..self.page_size as usize)?;
        let len = 8 + data.len();
        self.offset += len as u64;
        Some(Step::Record { len, record: Record::RamPage { block, offset, named: false, data } })
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
            State::Body { .. } if rest.is_empty() && self.learns_blocks && !self.packaged => return Ok(()),
            State::Footer { .. } if rest.is_empty() && self.learns_blocks && !self.packaged => return Ok(()),
            State::Header => "inside the file header",
            State::MaybeConfiguration => "inside the configuration section",
            State::TopLevel if rest.is_empty() => "without an end mark",
            State::TopLevel => "inside a section header or command",
            State::Body { .. } => "inside a section body",
            State::Footer { .. } => "inside a section footer",
            State::DeviceTail => "inside the device sections",
            State::AfterEof | State::AfterVmdesc => "inside the vmdesc",
        };
        let kind = ErrorKind::Truncated { inside: inside.to_owned() };
        Err(Error { offset: self.offset + rest.len() as u64, path: self.path(), kind })
    }

    /// An error of a page's content, found by whoever decodes it.
    #[must_use]
    pub fn page_error(&self, offset: u64, kind: ErrorKind) -> Error {
        Error { offset, path: self.path(), kind }
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

    fn record<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
        match self.state {
            State::Header => {
                let (rest, ()) = file_header(input)?;
                self.state = State::MaybeConfiguration;
                Ok((rest, Record::FileHeader))
            }
            State::MaybeConfiguration => {
                let (_, mark) = be_u8.parse(input)?;
                if mark != QEMU_VM_CONFIGURATION {
                    self.state = State::TopLevel;
                    return self.top_level(input);
                }
                let (rest, configuration) = configuration(input)?;
                if let Some(bits) = configuration.target_page_bits {
                    self.page_size = 1 << bits;
                    self.page_size_guessed = false;
                }
                self.configuration = Some(configuration.clone());
                self.state = State::TopLevel;
                Ok((rest, Record::Configuration(configuration)))
            }
            State::TopLevel => self.top_level(input),
            State::Body { id, grammar, kind, first } => self.body(input, id, grammar, kind, first),
            State::Footer { id } => self.footer(input, id),
            State::DeviceTail => Err(nom::Err::Incomplete(nom::Needed::Unknown)),
            State::AfterEof => {
                let (at_length, mark) = be_u8.parse(input)?;
                if mark != QEMU_VM_VMDESCRIPTION {
                    return Err(input.reject(ErrorKind::TrailingBytes));
                }
                let (rest, length) = be_u32.parse(at_length)?;
                if length > VMDESC_LIMIT_BYTES {
                    let (found, limit) = (u64::from(length), u64::from(VMDESC_LIMIT_BYTES));
                    return Err(at_length.reject(ErrorKind::Limit { what: "vmdesc length", found, limit }));
                }
                let (rest, json) = take(rest, length as usize)?;
                self.state = State::AfterVmdesc;
                Ok((rest, Record::VmDescription(json)))
            }
            State::AfterVmdesc if input.bytes.is_empty() => Err(nom::Err::Incomplete(nom::Needed::Unknown)),
            State::AfterVmdesc => Err(input.reject(ErrorKind::TrailingBytes)),
        }
    }

    fn top_level<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
        let (rest, section_type) = be_u8.parse(input)?;
        // After the package of a postcopy no device section follows, so there EOF is an ordinary record.
        let tail_may_begin = !self.blocks.is_empty() && !self.packaged;
        match section_type {
            QEMU_VM_EOF | QEMU_VM_SECTION_FULL if tail_may_begin => {
                self.state = State::DeviceTail;
                Ok((input, Record::DeviceTail))
            }
            QEMU_VM_EOF => {
                self.eof = true;
                self.state = State::AfterEof;
                Ok((rest, Record::Eof))
            }
            QEMU_VM_SECTION_FULL => self.early(input),
            QEMU_VM_SECTION_START => self.start(rest),
            QEMU_VM_SECTION_PART | QEMU_VM_SECTION_END => {
                let (after, id) = be_u32.parse(rest)?;
                let id = SectionId(id);
                if self.learns_blocks && self.sections.is_empty() {
                    self.sections.insert(id, Known { idstr: b"ram".to_vec(), grammar: Grammar::Ram });
                }
                let Some(known) = self.sections.get(&id) else {
                    return Err(rest.reject(ErrorKind::UnknownSection { found: id.0 }));
                };
                let part = section_type == QEMU_VM_SECTION_PART;
                let kind = if part { SectionType::Part } else { SectionType::End };
                self.state = State::Body { id, grammar: known.grammar, kind, first: true };
                Ok((after, if part { Record::SectionPart(id) } else { Record::SectionEnd(id) }))
            }
            QEMU_VM_COMMAND => {
                let (rest, command) = command(input)?;
                match &command {
                    Command::PostcopyAdvise(Some(_)) => self.advised = true,
                    Command::Packaged(_) => self.packaged = true,
                    Command::RecvBitmap(name) if self.learns_blocks => {
                        self.learn_block(name);
                    }
                    _ => {}
                }
                Ok((rest, Record::Command(command)))
            }
            found => {
                let page_size_guessed = self.page_size_guessed && !self.blocks.is_empty();
                Err(input.reject(ErrorKind::SectionType { found, page_size_guessed }))
            }
        }
    }

    fn start<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
        let (rest, header) = section_header(input)?;
        let grammar = match (header.idstr, header.version_id) {
            (b"ram", RAM_SECTION_VERSION) => Grammar::Ram,
            (b"dirty-bitmap", 1) => Grammar::DirtyBitmap,
            (b"block", 1) => Grammar::Block,
            (b"spapr/htab", 1) => Grammar::Htab,
            (b"s390-storage_attributes", 0) => Grammar::StorageAttributes,
            (idstr, version) => {
                return Err(input.reject(ErrorKind::UnknownIterable { idstr: idstr.to_vec(), version }));
            }
        };
        if let Some(known) = self.sections.get(&header.section_id) {
            let first = known.idstr.clone();
            return Err(input.reject(ErrorKind::SectionTwice { found: header.section_id.0, first }));
        }
        if grammar == Grammar::Ram
            && !self.mapped_ram
            && self.configuration.as_ref().is_some_and(|c| c.has_capability("mapped-ram"))
        {
            return Err(input.reject(ErrorKind::MappedRam));
        }
        let id = header.section_id;
        self.sections.insert(id, Known { idstr: header.idstr.to_vec(), grammar });
        self.state = State::Body { id, grammar, kind: SectionType::Start, first: true };
        Ok((rest, Record::SectionStart(header)))
    }

    /// Takes a name into the block list; returns its index.
    fn learn_block(&mut self, name: &[u8]) -> usize {
        let next = self.blocks.len();
        let block = *self.by_name.entry(name.to_vec()).or_insert(next);
        if block == next {
            self.blocks.push(RamBlock {
                idstr: name.to_vec(),
                used_length: UNKNOWN_LENGTH,
                host_page_size: None,
                guest_physical_address: None,
            });
        }
        block
    }

    /// Device sections before RAM: everything up to the RAM section's START, which can be told by its block list.
    fn early<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
        let length = self.early.border(input.bytes, self.page_size).map_err(|stop| match stop {
            early::Stop::NeedMore => nom::Err::Incomplete(nom::Needed::Unknown),
            early::Stop::Wrong(text) => input.reject(ErrorKind::EarlyDevices(text)),
        })?;
        let (rest, bytes) = take(input, length)?;
        self.early_devices = Some((input.offset, bytes.to_vec()));
        Ok((rest, Record::EarlyDevices(bytes)))
    }

    fn footer<'a>(&mut self, input: Span<'a>, id: SectionId) -> Parsed<'a, Record<'a>> {
        if self.footers.is_none() {
            // The stream does not say whether it has footers; the first section's end does.
            let (at_id, mark) = be_u8.parse(input)?;
            self.footers = Some(mark == QEMU_VM_SECTION_FOOTER && be_u32.parse(at_id)?.1 == id.0);
        }
        if self.footers == Some(false) {
            self.state = State::TopLevel;
            return self.top_level(input);
        }
        let (rest, ()) = section_footer(input, id)?;
        self.state = State::TopLevel;
        Ok((rest, Record::Footer(id)))
    }

    fn body<'a>(
        &mut self,
        input: Span<'a>,
        id: SectionId,
        grammar: Grammar,
        kind: SectionType,
        first: bool,
    ) -> Parsed<'a, Record<'a>> {
        let (rest, record, ends) = match grammar {
            Grammar::Ram => {
                let (rest, record) = self.ram(input, kind)?;
                let ends = record == Record::RamEndOfSection;
                (rest, record, ends)
            }
            Grammar::DirtyBitmap => {
                let (rest, chunk) = dirty_bitmap_chunk(input)?;
                let ends = chunk.kind == ChunkKind::EndOfSection;
                (rest, Record::DirtyBitmap(chunk), ends)
            }
            Grammar::Block => {
                let (rest, record) = block_migration(input)?;
                let ends = record == BlockMigration::EndOfSection;
                (rest, Record::BlockMigration(record), ends)
            }
            Grammar::Htab => {
                let header = first || kind == SectionType::Start;
                let (rest, record) = if header {
                    htab_header(input, kind == SectionType::Start)?
                } else {
                    htab_entries(input)?
                };
                let ends = matches!(record, Htab::EndOfSection | Htab::Shift(_));
                (rest, Record::Htab(record), ends)
            }
            Grammar::StorageAttributes => {
                let (rest, record) = storage_attributes(input)?;
                let ends = record == StorageAttributes::EndOfSection;
                (rest, Record::StorageAttributes(record), ends)
            }
        };
        self.state =
            if ends { State::Footer { id } } else { State::Body { id, grammar, kind, first: false } };
        Ok((rest, record))
    }

    fn ram<'a>(&mut self, input: Span<'a>, kind: SectionType) -> Parsed<'a, Record<'a>> {
        let (rest, word) = be_u64.parse(input)?;
        let mask = u64::from(self.page_size) - 1;
        let (flags, offset) = (word & mask, word & !mask);
        let (page_size, page_size_guessed) = (self.page_size, self.page_size_guessed);
        let unknown = || input.reject(ErrorKind::PageFlags { flags, page_size, page_size_guessed });
        match flags & !RAM_SAVE_FLAG_CONTINUE {
            RAM_SAVE_FLAG_EOS if flags == word => Ok((rest, Record::RamEndOfSection)),
            RAM_SAVE_FLAG_MULTIFD_FLUSH if flags == word => Ok((rest, Record::RamMultifdFlush)),
            RAM_SAVE_FLAG_MEM_SIZE if flags == RAM_SAVE_FLAG_MEM_SIZE => {
                if !self.blocks.is_empty() || kind != SectionType::Start {
                    return Err(input.reject(ErrorKind::SecondBlockList));
                }
                let context = BlockListContext {
                    page_size,
                    page_size_guessed,
                    advised: self.advised,
                    ignore_shared: self
                        .configuration
                        .as_ref()
                        .is_some_and(|c| c.has_capability("x-ignore-shared")),
                    max_ram_bytes: self.options.max_ram_bytes,
                };
                let (rest, list) = block_list(rest, offset, context)?;
                self.blocks.clone_from(&list.blocks);
                self.by_name =
                    list.blocks.iter().enumerate().map(|(at, block)| (block.idstr.clone(), at)).collect();
                Ok((rest, Record::RamBlocks(list)))
            }
            kind @ (RAM_SAVE_FLAG_ZERO
            | RAM_SAVE_FLAG_PAGE
            | RAM_SAVE_FLAG_XBZRLE
            | RAM_SAVE_FLAG_COMPRESS_PAGE) => {
                self.page(input, rest, kind, offset, flags & RAM_SAVE_FLAG_CONTINUE == 0)
            }
            _ => Err(unknown()),
        }
    }

    fn page<'a>(
        &mut self,
        input: Span<'a>,
        rest: Span<'a>,
        kind: u64,
        offset: u64,
        named: bool,
    ) -> Parsed<'a, Record<'a>> {
        if self.blocks.is_empty() && !self.learns_blocks {
            return Err(input.reject(ErrorKind::PageBeforeBlocks));
        }
        let (rest, block) = if named {
            let (after, name) = str8(rest)?;
            let block = match self.by_name.get(name) {
                Some(&block) => block,
                None if self.learns_blocks && !name.is_empty() && self.blocks.len() < LEARNED_LIMIT => {
                    self.learn_block(name)
                }
                None => return Err(rest.reject(ErrorKind::UnknownBlock { name: name.to_vec() })),
            };
            (after, block)
        } else {
            (rest, self.current_block.ok_or_else(|| input.reject(ErrorKind::ContinueFirst))?)
        };
        let length = self.blocks[block].used_length;
        if offset >= length {
            let name = self.blocks[block].idstr.clone();
            return Err(input.reject(ErrorKind::PageOutside { name, found: offset, length }));
        }
        let (rest, record) = match kind {
            RAM_SAVE_FLAG_ZERO => {
                let (after, fill) = be_u8.parse(rest)?;
                if fill != 0 {
                    return Err(rest.reject(ErrorKind::ZeroFill { found: fill }));
                }
                (after, Record::RamZero { block, offset, named })
            }
            RAM_SAVE_FLAG_PAGE => {
                let (after, data) = take(rest, self.page_size as usize)?;
                (after, Record::RamPage { block, offset, named, data })
            }
            RAM_SAVE_FLAG_XBZRLE => {
                let (at_length, encoding) = be_u8.parse(rest)?;
                if encoding != ENCODING_FLAG_XBZRLE {
                    let found = u64::from(encoding);
                    return Err(rest.reject(ErrorKind::Value {
                        what: "XBZRLE encoding",
                        found,
                        expected: "1",
                    }));
                }
                let (after, length) = be_u16.parse(at_length)?;
                if u32::from(length) > self.page_size {
                    let (found, limit) = (u64::from(length), u64::from(self.page_size));
                    return Err(at_length.reject(ErrorKind::Limit { what: "XBZRLE length", found, limit }));
                }
                let (after, data) = take(after, usize::from(length))?;
                (after, Record::RamXbzrle { block, offset, named, data })
            }
            _ => {
                let (after, length) = be_u32.parse(rest)?;
                let limit = compressed::bound(self.page_size);
                if length > limit || length == 0 {
                    let (found, limit) = (u64::from(length), u64::from(limit));
                    return Err(rest.reject(ErrorKind::Limit {
                        what: "compressed page length",
                        found,
                        limit,
                    }));
                }
                let (after, data) = take(after, length as usize)?;
                (after, Record::RamCompressed { block, offset, named, data })
            }
        };
        self.current_block = Some(block);
        Ok((rest, record))
    }
}
