//! Sections: what may follow what, and where a body ends.

use super::pages::LEARNED_LIMIT;
use super::{Decoder, Grammar, Known, SectionType, State, VMDESC_LIMIT_BYTES};
use crate::command::{Command, command};
use crate::configuration::{QEMU_VM_CONFIGURATION, configuration, file_header};
use crate::dirty_bitmap::{ChunkKind, dirty_bitmap_chunk};
use crate::early;
use crate::error::ErrorKind;
use crate::iterable::{
    BlockMigration, Htab, StorageAttributes, block_migration, htab_entries, htab_header, storage_attributes,
};
use crate::page_size::PageSize;
use crate::ram::RAM_SECTION_VERSION;
use crate::record::Record;
use crate::section::{
    QEMU_VM_COMMAND, QEMU_VM_EOF, QEMU_VM_SECTION_END, QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL,
    QEMU_VM_SECTION_PART, QEMU_VM_SECTION_START, QEMU_VM_VMDESCRIPTION, SectionId, section_footer,
    section_header,
};
use crate::span::{Parsed, Span, take};
use nom::Parser;
use nom::number::streaming::{be_u8, be_u32};

impl Decoder {
    /// The next record, whatever it is.
    pub(super) fn record<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
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
                if let Some(size) = configuration.target_page_bits.and_then(PageSize::from_bits) {
                    self.page_size = size;
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
            QEMU_VM_SECTION_FULL if tail_may_begin && self.is_early_behind(rest)? => self.early_behind(input),
            QEMU_VM_EOF | QEMU_VM_SECTION_FULL if tail_may_begin => {
                self.state = State::DeviceTail;
                Ok((input, Record::DeviceTail))
            }
            QEMU_VM_EOF => {
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
                if known.grammar == Grammar::Ram {
                    self.ram = Some((id, true));
                }
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
                    Command::RecvBitmap(name) if self.learns_blocks && self.blocks.len() < LEARNED_LIMIT => {
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
        if grammar == Grammar::Ram {
            self.ram = Some((id, false));
        }
        self.sections.insert(id, Known { idstr: header.idstr.to_vec(), grammar });
        self.state = State::Body { id, grammar, kind: SectionType::Start, first: true };
        Ok((rest, Record::SectionStart(header)))
    }

    /// Device sections before RAM: everything up to the RAM section's START, which can be told by its block
    /// list.
    fn early<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
        let context = self.block_list_context();
        let length = self.early.border(input.bytes, context).map_err(|stop| match stop {
            early::Stop::NeedMore => nom::Err::Incomplete(nom::Needed::Unknown),
            early::Stop::Wrong(why) => input.reject(ErrorKind::EarlyDevices(why)),
        })?;
        let (rest, bytes) = take(input, length)?;
        self.early_devices = Some((input.offset, bytes.to_vec()));
        Ok((rest, Record::EarlyDevices(bytes)))
    }

    /// Whether a device section between RAM's START and its first PART is one that has to be loaded before
    /// RAM. Only virtio-mem has such (`early_setup`, QEMU 8.0 and later); by its name it can be told from the
    /// tail's first one.
    fn is_early_behind(&self, header: Span<'_>) -> Result<bool, nom::Err<crate::span::Reject>> {
        if !matches!(self.ram, Some((_, false))) {
            return Ok(false);
        }
        Ok(section_header(header)?.1.idstr.ends_with(b"-early"))
    }

    /// Device sections between RAM's START and its first PART.
    fn early_behind<'a>(&mut self, input: Span<'a>) -> Parsed<'a, Record<'a>> {
        let Some((ram, _)) = self.ram else { return Err(input.reject(ErrorKind::Malformed)) };
        let footers = self.footers == Some(true);
        let (by_name, blocks) = (&self.by_name, &self.blocks);
        let listed = |name: &[u8]| {
            super::block_named(by_name, blocks, name).ok().map(|block| blocks[block].used_length)
        };
        let next = early::Next { ram, page_size: self.page_size, listed: &listed, footers };
        let length = self.early_behind.border_behind(input.bytes, next).map_err(|stop| match stop {
            early::Stop::NeedMore => nom::Err::Incomplete(nom::Needed::Unknown),
            early::Stop::Wrong(why) => input.reject(ErrorKind::EarlyDevices(why)),
        })?;
        let (rest, bytes) = take(input, length)?;
        self.early_devices = Some((input.offset, bytes.to_vec()));
        self.early_behind = early::Search::default();
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
}
