//! A live precopy stream with pages of every kind, dirty bitmaps, devices and a vmdesc.

use migration_stream::{
    BlockList, ChunkKind, DirtyBitmapChunk, RamBlock, put_compressed_page, put_dirty_bitmap_chunk,
    put_end_of_section, put_page_header, put_ram_blocks, put_xbzrle_page, put_zero_page,
};

use super::{Kind, Recipes, base::Base};

/// Bytes of a page: the smallest there is.
const PAGE: usize = 1024;

/// A zlib stream of a page of `a`, stored as it is.
fn zlib() -> Vec<u8> {
    let mut out = vec![0x78, 0x01, 0x01];
    let length = u16::try_from(PAGE).expect("a page is small");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(&[b'a'; PAGE]);
    let (low, high) = (0..PAGE).fold((1_u32, 0_u32), |(a, b), _| ((a + 97) % 65521, (a + 97 + b) % 65521));
    out.extend_from_slice(&((high << 16) | low).to_be_bytes());
    out
}

fn base() -> Base {
    let mut base = Base::new("precopy");
    base.mark("magic").put(b"QEVM").mark("version").put(&[0, 0, 0, 3]);
    base.mark("configuration").put(&[7]).mark("machine length").put(&[0, 0, 0, 2]).put(b"pc");
    base.mark("page bits")
        .put(b"\x05\x1econfiguration/target-page-bits")
        .put(&[0, 0, 0, 1])
        .mark("bits")
        .put(&[0, 0, 0, 10]);
    base.mark("uuid").put(b"\x05\x12configuration/uuid\0\0\0\x01").put(&[0x5a; 16]);
    ram_start(&mut base);
    bitmap_start(&mut base);
    pages(&mut base);
    base.mark("end").put(&[3, 0, 0, 0, 2]).put_with(put_end_of_section).footer(2);
    bitmap_end(&mut base);
    devices(&mut base);
    base
}

fn ram_start(base: &mut Base) {
    base.mark("ram start").section(false, 2, b"ram", 4);
    base.mark("ram body").put_with(|out| {
        let block = |name: &[u8], pages: usize| RamBlock {
            idstr: name.to_vec(),
            used_length: (pages * PAGE) as u64,
            host_page_size: None,
            guest_physical_address: None,
        };
        put_ram_blocks(out, &BlockList { blocks: vec![block(b"pc.ram", 16), block(b"rom", 2)] });
    });
    base.mark("ram eos").put_with(put_end_of_section);
    base.mark("ram footer").footer(2);
}

fn chunk<'a>(node: Option<&'a [u8]>, bitmap: Option<&'a [u8]>, kind: ChunkKind<'a>) -> DirtyBitmapChunk<'a> {
    DirtyBitmapChunk { node, bitmap, kind }
}

fn bitmap_start(base: &mut Base) {
    base.mark("bitmap section").section(false, 3, b"dirty-bitmap", 1).mark("bitmap start");
    let start = ChunkKind::Start { granularity: 65536, flags: 1 };
    base.put_with(|out| put_dirty_bitmap_chunk(out, &chunk(Some(b"disk0"), Some(b"backup"), start)));
    base.put(&[1]).footer(3);
}

fn bitmap_end(base: &mut Base) {
    base.put(&[3, 0, 0, 0, 3]).mark("bitmap bits");
    let bits = ChunkKind::Bits { first_sector: 0, sectors: 4096, bits: Some(&[0x81; 32]) };
    base.put_with(|out| put_dirty_bitmap_chunk(out, &chunk(None, Some(b"backup"), bits)));
    base.mark("bitmap complete");
    base.put_with(|out| put_dirty_bitmap_chunk(out, &chunk(None, Some(b"backup"), ChunkKind::Complete)));
    base.put(&[1]).footer(3);
}

