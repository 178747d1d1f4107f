//! What a save says of a bad stream: the whole message, with offset, path, found and expected.

use crate::bed::{save, save_config, stream_of};
use migration_stream::{
    BlockList, Command, Configuration, Entry, Options, PageSize, PostcopyAdvise, RamBlock, Record,
    SectionHeader, SectionId, SliceReader, put_command, put_configuration, put_end_of_section,
    put_file_header, put_multifd_flush, put_page_header, put_ram_blocks, put_section_footer,
    put_section_header, put_section_part,
};
use snapshot_image::Layout;
use vm_simulator::{Fault, Style, VmConfig};

fn config() -> VmConfig {
    let mut config = VmConfig::background(2, 64 << 10, 50);
    config.devices = 2;
    config.device_bytes = 40;
    config
}

/// A stream up to the footer of the RAM section's START, with `capabilities`.
fn start(capabilities: &[&str], blocks: &[(&[u8], u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    let names = capabilities.iter().map(|name| name.as_bytes().to_vec()).collect();
    let capabilities = (!capabilities.is_empty()).then_some(names);
    put_configuration(
        &mut out,
        &Configuration { machine: b"pc".to_vec(), capabilities, ..Default::default() },
    );
    let header = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut out, false, &header);
    let block = |(name, length): &(&[u8], u64)| RamBlock {
        idstr: name.to_vec(),
        used_length: *length,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: blocks.iter().map(block).collect() });
    put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(2));
    out
}

fn with(mut head: Vec<u8>, put: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    put(&mut head);
    head.extend_from_slice(&[0; 100]);
    head
}

const PC: &[(&[u8], u64)] = &[(b"pc.ram", 1 << 20)];

fn check(stream: &[u8], expected: &str) {
    let (world, outcome) = save(&config(), stream, None, 1, Fault::None);
    let failure = outcome.unwrap().expect_err(expected);
    assert_eq!(failure.to_string(), expected);
    assert_eq!(world.image, None, "{expected}: nothing is left behind");
}

