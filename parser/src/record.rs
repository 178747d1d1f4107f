//! One record of a stream, whatever it is.

use crate::command::{Command, put_command};
use crate::configuration::{Configuration, put_configuration, put_file_header};
use crate::dirty_bitmap::{DirtyBitmapChunk, put_dirty_bitmap_chunk};
use crate::iterable::{
    BlockMigration, Htab, StorageAttributes, put_block_migration, put_htab, put_storage_attributes,
};
use crate::prelude::*;
use crate::ram::block::{BlockList, RamBlock, put_ram_blocks};
use crate::ram::page::{Page, put_page};
use crate::ram::{put_end_of_section, put_multifd_flush};
use crate::section::{
    QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION, SectionHeader, SectionId, counted32, put_section_end,
    put_section_footer, put_section_header, put_section_part,
};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// The file header.
    FileHeader,
    /// The configuration section.
    Configuration(Configuration),
    /// Device sections before the RAM section, as they are: their lengths are not known before the vmdesc is.
    EarlyDevices(&'a [u8]),
    /// START of an iterable.
    SectionStart(SectionHeader<'a>),
    /// PART of an iterable.
    SectionPart(SectionId),
    /// END of an iterable.
    SectionEnd(SectionId),
    /// The footer of the section before.
    Footer(SectionId),
    /// The block list.
    RamBlocks(BlockList),
    /// A page.
    Page(Page<'a>),
    /// The multifd channels synchronise: RAM travels there.
    RamMultifdFlush,
    /// The RAM body ends.
    RamEndOfSection,
    /// A chunk of a `dirty-bitmap` body.
    DirtyBitmap(DirtyBitmapChunk<'a>),
    /// A record of a `block` body.
    BlockMigration(BlockMigration<'a>),
    /// A record of a `spapr/htab` body.
    Htab(Htab<'a>),
    /// A record of an `s390-storage_attributes` body.
    StorageAttributes(StorageAttributes<'a>),
    /// A command.
    Command(Command<'a>),
    /// Nothing by itself: from here on stand device sections, EOF and vmdesc, for
    /// [`tail::cut`](crate::device_tail::cut).
    DeviceTail,
    /// A device section: its header and its body.
    Full(SectionHeader<'a>, &'a [u8]),
    /// The end mark.
    Eof,
    /// The description of all device sections, JSON.
    VmDescription(&'a [u8]),
}

impl<'a> Record<'a> {
    /// The same record, each of its byte strings replaced by what `map` returns for it.
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> Record<'b> {
        match self {
            Self::FileHeader => Record::FileHeader,
            Self::Configuration(configuration) => Record::Configuration(configuration),
            Self::EarlyDevices(bytes) => Record::EarlyDevices(map(bytes)),
            Self::SectionStart(header) => Record::SectionStart(header.map_bytes(map)),
            Self::SectionPart(id) => Record::SectionPart(id),
            Self::SectionEnd(id) => Record::SectionEnd(id),
            Self::Footer(id) => Record::Footer(id),
            Self::RamBlocks(list) => Record::RamBlocks(list),
            Self::Page(page) => Record::Page(page.map_bytes(map)),
            Self::RamMultifdFlush => Record::RamMultifdFlush,
            Self::RamEndOfSection => Record::RamEndOfSection,
            Self::DirtyBitmap(chunk) => Record::DirtyBitmap(chunk.map_bytes(map)),
            Self::BlockMigration(record) => Record::BlockMigration(record.map_bytes(map)),
            Self::Htab(record) => Record::Htab(record.map_bytes(map)),
            Self::StorageAttributes(record) => Record::StorageAttributes(record.map_bytes(map)),
            Self::Command(command) => Record::Command(command.map_bytes(map)),
            Self::DeviceTail => Record::DeviceTail,
            Self::Full(header, body) => Record::Full(header.map_bytes(map), map(body)),
            Self::Eof => Record::Eof,
            Self::VmDescription(json) => Record::VmDescription(map(json)),
        }
    }
}

impl Record<'_> {
    /// Writes the record as it stood in the stream; `blocks` is the block list that page records refer to.
    pub fn put(&self, out: &mut Vec<u8>, blocks: &[RamBlock]) {
        let name = |block: usize, named: bool| {
            named.then(|| blocks.get(block).map_or(&[][..], |block| &block.idstr))
        };
        match self {
            Record::FileHeader => put_file_header(out),
            Record::Configuration(configuration) => put_configuration(out, configuration),
            Record::EarlyDevices(bytes) => out.extend_from_slice(bytes),
            Record::SectionStart(header) => put_section_header(out, false, header),
            Record::SectionPart(id) => put_section_part(out, *id),
            Record::SectionEnd(id) => put_section_end(out, *id),
            Record::Footer(id) => put_section_footer(out, *id),
            Record::RamBlocks(list) => put_ram_blocks(out, list),
            Record::Page(Page { block, offset, named, content }) => {
                put_page(out, name(*block, *named), *offset, content);
            }
            Record::RamMultifdFlush => put_multifd_flush(out),
            Record::RamEndOfSection => put_end_of_section(out),
            Record::DirtyBitmap(chunk) => put_dirty_bitmap_chunk(out, chunk),
            Record::BlockMigration(record) => put_block_migration(out, record),
            Record::Htab(record) => put_htab(out, record),
            Record::StorageAttributes(record) => put_storage_attributes(out, record),
            Record::Command(command) => put_command(out, command),
            Record::DeviceTail => {}
            Record::Full(header, body) => {
                put_section_header(out, true, header);
                out.extend_from_slice(body);
            }
            Record::Eof => out.push(QEMU_VM_EOF),
            Record::VmDescription(json) => {
                out.push(QEMU_VM_VMDESCRIPTION);
                let (length, json) = counted32(json);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(json);
            }
        }
    }
}
