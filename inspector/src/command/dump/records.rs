//! The line of each record.

use crate::line::{Line, Value, section};
use crate::walk::Context;
use migration_stream::{
    BlockMigration, ChunkKind, Command, Configuration, DirtyBitmapChunk, Htab, Page, PageContent, RamBlock,
    Record, StorageAttributes,
};

/// Name of a block by its index.
pub(super) fn block_name(context: &Context<'_>, block: usize) -> Value<'static> {
    Value::name(context.blocks.get(block).map_or(&[][..], |block| &block.idstr))
}

/// A block of the list.
pub(super) fn block_line(offset: u64, length: u64, block: &RamBlock) -> Line<'static> {
    Line::new(offset, length, "block")
        .with("name", Value::name(&block.idstr))
        .with("bytes", Value::Hex(block.used_length))
        .with("host_page_size", Value::optional(block.host_page_size.map(Value::Hex)))
        .with("physical_address", Value::optional(block.guest_physical_address.map(Value::Hex)))
}

/// The lines of a record that is no page.
pub(super) fn lines(
    offset: u64,
    length: u64,
    record: &Record<'_>,
    context: &Context<'_>,
) -> Vec<Line<'static>> {
    let line = |kind| Line::new(offset, length, kind);
    let one = match record {
        Record::FileHeader => line("file_header").with("version", Value::Decimal(3)),
        Record::Configuration(configuration) => self::configuration(line("configuration"), configuration),
        Record::EarlyDevices(_) | Record::DeviceTail => line("opaque").with("why", Value::Word("not cut")),
        Record::SectionStart(header) => section(line("section_start"), header),
        Record::Full(header, _) => section(line("device"), header),
        Record::SectionPart(id) => line("section_part").with("id", Value::Decimal(id.0.into())),
        Record::SectionEnd(id) => line("section_end").with("id", Value::Decimal(id.0.into())),
        Record::Footer(id) => line("footer").with("id", Value::Decimal(id.0.into())),
        Record::RamBlocks(list) => {
            let total: u64 = list.blocks.iter().map(|block| block.used_length).sum();
            let mut lines = vec![
                Line::new(offset, 8, "block_list")
                    .with("blocks", Value::Decimal(list.blocks.len() as u64))
                    .with("bytes", Value::Hex(total)),
            ];
            let mut at = offset + 8;
            for block in &list.blocks {
                let optional = [block.host_page_size, block.guest_physical_address];
                let length = 1 + block.idstr.len() + 8 + 8 * optional.iter().flatten().count();
                lines.push(block_line(at, length as u64, block));
                at += length as u64;
            }
            return lines;
        }
        Record::Page(Page { block, offset, content, .. }) => {
            let page = |kind| page(line(kind), context, *block, *offset);
            let bytes = Value::Decimal(content.bytes().len() as u64);
            match content {
                PageContent::Raw(_) => page("page"),
                PageContent::Zero => page("zero_page"),
                PageContent::Xbzrle(_) => page("xbzrle_page").with("delta_bytes", bytes),
                PageContent::Zlib(_) => page("compressed_page").with("packed_bytes", bytes),
            }
        }
        Record::RamMultifdFlush => line("multifd_flush"),
        Record::RamEndOfSection => line("ram_end_of_section"),
        Record::DirtyBitmap(chunk) => dirty_bitmap(line("dirty_bitmap"), chunk),
        Record::BlockMigration(record) => block_migration(line("block_migration"), record),
        Record::Htab(record) => htab(line("htab"), record),
        Record::StorageAttributes(record) => storage_attributes(line("storage_attributes"), record),
        Record::Command(command) => self::command(line("command"), command),
        Record::Eof => line("eof"),
        Record::VmDescription(json) => line("vmdesc").with("bytes", Value::Decimal(json.len() as u64)),
        _ => line("record"),
    };
    vec![one]
}

fn page(line: Line<'static>, context: &Context<'_>, block: usize, offset: u64) -> Line<'static> {
    line.with("block", block_name(context, block)).with("address", Value::Hex(offset))
}