fn pages(base: &mut Base) {
    base.mark("part").put(&[2, 0, 0, 0, 2]).mark("page");
    base.put_with(|out| put_page_header(out, Some(b"pc.ram"), 0)).mark("page data").put(&[b'p'; PAGE]);
    base.mark("continued").put_with(|out| put_page_header(out, None, PAGE as u64)).put(&[b'q'; PAGE]);
    base.mark("zero").put_with(|out| put_zero_page(out, None, 2 * PAGE as u64));
    // One byte of the first page becomes x.
    base.mark("xbzrle").put_with(|out| put_xbzrle_page(out, None, 0, b"\x05\x01x"));
    base.mark("compressed").put_with(|out| put_compressed_page(out, None, 3 * PAGE as u64, &zlib()));
    base.mark("rom page").put_with(|out| put_page_header(out, Some(b"rom"), 0)).put(&[b'r'; PAGE]);
    base.mark("part eos").put_with(put_end_of_section).mark("part footer").footer(2);
}

fn devices(base: &mut Base) {
    base.mark("device").section(true, 10, b"timer", 2).put(&[0x11; 16]).mark("device footer").footer(10);
    base.mark("second device").section(true, 11, b"cpu", 12).put(&[0x22; 8]);
    base.put(b"\x05\x07cpu/fpu\0\0\0\x01").put(&[0x33; 4]).mark("second footer").footer(11);
    base.mark("eof").put(&[0]);
    let json = concat!(
        r#"{"page_size": 1024, "devices": ["#,
        r#"{"name": "timer", "instance_id": 0, "vmsd_name": "timer", "version": 2, "fields": "#,
        r#"[{"name": "ticks", "array_len": 2, "type": "int64", "size": 8}]}, "#,
        r#"{"name": "cpu", "instance_id": 0, "vmsd_name": "cpu", "version": 12, "fields": "#,
        r#"[{"name": "pc", "type": "uint64", "size": 8}], "subsections": "#,
        r#"[{"vmsd_name": "cpu/fpu", "version": 1, "fields": [{"name": "x", "type": "uint32", "size": 4}]}]}]}"#,
    );
    base.mark("vmdesc").put(&[6]).put(&u32::try_from(json.len()).expect("short").to_be_bytes());
    base.mark("json").put(json.as_bytes()).mark("end of file");
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Stream, base());
    header_and_configuration(&mut r);
    sections(&mut r);
    block_list(&mut r);
    page_records(&mut r);
    packed_pages(&mut r);
    dirty_bitmaps(&mut r);
    tail(&mut r);
    vmdesc(&mut r);
    r
}

fn header_and_configuration(r: &mut Recipes) {
    r.cut("empty", "no bytes", ("magic", 0));
    r.cut("header-short", "cut inside the header", ("version", 2));
    r.set("magic-gzip", "the magic is gzip's", ("magic", 0), b"\x1f\x8b\x08\0");
    r.set("magic-libvirt", "the magic is libvirt's", ("magic", 0), b"LibvirtQ");
    r.set("magic-xz", "the magic is xz's", ("magic", 0), b"\xfd7zXZ\0");
    r.set("magic-multifd", "the magic is a multifd channel's", ("magic", 0), &[0x11, 0x22, 0x33, 0x44]);
    r.set("version-0", "version 0", ("version", 0), &[0; 4]);
    r.set("version-2", "version 2, obsolete", ("version", 0), &[0, 0, 0, 2]);
    r.set("version-4", "version 4", ("version", 0), &[0, 0, 0, 4]);
    r.set("machine-length-max", "machine name of 4 GiB", ("machine length", 0), &[0xff; 4]);
    r.set("machine-length-256", "machine name of 256 bytes", ("machine length", 0), &[0, 0, 1, 0]);
    r.set("configuration-cut", "machine name longer than it is", ("machine length", 0), &[0, 0, 0, 9]);
    r.insert(
        "subsection-unknown",
        "an unknown subsection",
        "uuid",
        b"\x05\x0fconfiguration/x\0\0\0\x01\0\0\0\0",
    );
    r.insert("subsection-empty-name", "a subsection without a name", "uuid", b"\x05\0\0\0\0\x01");
    r.insert("subsection-version", "a uuid of version 2", "uuid", b"\x05\x12configuration/uuid\0\0\0\x02");
    r.make("subsection-twice", "the uuid twice", |bytes, base| {
        let (from, to) = (base.at("uuid"), base.at("ram start"));
        let uuid = bytes[from..to].to_vec();
        bytes.splice(to..to, uuid);
    });
    let capabilities = b"\x05\x1aconfiguration/capabilities\0\0\0\x01";
    let with = |count: u32, rest: &[u8]| [&capabilities[..], &count.to_be_bytes(), rest].concat();
    r.insert("capabilities-count-max", "4 billion capabilities", "uuid", &with(u32::MAX, b"\x01x"));
    r.insert("capabilities-count-65", "65 capabilities", "uuid", &with(65, &b"\x01x".repeat(65)));
    r.insert("capability-mapped-ram", "capability mapped-ram", "uuid", &with(1, b"\x0amapped-ram"));
    r.insert("capability-empty", "a capability without a name", "uuid", &with(1, b"\0"));
    for (name, change, bits) in [
        ("page-bits-0", "target page bits 0", 0),
        ("page-bits-9", "target page bits 9", 9),
        ("page-bits-17", "target page bits 17", 17),
        ("page-bits-31", "target page bits 31", 31),
        ("page-bits-max", "target page bits 4294967295", u32::MAX),
        ("page-bits-12", "target page bits 12, the pages have 10", 12),
    ] {
        r.set(name, change, ("bits", 0), &bits.to_be_bytes());
    }
    r.make("configuration-twice", "the configuration twice", |bytes, base| {
        let (from, to) = (base.at("configuration"), base.at("ram start"));
        let configuration = bytes[from..to].to_vec();
        bytes.splice(to..to, configuration);
    });
}