#[test]
fn what_is_no_stream_is_named() {
    let no = |what: &str| format!("offset 0x0: not a migration stream: magic {what}, expected 0x5145564d");
    check(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", &no("0x1f8b0800 (gzip)"));
    let libvirt = "0x4c696276 (a libvirt save file: the stream is behind its header)";
    check(b"LibvirtQemudSave", &no(libvirt));
    check(b"QFI\xfb\0\0\0\x03", &no("0x514649fb (a qcow2 image)"));
    check(b"\x11\x22\x33\x44\0\0\0\x01", &no("0x11223344 (a multifd channel)"));
    check(b"QEVM\0\0\0\x02", "offset 0x4: stream version 2 (obsolete v2 format), expected 3");
    check(b"", "offset 0x0: truncated: the stream ends inside the file header");
    check(b"QEVM\0", "offset 0x5: truncated: the stream ends inside the file header");
}

#[test]
fn a_bad_configuration_is_refused() {
    check(
        b"QEVM\0\0\0\x03\x07\xff\xff\xff\xff",
        "offset 0x9: configuration: machine name length is 4294967295, the limit is 255",
    );
    let mut stream = b"QEVM\0\0\0\x03\x07\0\0\0\x02pc\x05\x0fconfiguration/x\0\0\0\x01".to_vec();
    stream.extend_from_slice(&[0; 20]);
    check(&stream, "offset 0x10: configuration: unknown configuration subsection \"configuration/x\"");
}

#[test]
fn bad_sections_are_refused() {
    let head = start(&[], PC);
    check(&with(head.clone(), |out| out.push(0x33)), "offset 0x44: unknown section type 0x33");
    check(
        &with(head.clone(), |out| out.push(0x7e)),
        "offset 0x44: unknown section type 0x7e: a footer without a section",
    );
    check(
        &with(head.clone(), |out| put_section_part(out, SectionId(9))),
        "offset 0x45: section id 9 was not started",
    );
    let header = SectionHeader { section_id: SectionId(5), idstr: b"new\x1b", instance_id: 0, version_id: 7 };
    check(
        &with(head.clone(), |out| put_section_header(out, false, &header)),
        "offset 0x45: section \"new\\x1b\" version 7 has a body of unknown grammar",
    );
    let again = SectionHeader { section_id: SectionId(2), idstr: b"ram", instance_id: 0, version_id: 4 };
    check(
        &with(head.clone(), |out| put_section_header(out, false, &again)),
        "offset 0x45: section id 2 is started again, first as \"ram\"",
    );
    let wrong_footer = |out: &mut Vec<u8>| {
        put_section_part(out, SectionId(2));
        put_end_of_section(out);
        put_section_footer(out, SectionId(3));
    };
    let expected = "offset 0x52: section 2 \"ram\": section footer id 3, expected 2 (send-section-footer)";
    check(&with(head.clone(), wrong_footer), expected);
    let no_footer = |out: &mut Vec<u8>| {
        put_section_part(out, SectionId(2));
        put_end_of_section(out);
    };
    let expected =
        "offset 0x51: section 2 \"ram\": section footer mark 0x00, expected 0x7e (send-section-footer)";
    check(&with(head, no_footer), expected);
}

#[test]
fn bad_block_lists_are_refused() {
    let list = |blocks: &[(&[u8], u64)], total: u64| {
        let mut stream = start(&[], blocks);
        let at = stream.windows(3).position(|window| window == b"ram").unwrap() + 3 + 8;
        stream[at..at + 8].copy_from_slice(&(total | 4).to_be_bytes());
        stream
    };
    check(
        &list(PC, 1 << 19),
        "offset 0x2f: section 2 \"ram\": ram block \"pc.ram\" used length 1048576 bytes, more than what is left of the list's sum; \
         page size 4096 was assumed",
    );
    check(
        &list(&[(b"a", 8192), (b"a", 4096)], 12288),
        "offset 0x32: section 2 \"ram\": ram block \"a\" listed twice",
    );
    check(
        &list(&[(b"a", 4097)], 8192),
        "offset 0x2a: section 2 \"ram\": ram block \"a\" used length 4097 bytes, not a multiple of the page size; page size 4096 \
         was assumed",
    );
    check(
        &list(PC, 1 << 63),
        "offset 0x28: section 2 \"ram\": RAM size is 9223372036854775808, the limit is 17592186044416",
    );
}

#[test]
fn bad_pages_are_refused() {
    let head = start(&[], PC);
    let page = |name: Option<&'static [u8]>, offset: u64| {
        with(head.clone(), move |out| {
            put_section_part(out, SectionId(2));
            put_page_header(out, name, offset);
            out.resize(out.len() + 4096, 1);
        })
    };
    let path = "offset 0x49: section 2 \"ram\"";
    check(&page(None, 0), &format!("{path}: page flag CONTINUE before any block was named"));
    check(&page(Some(b"no\xff"), 0), "offset 0x51: section 2 \"ram\": unknown ram block \"no\\xff\"");
    check(
        &page(Some(b"pc.ram"), 1 << 20),
        &format!("{path}: ram block \"pc.ram\" page offset 0x100000, the block has 0x100000 bytes"),
    );
    check(
        &page(Some(b"pc.ram"), 0x800),
        &format!("{path}: page flags 0x808 unknown; page size 4096 was assumed"),
    );
}

#[test]
fn what_cannot_be_stored_is_refused_by_name() {
    check(
        &start(&["mapped-ram"], PC),
        "offset 0x3f: capability mapped-ram: RAM lies in a file with holes, not in this stream; it cannot be read from a channel",
    );
    let flush = |out: &mut Vec<u8>| {
        put_section_part(out, SectionId(2));
        put_multifd_flush(out);
        put_end_of_section(out);
        put_section_footer(out, SectionId(2));
    };
    check(
        &with(start(&[], PC), flush),
        "the source uses multifd: its RAM is not in this stream; switch the capability multifd off",
    );
    let advise = PostcopyAdvise { page_size_summary: 4096, target_page_size: 4096 };
    let listens = |out: &mut Vec<u8>| {
        put_command(out, &Command::PostcopyAdvise(Some(advise)));
        put_command(out, &Command::PostcopyListen);
    };
    check(
        &with(start(&[], PC), listens),
        "offset 0x59: the source switches to postcopy (POSTCOPY_LISTEN); a stream can be stored in precopy only",
    );
}

