//! What an input costs: time and memory that follow its length, not what it says of itself.
//!
//! Limits are of CPU time and of address space (`ulimit`), so that a busy machine changes nothing;
//! each is several times what is needed, and a small part of what was needed when the costs grew
//! faster than the input.

use crate::common::{all, corpus};
use migration_stream::{
    BlockList, Configuration, RamBlock, SectionHeader, SectionId, put_configuration, put_file_header,
    put_ram_blocks, put_section_end, put_section_footer, put_section_header, put_section_part,
};
use std::path::Path;
use std::process::{Command, Output};

/// The most blocks that a list can have.
const BLOCK_LIMIT: usize = 1 << 17;

/// A stream with these blocks and pages (block, offset), without devices.
fn stream(blocks: Vec<RamBlock>, pages: &[(usize, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    put_configuration(&mut out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut out, false, &header);
    put_ram_blocks(&mut out, &BlockList { blocks: blocks.clone() });
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(2));
    put_section_part(&mut out, SectionId(2));
    for (block, offset) in pages {
        migration_stream::ram::put_page_header(&mut out, Some(&blocks[*block].idstr), *offset);
        out.extend_from_slice(&[0x5a; 4096]);
    }
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(2));
    put_section_end(&mut out, SectionId(2));
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(2));
    out
}

fn with_vmdesc(mut stream: Vec<u8>, json: &str) -> Vec<u8> {
    stream.extend_from_slice(&[0, 6]);
    stream.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
    stream.extend_from_slice(json.as_bytes());
    stream
}

const NO_DEVICES: &str = r#"{"page_size": 4096, "devices": []}"#;

fn blocks(count: usize, used_length: u64) -> Vec<RamBlock> {
    let block = |number| RamBlock {
        idstr: format!("b{number}").into_bytes(),
        used_length,
        host_page_size: None,
        guest_physical_address: None,
    };
    (0..count).map(block).collect()
}

/// Runs the program on `arguments` in `folder`, with at most so much CPU time and address space.
fn limited(folder: &Path, arguments: &str, seconds: u32, mebibytes: u64) -> Output {
    let script = format!("ulimit -t {seconds}; ulimit -v {}; exec \"$0\" {arguments}", mebibytes << 10);
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_snapinspect")])
        .current_dir(folder)
        .output()
        .expect("a shell")
}

#[test]
fn many_blocks_cost_what_each_of_them_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let put = |name: &str, count: usize| {
        let bytes = with_vmdesc(stream(blocks(count, 4096), &[(count / 2, 0), (count - 1, 0)]), NO_DEVICES);
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    };
    put("many", BLOCK_LIMIT);
    put("more", BLOCK_LIMIT + 1);
    // Each pair of blocks compared would be 10^10 comparisons: minutes.
    for arguments in [
        "check many",
        "stat many",
        "dump many",
        "diff many many",
        "compat many many",
        "map many -o many.svg",
        "extract many --block b7 -o b7",
        "convert many many.stream --to stream",
    ] {
        // 2 MiB of input.
        let output = limited(folder.path(), arguments, 20, 400);
        assert_ne!(output.status.code(), None, "{arguments}: ended by a limit");
        assert!(!all(&output).contains("emory"), "{arguments}: {}", all(&output));
    }
    let output = limited(folder.path(), "check more", 20, 400);
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    let text = all(&output);
    assert!(
        text.contains("error section 2 \"ram\": number of RAM blocks is 131073, the limit is 131072"),
        "{text}"
    );
    // What never arrived is refused first.
    let whole: Vec<_> = (0..5000).map(|block| (block, 0)).collect();
    let bytes = with_vmdesc(stream(blocks(whole.len(), 4096), &whole), NO_DEVICES);
    std::fs::write(folder.path().join("whole"), bytes).expect("a file");
    let output = limited(folder.path(), "convert whole whole.mapped --to mapped-ram", 20, 400);
    assert!(
        all(&output).contains("5000 RAM blocks: a mapped-ram file with more than 4096"),
        "{}",
        all(&output)
    );
}

