//! `parse(encode(records)) == records`, for any records that a source could send: with both
//! readers, and none is lost or added.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use migration_stream::{
    BlockList, ChunkKind, Command, Configuration, DirtyBitmapChunk, DiscardRange, Options, PageContent,
    PostcopyAdvise, RAM_SECTION_VERSION, RamBlock, Record, SectionHeader, SectionId, SliceReader,
    StreamReader,
};

const PAGE: u64 = 1024;
const RAM: SectionId = SectionId(2);
const BITMAP: SectionId = SectionId(3);

/// What can stand in a RAM section.
#[derive(Debug, Arbitrary)]
enum Page {
    Normal { block: u8, page: u8, fill: u8 },
    Zero { block: u8, page: u8 },
    Xbzrle { block: u8, page: u8, delta: Vec<u8> },
    Compressed { block: u8, page: u8, zlib: Vec<u8> },
}

#[derive(Debug, Arbitrary)]
enum Chunk {
    Start { granularity_bits: u8, flags: u8 },
    Complete,
    Bits { first_sector: u64, sectors: u32, bits: Option<Vec<u8>> },
}

/// What can stand between START and the devices.
#[derive(Debug, Arbitrary)]
enum Part {
    Pages(bool, Vec<Page>),
    Bitmap(bool, Vec<(bool, bool, Chunk)>),
    Ping(u32),
    OpenReturnPath,
    Advise(Option<u64>),
    SwitchoverStart,
    Discard(u8, Vec<(u32, u32)>),
}

#[derive(Debug, Arbitrary)]
struct Stream {
    machine: Vec<u8>,
    uuid: Option<[u8; 16]>,
    footers: bool,
    blocks: Vec<(Vec<u8>, u8)>,
    parts: Vec<Part>,
    vmdesc: bool,
    pieces: u8,
}

fuzz_target!(|stream: Stream| {
    let names = names(&stream);
    if names.is_empty() {
        return;
    }
    let bodies: Vec<Vec<u8>> = (0..=255u8).map(|fill| vec![fill; 1024]).collect();
    let mut records = vec![Record::FileHeader];
    let machine = stream.machine.iter().copied().take(255).collect();
    let configuration =
        Configuration { machine, target_page_bits: Some(10), uuid: stream.uuid, ..Configuration::default() };
    records.push(Record::Configuration(configuration));
    let start = |section_id, idstr, version_id| {
        Record::SectionStart(SectionHeader { section_id, idstr, instance_id: 0, version_id })
    };
    records.push(start(RAM, b"ram", RAM_SECTION_VERSION));
    let blocks: Vec<RamBlock> = names.iter().map(|(name, pages)| block(name, *pages)).collect();
    records.push(Record::RamBlocks(BlockList { blocks: blocks.clone() }));
    records.push(Record::RamEndOfSection);
    let footer = |records: &mut Vec<Record<'_>>, id| {
        if stream.footers {
            records.push(Record::Footer(id));
        }
    };
    footer(&mut records, RAM);
    let end = DirtyBitmapChunk { node: None, bitmap: None, kind: ChunkKind::EndOfSection };
    records.push(start(BITMAP, b"dirty-bitmap", 1));
    records.push(Record::DirtyBitmap(end.clone()));
    footer(&mut records, BITMAP);
    let mut current = None;
    for part in &stream.parts {
        match part {
            Part::Pages(last, pages) => {
                records.push(if *last { Record::SectionEnd(RAM) } else { Record::SectionPart(RAM) });
                records.extend(pages.iter().map(|page| record_of(page, &names, &mut current, &bodies)));
                records.push(Record::RamEndOfSection);
                footer(&mut records, RAM);
            }
            Part::Bitmap(last, chunks) => {
                records.push(if *last { Record::SectionEnd(BITMAP) } else { Record::SectionPart(BITMAP) });
                records.extend(chunks.iter().map(|(node, bitmap, chunk)| {
                    Record::DirtyBitmap(DirtyBitmapChunk {
                        node: node.then_some(b"disk0"),
                        bitmap: bitmap.then_some(b"backup"),
                        kind: chunk_of(chunk),
                    })
                }));
                records.push(Record::DirtyBitmap(end.clone()));
                footer(&mut records, BITMAP);
            }
            other => records.push(Record::Command(command_of(other, &names))),
        }
    }
    check(&stream, records, &blocks);
});

/// Names that are not empty and no two the same, with the blocks' lengths in pages.
fn names(stream: &Stream) -> Vec<(Vec<u8>, u64)> {
    let mut names: Vec<(Vec<u8>, u64)> = Vec::new();
    for (name, pages) in stream.blocks.iter().take(8) {
        let name: Vec<u8> = name.iter().copied().take(255).collect();
        if !name.is_empty() && !names.iter().any(|(other, _)| *other == name) {
            names.push((name, u64::from(*pages) + 1));
        }
    }
    names
}