fn configuration(line: Line<'static>, configuration: &Configuration) -> Line<'static> {
    let capabilities = configuration
        .capabilities
        .as_ref()
        .map(|names| Value::List(names.iter().map(|capability| Value::name(capability)).collect()));
    line.with("machine", Value::name(&configuration.machine))
        .with(
            "target_page_bits",
            Value::optional(configuration.target_page_bits.map(|bits| Value::Decimal(bits.into()))),
        )
        .with("capabilities", Value::optional(capabilities))
        .with(
            "uuid",
            Value::optional(
                configuration.uuid.map(|uuid| Value::Name(snapshot_engine::uuid_text(&uuid).into_bytes())),
            ),
        )
}

fn dirty_bitmap(line: Line<'static>, chunk: &DirtyBitmapChunk<'_>) -> Line<'static> {
    let line = line
        .with("node", Value::optional(chunk.node.map(Value::name)))
        .with("bitmap", Value::optional(chunk.bitmap.map(Value::name)));
    match &chunk.kind {
        ChunkKind::Start { granularity, flags } => line
            .with("chunk", Value::Word("start"))
            .with("granularity", Value::Decimal((*granularity).into()))
            .with("flags", Value::Hex((*flags).into())),
        ChunkKind::Complete => line.with("chunk", Value::Word("complete")),
        ChunkKind::Bits { first_sector, sectors, bits } => line
            .with("chunk", Value::Word(if bits.is_some() { "bits" } else { "zeroes" }))
            .with("first_sector", Value::Decimal(*first_sector))
            .with("sectors", Value::Decimal((*sectors).into()))
            .with("bits_set", Value::optional(bits.map(|bits| Value::Decimal(ones(bits))))),
        ChunkKind::EndOfSection => line.with("chunk", Value::Word("end")),
        _ => line.with("chunk", Value::Word("other")),
    }
}

/// Bits that are set.
pub(super) fn ones(bits: &[u8]) -> u64 {
    bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
}

fn block_migration(line: Line<'static>, record: &BlockMigration<'_>) -> Line<'static> {
    match record {
        BlockMigration::Chunk { sector, device, data } => line
            .with("record", Value::Word(if data.is_some() { "data" } else { "zero" }))
            .with("sector", Value::Decimal(*sector))
            .with("device", Value::name(device)),
        BlockMigration::Progress(percent) => {
            line.with("record", Value::Word("progress")).with("percent", Value::Decimal(*percent))
        }
        BlockMigration::EndOfSection => line.with("record", Value::Word("end")),
    }
}

fn htab(line: Line<'static>, record: &Htab<'_>) -> Line<'static> {
    match record {
        Htab::Shift(shift) => {
            line.with("record", Value::Word("shift")).with("shift", Value::Decimal((*shift).into()))
        }
        Htab::Header => line.with("record", Value::Word("header")),
        Htab::Entries { index, valid, invalid, .. } => line
            .with("record", Value::Word("entries"))
            .with("index", Value::Decimal((*index).into()))
            .with("valid", Value::Decimal((*valid).into()))
            .with("invalid", Value::Decimal((*invalid).into())),
        Htab::EndOfSection => line.with("record", Value::Word("end")),
    }
}

fn storage_attributes(line: Line<'static>, record: &StorageAttributes<'_>) -> Line<'static> {
    match record {
        StorageAttributes::Values { frame, values } => line
            .with("record", Value::Word("values"))
            .with("frame", Value::Hex(*frame))
            .with("count", Value::Decimal(values.len() as u64)),
        StorageAttributes::Done => line.with("record", Value::Word("done")),
        StorageAttributes::EndOfSection => line.with("record", Value::Word("end")),
    }
}

fn command(line: Line<'static>, command: &Command<'_>) -> Line<'static> {
    let line = line.with("command", Value::Word(command.name()));
    match command {
        Command::Ping(value) => line.with("value", Value::Hex((*value).into())),
        Command::PostcopyAdvise(advise) => line
            .with("page_sizes", Value::optional(advise.map(|advise| Value::Hex(advise.page_size_summary))))
            .with(
                "target_page_size",
                Value::optional(advise.map(|advise| Value::Decimal(advise.target_page_size))),
            ),
        Command::PostcopyRamDiscard { block, ranges } => {
            let ranges = ranges
                .iter()
                .map(|range| Value::List(vec![Value::Hex(range.start), Value::Hex(range.length)]));
            line.with("block", Value::name(block)).with("ranges", Value::List(ranges.collect()))
        }
        Command::Packaged(package) => line.with("bytes", Value::Decimal(package.len() as u64)),
        Command::RecvBitmap(block) => line.with("block", Value::name(block)),
        _ => line,
    }
}