#[test]
fn ram_that_is_zero_costs_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let length = 15 << 40;
    let pages = [(0, 0), (0, 1 << 40), (0, length - 4096)];
    let huge = with_vmdesc(stream(blocks(1, length), &pages), NO_DEVICES);
    let other = with_vmdesc(stream(blocks(1, length), &pages[1..]), NO_DEVICES);
    std::fs::write(folder.path().join("huge"), huge).expect("a file");
    std::fs::write(folder.path().join("other"), other).expect("a file");
    // 4 * 10^9 pages: one look at each takes a minute.
    for (arguments, status, wanted) in [
        ("check huge", 0, ""),
        ("stat huge", 0, ""),
        ("diff huge huge", 0, ""),
        ("diff --format line huge other", 1, "pages block=\"b0\" start=0x0 pages=1"),
        ("map huge -o huge.png", 0, ""),
        ("map huge --against other -o huge.svg", 0, ""),
        ("extract huge --block b0 -o b0 --start 0x10000000000 --length 0x20000000000", 0, ""),
        ("convert huge huge.stream --to stream", 0, ""),
        // An image holds no page that is zero, and is not walked as if it did.
        ("convert huge huge.image --to image", 0, ""),
        ("check huge.image", 0, "0 errors, 0 warnings"),
        ("stat huge.image", 0, ""),
        ("diff huge huge.image", 0, ""),
        ("diff --format line huge.image other", 1, "pages block=\"b0\" start=0x0 pages=1"),
        ("map huge.image -o image.png", 0, ""),
        ("extract huge.image --block b0 -o b1 --start 0x10000000000 --length 0x20000000000", 0, ""),
        ("compat huge.image huge.image", 0, ""),
        // A bitmap of 480 MiB for three pages.
        ("convert huge.image huge.mapped --to mapped-ram", 0, ""),
        ("check huge.mapped", 0, "0 errors, 0 warnings"),
        ("stat huge.mapped", 0, ""),
        ("diff --format line huge.mapped other", 1, "pages block=\"b0\" start=0x0 pages=1"),
        ("dump --format line huge.mapped", 0, "mapped_bitmap block=\"b0\" start=0x800000000 bits_set=0"),
        ("convert huge.mapped back.image --to image", 0, ""),
        ("convert huge.image again.image --to image", 0, ""),
    ] {
        let output = limited(folder.path(), arguments, 5, 400);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {}", all(&output));
        assert!(all(&output).contains(wanted), "{arguments}: {}", all(&output));
    }
    let taken = std::fs::metadata(folder.path().join("b0")).expect("written");
    assert_eq!(taken.len(), 2 << 40);
    use std::os::unix::fs::MetadataExt;
    // Written in pieces of 1 MiB.
    assert!(taken.blocks() < 4096, "{} blocks of 512 bytes", taken.blocks());
}

#[test]
fn a_long_line_is_written_piece_by_piece() {
    const BODY_BYTES: usize = 200 << 20;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bytes = stream(blocks(1, 4096), &[(0, 0)]);
    let header = SectionHeader { section_id: SectionId(9), idstr: b"device", instance_id: 0, version_id: 1 };
    put_section_header(&mut bytes, true, &header);
    bytes.resize(bytes.len() + BODY_BYTES, 0xa5);
    put_section_footer(&mut bytes, SectionId(9));
    // One that nothing describes, and one that is described as a single field.
    let field = format!(r#"{{"name": "all", "type": "buffer", "size": {BODY_BYTES}}}"#);
    let device = format!(
        r#"{{"name": "device", "instance_id": 0, "vmsd_name": "d", "version": 1, "fields": [{field}]}}"#
    );
    let described = with_vmdesc(bytes.clone(), &format!(r#"{{"page_size": 4096, "devices": [{device}]}}"#));
    std::fs::write(folder.path().join("described"), described).expect("a file");
    bytes.push(0);
    std::fs::write(folder.path().join("large"), bytes).expect("a file");
    for file in ["large", "described"] {
        for format in ["line", "json"] {
            let arguments = format!("dump --format {format} {file} >out");
            // The body as it is mapped, and nothing of its size beside.
            let output = limited(folder.path(), &arguments, 30, 300);
            assert!(output.status.code().is_some_and(|code| code < 2), "{file} {format}: {}", all(&output));
            let written = std::fs::metadata(folder.path().join("out")).expect("written").len();
            assert!(written > 2 * BODY_BYTES as u64, "{file} {format}: {written} bytes");
        }
    }
}

#[test]
fn a_vmdesc_over_its_limit_is_told_where_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stream = stream(blocks(1, 4096), &[(0, 0)]);
    let at = stream.len() + 2;
    let json = format!("{{\"page_size\": 4096, \"x\": \"{}\", \"devices\": []}}", "a".repeat(16 << 20));
    std::fs::write(folder.path().join("vmdesc"), with_vmdesc(stream, &json)).expect("a file");
    for arguments in ["check vmdesc", "stat vmdesc", "dump vmdesc", "diff vmdesc vmdesc"] {
        let output = limited(folder.path(), arguments, 10, 400);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {}", all(&output));
        let wanted = format!("vmdesc length is {}, the limit is 16777216", json.len());
        assert!(all(&output).contains(&wanted), "{arguments}: {}", all(&output));
        let offset = [format!("{at:#x}"), format!("{at:#010x}")];
        assert!(offset.iter().any(|offset| all(&output).contains(offset)), "{arguments}: {}", all(&output));
    }
}

#[test]
fn devices_beyond_the_limit_are_refused_and_not_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bytes = stream(blocks(1, 4096), &[(0, 0)]);
    for number in 0..=1 << 16 {
        let header =
            SectionHeader { section_id: SectionId(9), idstr: b"d", instance_id: number, version_id: 1 };
        put_section_header(&mut bytes, true, &header);
        put_section_footer(&mut bytes, SectionId(9));
    }
    bytes.push(0);
    std::fs::write(folder.path().join("devices"), bytes).expect("a file");
    let stream = corpus().join("qemu-10.0-pc.bin.zst");
    for arguments in
        [format!("diff devices {}", stream.display()), "extract devices --device d -o d".to_owned()]
    {
        let output = limited(folder.path(), &arguments, 20, 400);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {}", all(&output));
        assert!(all(&output).contains("more than 65536 device sections"), "{}", all(&output));
    }
}
