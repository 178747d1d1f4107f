//! A libvirt save image gives its XML and the stream behind it, record by record; any other header
//! is an error or a walk to the last byte.
#![no_main]

mod examine;

use arbitrary::Arbitrary;
use examine::examine;
use examine::input::{open, options};
use libfuzzer_sys::fuzz_target;
use migration_stream::{
    BlockList, Configuration, RAM_SECTION_VERSION, RamBlock, SectionHeader, SectionId, put_configuration,
    put_end_of_section, put_file_header, put_page_header, put_ram_blocks, put_section_end,
    put_section_footer, put_section_header, put_zero_page,
};
use snapinspect::input::Kind;
use std::sync::LazyLock;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    complete: bool,
    swapped: bool,
    version: u32,
    was_running: u32,
    format: u32,
    /// What the header says instead of the length that it is.
    length: Option<u32>,
    xml: &'a [u8],
    cookie: &'a [u8],
    /// What is behind the header instead of a stream.
    stream: Option<&'a [u8]>,
    changes: Vec<(u8, u8)>,
    cut: Option<u16>,
}

const HEADER_BYTES: usize = 92;
/// Of what may be taken for the stream: enough to be taken for something else. What follows then is
/// the business of other targets.
const PART_LIMIT_BYTES: usize = 64;

static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::new();
    put_file_header(&mut out);
    put_configuration(&mut out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    let section_id = SectionId(2);
    let header = SectionHeader { section_id, idstr: b"ram", instance_id: 0, version_id: RAM_SECTION_VERSION };
    put_section_header(&mut out, false, &header);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 8192,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
    put_end_of_section(&mut out);
    put_section_footer(&mut out, section_id);
    put_section_end(&mut out, section_id);
    put_page_header(&mut out, Some(b"pc.ram"), 0);
    out.resize(out.len() + 4096, 7);
    put_zero_page(&mut out, None, 4096);
    put_end_of_section(&mut out);
    put_section_footer(&mut out, section_id);
    out.push(0);
    out
});

fn short(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(PART_LIMIT_BYTES)]
}

/// Offset, length and kind of every piece, counted from where the stream begins.
fn pieces(bytes: &[u8], start: u64) -> Vec<(u64, u64, String)> {
    let mut pieces = Vec::new();
    examine(bytes, &options(None), |item| {
        pieces.push((item.offset - start, item.length, format!("{:?}", item.event)));
    });
    pieces
}

static PIECES: LazyLock<Vec<(u64, u64, String)>> = LazyLock::new(|| pieces(&STREAM, 0));

fn file(input: &Input<'_>, xml_bytes: usize, data: &[u8]) -> Vec<u8> {
    let word = |value: u32| if input.swapped { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut out = if input.complete { b"LibvirtQemudSave".to_vec() } else { b"LibvirtQemudPart".to_vec() };
    let length = input.length.unwrap_or(u32::try_from(data.len()).expect("small"));
    let cookie = u32::try_from(HEADER_BYTES + xml_bytes + 1).expect("small");
    for value in [input.version % 5, length, input.was_running, input.format % 9, cookie] {
        out.extend_from_slice(&word(value));
    }
    out.resize(HEADER_BYTES, 0);
    out.extend_from_slice(data);
    out
}

fuzz_target!(|input: Input<'_>| {
    let xml = short(input.xml);
    let mut data = xml.to_vec();
    data.push(0);
    data.extend_from_slice(short(input.cookie));
    let mut bytes = file(&input, xml.len(), &data);
    bytes.extend_from_slice(input.stream.map_or(&STREAM, short));
    let start = HEADER_BYTES + data.len();
    let as_it_is = input.length.is_none() && input.stream.is_none();
    let known = matches!(input.version % 5, 1..=3) && (input.version % 5 == 1 || input.format % 9 < 7);
    match open(&bytes, &options(None)) {
        Ok(opened) => {
            assert!(known, "{:?}", opened.libvirt);
            let (header, found) = opened.libvirt.expect("a header");
            assert_eq!((header.complete, header.swapped), (input.complete, input.swapped));
            assert_eq!((header.version, header.was_running), (input.version % 5, input.was_running != 0));
            if as_it_is {
                assert_eq!((opened.kind, opened.start), (Kind::Libvirt, start as u64));
                assert_eq!(found, xml.split(|&byte| byte == 0).next().unwrap_or_default());
                assert_eq!(pieces(&bytes, start as u64), *PIECES);
            }
        }
        Err(error) => assert!(!as_it_is || !known, "{error}"),
    }
    for (at, value) in input.changes.iter().take(16) {
        let at = usize::from(*at) % bytes.len();
        bytes[at] = *value;
    }
    if let Some(cut) = input.cut {
        bytes.truncate(usize::from(cut) % (bytes.len() + 1));
    }
    examine(&bytes, &options(None), |_| {});
});