fn sections(r: &mut Recipes) {
    for (name, change, byte) in [
        ("type-05", "a subsection at top level", 0x05),
        ("type-06", "a vmdesc before EOF", 0x06),
        ("type-07", "a configuration behind sections", 0x07),
        ("type-09", "section type 0x09", 0x09),
        ("type-7d", "section type 0x7d", 0x7d),
        ("type-7e", "a footer without a section", 0x7e),
    ] {
        r.set(name, change, ("part", 0), &[byte]);
    }
    r.set("idstr-empty", "an idstr of no bytes", ("ram start", 5), &[0]);
    r.set("idstr-unknown", "an iterable of unknown grammar", ("ram start", 6), b"r\0\xff");
    r.set("ram-version-3", "ram of version 3", ("ram start", 13), &[0, 0, 0, 3]);
    r.set("ram-version-5", "ram of version 5", ("ram start", 13), &[0, 0, 0, 5]);
    r.set("part-not-started", "PART of an id that has not started", ("part", 4), &[9]);
    r.set("end-not-started", "END of an id that has not started", ("end", 4), &[9]);
    r.set("part-of-0", "PART of id 0", ("part", 4), &[0]);
    r.make("start-twice", "the ram section starts twice", |bytes, base| {
        let (from, to) = (base.at("ram start"), base.at("part"));
        let start = bytes[from..from + 21].to_vec();
        bytes.splice(to..to, start);
    });
    r.make(
        "early-two-starts",
        "behind an early device two STARTs of ram that share four bytes",
        |bytes, base| {
            let device = b"\x04\0\0\0\x09\x05early\0\0\0\0\0\0\0\x01\x7e\0\0\0\x09";
            let start = b"\x01\0\0\0\x01\x03ram\0\0\0\0\0\0\0\x04";
            let list = b"\0\0\0\0\x01\0\0\x04\x01a\0\0\0\0\x01\0\0\0";
            let at = base.at("ram start");
            bytes.splice(at..at, [&device[..], start, list, &start[4..], list].concat());
        },
    );
    r.set("id-of-another", "dirty-bitmap's START has ram's id", ("bitmap section", 4), &[2]);
    r.set("footer-other-id", "footer of another section", ("part footer", 4), &[3]);
    r.set("footer-other-mark", "footer with another mark", ("part footer", 0), &[0x7f]);
    r.remove("footer-missing", "a PART without footer", "part footer", 5);
    r.remove("first-footer-missing", "START without footer, the others have one", "ram footer", 5);
    r.set("command-0", "command 0", ("part", 0), &[8, 0, 0, 0, 0]);
    r.set("command-12", "command 12", ("part", 0), &[8, 0, 12, 0, 0]);
    r.set("command-cut", "command longer than the stream", ("part", 0), &[8, 0, 2, 0xff, 0xff]);
}

