//! A mapped-ram file gives the pages whose bits are set, at their places, and no others, and no
//! page of blocks that are ignored as shared; without bitmaps and END it is an error, and gives its
//! pages only where they are to be salvaged; one with changes anywhere is walked without a gap, to
//! its last byte.
#![no_main]

mod examine;

use arbitrary::Arbitrary;
use examine::examine;
use examine::input::options;
use libfuzzer_sys::fuzz_target;
use migration_stream::ram::RAM_SAVE_FLAG_MEM_SIZE;
use migration_stream::ram::mapped::{MappedBlock, MappedList, MappedPlace, entry, put_entry};
use migration_stream::{
    Configuration, RAM_SECTION_VERSION, RamBlock, Record, SectionHeader, SectionId, put_configuration,
    put_end_of_section, put_file_header, put_section_end, put_section_footer, put_section_header,
};
use snapinspect::input::OpenOptions;
use snapinspect::walk::{Event, Finding, Level};

#[derive(Debug, Arbitrary)]
struct Block {
    pages: u8,
    bits: u64,
    /// Room between the bitmap and the pages, in pages.
    room: u8,
    /// What is in the places of pages that are not there.
    stale: u8,
    /// Of shared memory, if the capability is on.
    ignored: bool,
}

#[derive(Debug, Arbitrary)]
struct Input {
    page_bits: u8,
    footers: bool,
    ignore_shared: bool,
    /// As background-snapshot leaves it: no END, and no bit in any bitmap.
    background: bool,
    blocks: Vec<Block>,
    changes: Vec<(u16, u8)>,
    cut: Option<u16>,
}

/// Block, offset in it, content of a page that is there.
type Page = (usize, u64, u8);

const RAM: SectionId = SectionId(2);

fn content(block: usize, page: u64) -> u8 {
    u8::try_from(page * 4 % 251).expect("less") + u8::try_from(block).expect("few")
}

fn file(input: &Input, page_size: u32) -> (Vec<u8>, Vec<Page>) {
    let mut out = Vec::new();
    put_file_header(&mut out);
    let mut capabilities = vec![b"mapped-ram".to_vec()];
    if input.ignore_shared {
        capabilities.push(b"x-ignore-shared".to_vec());
    }
    let configuration = Configuration {
        machine: b"pc".to_vec(),
        target_page_bits: Some(page_size.trailing_zeros()),
        capabilities: Some(capabilities),
        ..Configuration::default()
    };
    put_configuration(&mut out, &configuration);
    let header =
        SectionHeader { section_id: RAM, idstr: b"ram", instance_id: 0, version_id: RAM_SECTION_VERSION };
    put_section_header(&mut out, false, &header);
    let page = u64::from(page_size);
    let blocks: Vec<_> = input.blocks.iter().take(4).collect();
    let pages = |block: &Block| u64::from(block.pages % 16) + 1;
    let total: u64 = blocks.iter().map(|block| pages(block) * page).sum();
    out.extend_from_slice(&(total | RAM_SAVE_FLAG_MEM_SIZE).to_be_bytes());
    let mut expected = Vec::new();
    let mut remaining = total;
    for (number, block) in blocks.into_iter().enumerate() {
        let offset = out.len() as u64;
        let idstr = format!("block{number}").into_bytes();
        let (used_length, bitmap_bytes) = (pages(block) * page, 8);
        let bitmap_offset = offset + 1 + idstr.len() as u64 + if input.ignore_shared { 44 } else { 36 };
        let pages_offset =
            (bitmap_offset + bitmap_bytes).next_multiple_of(page) + u64::from(block.room % 4) * page;
        let guest_physical_address = input.ignore_shared.then_some(block.bits);
        let ram = RamBlock { idstr, used_length, host_page_size: None, guest_physical_address };
        let place = MappedPlace { bitmap_offset, bitmap_bytes, pages_offset };
        let here = !(input.ignore_shared && block.ignored);
        let mapped = MappedBlock { block: ram, place: here.then_some(place) };
        put_entry(&mut out, &mapped, page_size);
        let written = &out[usize::try_from(offset).expect("small")..];
        let list = MappedList { page_size, ignore_shared: input.ignore_shared };
        assert_eq!(entry(written, offset, remaining, list).expect("our own"), (written.len(), mapped));
        remaining -= used_length;
        if !here {
            continue;
        }
        let bits = block.bits & u64::MAX >> (64 - pages(block));
        out.extend_from_slice(&if input.background { 0 } else { bits }.to_le_bytes());
        out.resize(usize::try_from(pages_offset).expect("small"), 0);
        for at in 0..pages(block) {
            let there = bits >> at & 1 == 1;
            // A background snapshot writes each page once, into a file that was empty.
            let stale = if input.background { 0 } else { block.stale };
            let fill = if there { content(number, at) } else { stale };
            out.resize(out.len() + page_size as usize, fill);
            if there && !(input.background && fill == 0) {
                expected.push((number, at * page, fill));
            }
        }
    }
    for end in if input.background { &[false][..] } else { &[false, true] } {
        if *end {
            put_section_end(&mut out, RAM);
        }
        put_end_of_section(&mut out);
        if input.footers {
            put_section_footer(&mut out, RAM);
        }
    }
    let json = format!(r#"{{"page_size": {page_size}, "devices": []}}"#);
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    (out, expected)
}

/// The pages that the walk gives, and what it finds.
fn pages(bytes: &[u8], options: &OpenOptions) -> (Vec<Page>, Vec<Finding>) {
    let mut found = Vec::new();
    let findings = examine(bytes, options, |item| {
        if let Event::Record(Record::Page(migration_stream::Page {
            block,
            offset,
            content: migration_stream::PageContent::Raw(data),
            ..
        })) = &item.event
        {
            assert!(data[1..] == data[..data.len() - 1], "parts of two pages");
            found.push((*block, *offset, data[0]));
        }
    });
    (found, findings.expect("a stream"))
}

fuzz_target!(|input: Input| {
    let page_size = 1024 << (input.page_bits % 3);
    let (mut bytes, expected) = file(&input, page_size);
    let options = options(None);
    if !input.blocks.is_empty() {
        let (found, findings) = pages(&bytes, &options);
        let wrong = findings.iter().any(|finding| finding.level == Level::Error);
        if input.background && !expected.is_empty() {
            assert!(wrong && found.is_empty(), "{findings:?}");
            let (found, findings) = pages(&bytes, &OpenOptions { salvage: true, ..options.clone() });
            assert!(findings.iter().all(|finding| finding.level < Level::Error), "{findings:?}");
            assert_eq!(found, expected);
        } else {
            assert!(!wrong, "{findings:?}");
            assert_eq!(found, expected);
        }
    }
    // Where pages are, changes change pages: most go to the list, which is at the front.
    let length = bytes.len();
    for (at, value) in input.changes.iter().take(16) {
        let near = if at & 3 == 0 { length } else { 200.min(length) };
        bytes[usize::from(at >> 2) % near] = *value;
    }
    if let Some(cut) = input.cut {
        bytes.truncate(usize::from(cut) % (length + 1));
    }
    examine(&bytes, &options, |_| {});
    examine(&bytes, &OpenOptions { salvage: true, ..options }, |_| {});
});