fn block(name: &[u8], pages: u64) -> RamBlock {
    RamBlock {
        idstr: name.to_vec(),
        used_length: pages * PAGE,
        host_page_size: None,
        guest_physical_address: None,
    }
}

fn record_of<'a>(
    page: &'a Page,
    names: &[(Vec<u8>, u64)],
    current: &mut Option<usize>,
    bodies: &'a [Vec<u8>],
) -> Record<'a> {
    let mut place = |block: u8, page: u8| {
        let block = usize::from(block) % names.len();
        let named = current.replace(block) != Some(block);
        (block, u64::from(page) % names[block].1 * PAGE, named)
    };
    let record = |block, offset, named, content| {
        Record::Page(migration_stream::Page { block, offset, named, content })
    };
    match page {
        Page::Normal { block, page, fill } => {
            let (block, offset, named) = place(*block, *page);
            record(block, offset, named, PageContent::Raw(&bodies[usize::from(*fill)]))
        }
        Page::Zero { block, page } => {
            let (block, offset, named) = place(*block, *page);
            record(block, offset, named, PageContent::Zero)
        }
        Page::Xbzrle { block, page, delta } => {
            let (block, offset, named) = place(*block, *page);
            record(block, offset, named, PageContent::Xbzrle(&delta[..delta.len().min(1024)]))
        }
        Page::Compressed { block, page, zlib } => {
            let (block, offset, named) = place(*block, *page);
            let data = if zlib.is_empty() { &[0][..] } else { &zlib[..zlib.len().min(1024)] };
            record(block, offset, named, PageContent::Zlib(data))
        }
    }
}

fn chunk_of(chunk: &Chunk) -> ChunkKind<'_> {
    match chunk {
        Chunk::Start { granularity_bits, flags } => {
            ChunkKind::Start { granularity: 512 << (granularity_bits % 20), flags: flags & 7 }
        }
        Chunk::Complete => ChunkKind::Complete,
        Chunk::Bits { first_sector, sectors, bits } => ChunkKind::Bits {
            first_sector: first_sector >> 10,
            sectors: *sectors,
            bits: bits.as_ref().map(|bits| &bits[..bits.len().min(10240)]),
        },
    }
}

fn command_of<'a>(part: &Part, names: &'a [(Vec<u8>, u64)]) -> Command<'a> {
    match part {
        Part::Ping(value) => Command::Ping(*value),
        Part::OpenReturnPath => Command::OpenReturnPath,
        Part::Advise(summary) => Command::PostcopyAdvise(
            summary
                .map(|summary| PostcopyAdvise { page_size_summary: summary | PAGE, target_page_size: PAGE }),
        ),
        Part::Discard(block, ranges) => {
            let ranges = ranges.iter().take(12).map(|&(start, length)| DiscardRange {
                start: u64::from(start) * PAGE,
                length: (u64::from(length) + 1) * PAGE,
            });
            let mut ranges: Vec<DiscardRange> = ranges.collect();
            if ranges.is_empty() {
                ranges.push(DiscardRange { start: 0, length: PAGE });
            }
            Command::PostcopyRamDiscard { block: &names[usize::from(*block) % names.len()].0, ranges }
        }
        _ => Command::SwitchoverStart,
    }
}

/// Encodes, adds a device tail, and reads everything back.
fn check(stream: &Stream, records: Vec<Record<'_>>, blocks: &[RamBlock]) {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| record.put(&mut bytes, blocks));
    let header = SectionHeader { section_id: SectionId(10), idstr: b"timer", instance_id: 0, version_id: 2 };
    Record::Full(header, &[0x11; 16]).put(&mut bytes, blocks);
    if stream.footers {
        Record::Footer(SectionId(10)).put(&mut bytes, blocks);
    }
    Record::Eof.put(&mut bytes, blocks);
    if stream.vmdesc {
        let json = br#"{"page_size": 1024, "devices": [{"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2, "fields": [{"name": "x", "type": "buffer", "size": 16}]}]}"#;
        Record::VmDescription(json).put(&mut bytes, blocks);
    }
    let mut slice = SliceReader::new(&bytes, Options::default());
    let mut pull = StreamReader::new(Dribble(&bytes, usize::from(stream.pieces) + 1), Options::default());
    for record in &records {
        let found = slice.advance().expect("a stream of valid records").expect("it goes on");
        assert_eq!(&found.record, record);
        let found = pull.advance().expect("a stream of valid records").expect("it goes on");
        assert_eq!(&found.record, record);
    }
    while slice.advance().expect("a right tail").is_some() {}
    while pull.advance().expect("a right tail").is_some() {}
}

/// Delivers a few bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl std::io::Read for Dribble<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(out.len());
        self.0.read(&mut out[..length])
    }
}