fn block_list(r: &mut Recipes) {
    let total = |value: u64| (value | 4).to_be_bytes();
    r.set("list-total-0", "a block list of no bytes", ("ram body", 0), &total(0));
    r.set("list-total-short", "the sum is one page short", ("ram body", 0), &total(17 * 1024));
    r.set("list-total-over", "the sum is one page over", ("ram body", 0), &total(19 * 1024));
    r.set("list-total-2-63", "the sum is 2^63", ("ram body", 0), &total(1 << 63));
    r.set("list-total-max", "the sum is nearly 2^64", ("ram body", 0), &total(u64::MAX << 10));
    r.set("block-length-0", "a block of no bytes", ("ram body", 15), &[0; 8]);
    r.set("block-length-odd", "a block of part of a page", ("ram body", 15), &16385_u64.to_be_bytes());
    r.set("block-length-negative", "a block of -1024 bytes", ("ram body", 15), &(-1024_i64).to_be_bytes());
    r.set(
        "block-length-wraps",
        "lengths whose sum wraps",
        ("ram body", 15),
        &(u64::MAX - 4095).to_be_bytes(),
    );
    r.set("block-name-empty", "a block without a name", ("ram body", 8), &[0]);
    r.set("block-name-long", "a block's name of 255 bytes", ("ram body", 8), &[255]);
    r.make("block-twice", "two blocks of one name", |bytes, base| {
        let second = base.at("ram body") + 23;
        bytes.splice(second..second + 4, b"\x06pc.ram".iter().copied());
    });
    r.make("list-twice", "the block list twice", |bytes, base| {
        let (from, to) = (base.at("ram body"), base.at("ram eos"));
        let list = bytes[from..to].to_vec();
        bytes.splice(to..to, list);
    });
    r.make("list-in-part", "a block list in a PART", |bytes, base| {
        let (from, to) = (base.at("ram body"), base.at("ram eos"));
        let list = bytes[from..to].to_vec();
        let page = base.at("page");
        bytes.splice(page..page, list);
    });
    r.make("page-before-list", "pages before any block list", |bytes, base| {
        bytes.drain(base.at("ram body")..base.at("ram eos"));
    });
}

fn page_records(r: &mut Recipes) {
    let word = |word: u64| word.to_be_bytes();
    r.set(
        "page-outside",
        "a page at the end of its block (CVE-2014-7840)",
        ("page", 0),
        &word((16 * 1024) | 8),
    );
    r.set("page-far-outside", "a page at 2^62", ("page", 0), &word((1 << 62) | 8));
    r.set("page-negative", "a page at -1024", ("page", 0), &word((u64::MAX << 10) | 8));
    r.set("zero-outside", "a zero page outside its block", ("zero", 0), &word((16 * 1024) | 0x22));
    r.set("page-unaligned", "a page at 64", ("page", 0), &word(64 | 8));
    r.set("flags-none", "no flag", ("page", 0), &word(0));
    r.set("flags-obsolete", "the obsolete flag FULL", ("page", 0), &word(1));
    r.set("flags-two", "ZERO and PAGE at once", ("page", 0), &word(0x0a));
    r.set("flags-hook", "an RDMA hook", ("page", 0), &word(0x80));
    r.set("flags-unknown", "the flag above all known ones", ("page", 0), &word(0x208));
    r.set("continue-first", "CONTINUE before any block was named", ("page", 0), &word(0x28));
    r.set("continue-alone", "CONTINUE without a page", ("continued", 0), &word(0x20));
    r.set("eos-continued", "EOS with CONTINUE", ("part eos", 0), &word(0x30));
    r.set("eos-with-offset", "EOS with an offset", ("part eos", 0), &word(1024 | 0x10));
    r.set("block-unknown", "a page of an unknown block", ("page", 9), b"PC.RAM");
    r.set(
        "block-control-characters",
        "a page of a block with control characters",
        ("page", 9),
        b"\x1b[2J\xff\0",
    );
    r.set("zero-fill", "a zero page filled with 7 (CVE-2013-4535's kin)", ("zero", 8), &[7]);
    r.insert("multifd-flush", "the multifd channels synchronise", "zero", &word(0x200));
    r.cut("page-cut", "cut inside a page", ("page data", 1000));
    r.cut("word-cut", "cut inside a page's header", ("continued", 5));
    r.cut("eos-missing", "cut before EOS", ("part eos", 0));
}

