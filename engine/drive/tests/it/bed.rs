//! What the tests of the program share.

use migration_stream::{
    BlockList, Configuration, RAM_SECTION_VERSION, RamBlock, SectionHeader, SectionId, put_configuration,
    put_end_of_section, put_file_header, put_ram_blocks, put_section_end, put_section_footer,
    put_section_header, put_section_part,
};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The section id of RAM in [`begin_of_ram`].
pub(crate) const RAM: SectionId = SectionId(2);

/// The program, with its output in pipes and nothing on stdin.
pub(crate) fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qemu-snapshot"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end of the program, a minute at most.
pub(crate) fn end(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("our own child").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("our own child");
            panic!("it did not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().expect("its output")
}

/// What the program printed to stderr.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A block of this many bytes.
pub(crate) fn block(idstr: &[u8], used_length: u64) -> RamBlock {
    RamBlock { idstr: idstr.to_vec(), used_length, host_page_size: None, guest_physical_address: None }
}

/// A stream up to its first page: a block `pc.ram` with this many pages of 4 KiB.
pub(crate) fn begin_of_ram(pages: u64) -> Vec<u8> {
    begin_of_blocks(vec![block(b"pc.ram", pages * 4096)])
}

/// A stream up to its first page.
pub(crate) fn begin_of_blocks(blocks: Vec<RamBlock>) -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    let header =
        SectionHeader { section_id: RAM, idstr: b"ram", instance_id: 0, version_id: RAM_SECTION_VERSION };
    put_section_header(&mut out, false, &header);
    put_ram_blocks(&mut out, &BlockList { blocks });
    put_end_of_section(&mut out);
    put_section_part(&mut out, RAM);
    out
}

/// A guest with one page and one device.
pub(crate) fn stream() -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    put_configuration(&mut out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    let ram = SectionHeader { section_id: SectionId(1), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut out, false, &ram);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 4096,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    put_section_part(&mut out, SectionId(1));
    migration_stream::ram::put_page_header(&mut out, Some(b"pc.ram"), 0);
    out.extend_from_slice(&[0x5a; 4096]);
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    put_section_end(&mut out, SectionId(1));
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    let device = SectionHeader { section_id: SectionId(2), idstr: b"d", instance_id: 0, version_id: 1 };
    put_section_header(&mut out, true, &device);
    out.push(7);
    put_section_footer(&mut out, SectionId(2));
    let json = r#"{"page_size": 4096, "devices": [{"name": "d", "instance_id": 0, "vmsd_name": "d", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]}]}"#;
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out
}

/// What follows the last page: the end of RAM, a device, and the description of it.
pub(crate) fn end_of_stream(out: &mut Vec<u8>) {
    put_end_of_section(out);
    put_section_end(out, RAM);
    put_end_of_section(out);
    let header = SectionHeader { section_id: SectionId(3), idstr: b"timer", instance_id: 0, version_id: 2 };
    put_section_header(out, true, &header);
    out.extend_from_slice(&[0; 24]);
    let field = r#"{"name": "all", "type": "buffer", "size": 24}"#;
    let device = r#"{"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2, "fields": ["#;
    let vmdesc = format!(r#"{{"page_size": 4096, "devices": [{device}{field}]}}]}}"#);
    // End of the stream, vmdesc.
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&u32::try_from(vmdesc.len()).expect("it is short").to_be_bytes());
    out.extend_from_slice(vmdesc.as_bytes());
}

/// Saves a stream into a new image.
pub(crate) fn save(stream: &[u8], image: &Path) {
    let input = image.with_extension("input");
    std::fs::write(&input, stream).expect("a small file");
    let stdin = std::fs::File::open(&input).expect("just written");
    let output = end(tool().arg("--create").arg(image).stdin(stdin).spawn().expect("it starts"));
    assert!(output.status.success(), "{}", said(&output));
    std::fs::remove_file(input).expect("our own file");
}