/// The stream of `config` without the pages of block number `absent`, which comes last.
fn without_pages(config: &VmConfig, absent: usize) -> Vec<u8> {
    let (vm, stream) = stream_of(config);
    let options = Options::default().with_page_size(PageSize::new(config.page_size.into()));
    let mut reader = SliceReader::new(&stream, options);
    let (mut out, mut blocks) = (Vec::new(), Vec::new());
    while let Some(Entry { offset: at, record, .. }) = reader.advance().unwrap() {
        match &record {
            Record::Page(page) if page.block == absent => continue,
            Record::Full(..) if at >= (stream.len() - vm.tail().len()) as u64 => break,
            Record::RamBlocks(list) => blocks.clone_from(&list.blocks),
            _ => {}
        }
        record.put(&mut out, &blocks);
    }
    out.extend_from_slice(vm.tail());
    out
}

#[test]
fn ignored_shared_ram_is_refused_by_its_name_with_early_devices_too() {
    for early_devices in [false, true] {
        for names in [&[&b"pc.bios"[..], b"pc.\x1bram"][..], &[b"pc.\x1bram"]] {
            let mut config = config();
            config.blocks = names.iter().map(|name| (name.to_vec(), 64 << 10)).collect();
            config.nonzero_percent = 100;
            (config.ignore_shared, config.early_devices) = (true, early_devices);
            let (vm, stream) = stream_of(&config);
            let (world, outcome) = save(&config, &stream, None, 1, Fault::None);
            outcome.unwrap().expect("RAM that was sent is stored, whatever the capability");
            crate::bed::check_holds(&world.image.unwrap(), &vm, 1).unwrap();
            check(
                &without_pages(&config, names.len() - 1),
                "capability x-ignore-shared: the RAM of block \"pc.\\x1bram\" is not in the stream; switch the capability off",
            );
        }
    }
}

#[test]
fn ram_that_cpr_hands_over_is_not_taken_for_that_of_multifd() {
    let mut config = config();
    config.blocks = vec![(b"pc.ram".to_vec(), 64 << 10)];
    check(
        &without_pages(&config, 0),
        "the stream lists RAM and has no page of it, as in migration mode cpr-exec or cpr-transfer, which hands RAM over in \
         memory; a snapshot needs mode normal",
    );
}

#[test]
fn a_wrong_page_size_is_an_error_that_says_so() {
    let mut config = config();
    config.page_size = 1024;
    config.vmdesc = false;
    let (_, stream) = stream_of(&config);
    let mut wrong = config.clone();
    wrong.page_size = 4096;
    let (_, outcome) = save(&wrong, &stream, None, 1, Fault::None);
    let text = outcome.unwrap().unwrap_err().to_string();
    assert!(text.contains("page size 4096 was assumed"), "{text}");
}

#[test]
fn a_sparse_giant_and_many_mib_of_devices_are_saved_in_little_memory() {
    let mut config = VmConfig::background(3, 0, 40);
    config.page_size = 65536;
    config.blocks = vec![(b"giant".to_vec(), 64 << 30), (b"small".to_vec(), 1 << 20)];
    config.nonzero_percent = 0;
    config.style = Style::Background;
    config.early_devices = true;
    config.devices = 5;
    config.device_bytes = 6 << 20;
    let (vm, stream) = stream_of(&config);
    assert!(vm.tail().len() > 4 << 20, "{} bytes of devices", vm.tail().len());
    for layout in [Layout::Dense, Layout::Linear] {
        let mut config_now = save_config(&config, None);
        config_now.create = Some(snapshot_image::Geometry::default().into());
        config_now.layout = Some(layout);
        let mut machine = snapshot_engine::SaveMachine::new(config_now);
        let mut world = vm_simulator::World::new(2, None, stream.clone(), Fault::None);
        world.run(&mut machine);
        assert_eq!(
            machine.outcome().map(|summary| summary.nonzero_pages).map_err(|failure| failure.to_string()),
            Ok(0)
        );
        assert!(world.peak_buffer_bytes < 128 << 20, "{} bytes of buffers", world.peak_buffer_bytes);
        let image = world.image.unwrap();
        let written = image.sectors().count() << 12;
        assert!(written < 64 << 20, "{written} bytes of image");
        if layout == Layout::Dense {
            assert!(image.length() < 64 << 20, "{} bytes of image", image.length());
            crate::bed::check_holds(&image, &vm, 1).unwrap();
        }
    }
}