fn packed_pages(r: &mut Recipes) {
    // Header (8), encoding (1), length (2), data.
    r.set("xbzrle-encoding", "an unknown encoding", ("xbzrle", 8), &[2]);
    r.set("xbzrle-length", "a delta longer than a page", ("xbzrle", 9), &[0x04, 0x01]);
    r.set("xbzrle-uleb-3", "a number of three bytes", ("xbzrle", 11), &[0x85, 0x81, 0x01]);
    r.set("xbzrle-run-past", "a run past the page", ("xbzrle", 11), &[0xff, 0x7f, 1]);
    r.set("xbzrle-literals-past", "more literals than there are", ("xbzrle", 12), &[9]);
    r.set("xbzrle-no-literals", "a run of no literals", ("xbzrle", 12), &[0]);
    r.set("xbzrle-short", "a delta of one byte", ("xbzrle", 9), &[0, 1]);
    // Header (8), length (4), zlib: 2, block header 5, data, checksum 4.
    r.set("zlib-length-0", "a zlib stream of no bytes", ("compressed", 8), &[0; 4]);
    r.set("zlib-length-max", "a zlib stream of 4 GiB", ("compressed", 8), &[0xff; 4]);
    r.set("zlib-header", "a zlib stream with another header", ("compressed", 12), &[0x79]);
    r.set("zlib-checksum", "a zlib stream with a wrong checksum", ("compressed", 12 + 7 + PAGE), &[0]);
    r.set("zlib-block-type", "a zlib stream with an unknown block", ("compressed", 14), &[0x07]);
    r.set("zlib-more-blocks", "a zlib stream that goes on", ("compressed", 14), &[0x00]);
    r.make("zlib-short-page", "a zlib stream of a byte less than a page", |bytes, base| {
        let at = base.at("compressed");
        let mut short = vec![0x78, 0x01, 0x01, 0xff, 0x03, 0x00, 0xfc];
        short.extend_from_slice(&[0; PAGE - 1]);
        short.extend_from_slice(&[0x03, 0xff, 0x00, 0x01]);
        bytes[at + 8..at + 12].copy_from_slice(&u32::try_from(short.len()).expect("short").to_be_bytes());
        bytes.splice(at + 12..at + 12 + zlib().len(), short);
    });
    r.make("zlib-trailing", "a byte behind the zlib stream", |bytes, base| {
        let at = base.at("compressed");
        let length = zlib().len();
        bytes[at + 8..at + 12].copy_from_slice(&u32::try_from(length + 1).expect("short").to_be_bytes());
        bytes.insert(at + 12 + length, 0);
    });
}

fn dirty_bitmaps(r: &mut Recipes) {
    // Flags (1), node (6), bitmap (7), granularity (4), bitmap flags (1).
    r.set("bitmap-granularity-0", "granularity 0", ("bitmap start", 14), &[0; 4]);
    r.set("bitmap-granularity-odd", "granularity 65537", ("bitmap start", 14), &[0, 1, 0, 1]);
    r.set("bitmap-granularity-256", "granularity 256", ("bitmap start", 14), &[0, 0, 1, 0]);
    r.set("bitmap-reserved-flags", "reserved flags of a bitmap", ("bitmap start", 18), &[0x09]);
    r.set("bitmap-extra-flags", "flags of two bytes", ("bitmap start", 0), &[0x9c]);
    r.set("bitmap-two-kinds", "START and COMPLETE at once", ("bitmap start", 0), &[0x3c]);
    // Flags (1), bitmap (7), first sector (8), sectors (4), size (8), bits.
    r.set("bitmap-size-max", "a piece of 2^63 bytes", ("bitmap bits", 20), &[0x80]);
    r.set("bitmap-size-10241", "a piece of 10241 bytes", ("bitmap bits", 20), &10241_u64.to_be_bytes());
    r.set("bitmap-sectors-wrap", "a range that wraps", ("bitmap bits", 8), &[0xff; 8]);
    r.set("bitmap-no-kind", "a chunk of no kind", ("bitmap complete", 0), &[0x04]);
    r.set("bitmap-eos-named", "EOS with a name", ("bitmap complete", 0), &[0x05]);
    r.cut("bitmap-cut", "cut inside the bits", ("bitmap bits", 40));
}

fn tail(r: &mut Recipes) {
    r.cut("devices-missing", "cut before the devices", ("device", 0));
    r.cut("device-cut", "cut inside a device", ("device", 20));
    r.cut("second-device-missing", "cut behind the first device", ("second device", 0));
    r.cut("eof-missing", "cut before EOF", ("eof", 0));
    r.cut("vmdesc-missing", "cut behind EOF", ("vmdesc", 0));
    r.cut("vmdesc-cut", "cut inside the vmdesc", ("json", 100));
    r.cut("vmdesc-length-cut", "cut inside the vmdesc's length", ("vmdesc", 3));
    r.insert("trailing-byte", "a byte behind the vmdesc", "end of file", b"\0");
    r.insert("trailing-stream", "another stream behind the vmdesc", "end of file", b"QEVM\0\0\0\x03");
    r.insert("after-eof", "a section behind EOF", "vmdesc", &[2, 0, 0, 0, 2]);
    r.insert("eof-before-devices", "EOF before the devices", "device", &[0]);
    r.make("eof-before-devices-no-vmdesc", "EOF before the devices, and no vmdesc", |bytes, base| {
        bytes.truncate(base.at("eof") + 1);
        bytes.insert(base.at("device"), 0);
    });
    r.set("eof-other", "another byte instead of EOF", ("eof", 0), &[1]);
    r.set("last-footer-mark", "no footer before EOF", ("second footer", 0), &[0]);
    r.set("vmdesc-length-0", "a vmdesc of no bytes", ("vmdesc", 1), &[0; 4]);
    r.set("vmdesc-length-max", "a vmdesc of 4 GiB", ("vmdesc", 1), &[0xff; 4]);
    r.set("vmdesc-length-short", "a vmdesc of a byte less", ("vmdesc", 4), &[0]);
    r.set("vmdesc-type", "another section instead of the vmdesc", ("vmdesc", 0), &[9]);
}

fn vmdesc(r: &mut Recipes) {
    let replace = |r: &mut Recipes, name: &str, change: &'static str, from: &'static str, to: &str| {
        let to = to.to_owned();
        r.make(name, change, move |bytes, base| {
            let json = String::from_utf8(bytes[base.at("json")..].to_vec()).expect("our own");
            assert!(json.contains(from), "{from}");
            let json = json.replacen(from, &to, 1);
            bytes.truncate(base.at("vmdesc") + 1);
            bytes.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
            bytes.extend_from_slice(json.as_bytes());
        });
    };
    replace(r, "vmdesc-not-json", "the vmdesc is no JSON", "\"devices\"", "devices");
    replace(r, "vmdesc-no-devices", "a vmdesc without devices", "\"devices\"", "\"machines\"");
    replace(r, "vmdesc-size-negative", "a field of -8 bytes", "\"size\": 8}", "\"size\": -8}");
    replace(r, "vmdesc-size-fraction", "a field of 8.5 bytes", "\"size\": 8}", "\"size\": 8.5}");
    replace(r, "vmdesc-size-huge", "a field of 2^60 bytes", "\"size\": 8}", "\"size\": 1152921504606846976}");
    replace(r, "vmdesc-size-other", "a field of a byte more", "\"size\": 8}", "\"size\": 9}");
    replace(
        r,
        "vmdesc-count-wraps",
        "an array whose size wraps",
        "\"array_len\": 2",
        "\"array_len\": 2305843009213693952",
    );
    replace(r, "vmdesc-other-name", "another device", "\"timer\"", "\"clock\"");
    replace(r, "vmdesc-other-instance", "another instance", "\"instance_id\": 0", "\"instance_id\": 7");
    replace(r, "vmdesc-other-subsection", "another subsection", "\"cpu/fpu\"", "\"cpu/sse42\"");
    replace(r, "vmdesc-page-size", "a page size of 1000", "1024", "1000");
    replace(
        r,
        "vmdesc-device-twice",
        "duplicate keys",
        "\"page_size\": 1024,",
        "\"page_size\": 1024, \"devices\": [],",
    );
    replace(r, "vmdesc-size-twice", "two sizes of a field", "\"size\": 8}", "\"size\": 9, \"size\": 8}");
    replace(
        r,
        "vmdesc-deep",
        "brackets a thousand deep",
        "[{\"name\": \"ticks\"",
        &format!("{}{{\"name\": \"ticks\"", "[".repeat(1000)),
    );
}
