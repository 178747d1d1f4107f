//! A libvirt save image: header, XML, and the stream behind it, which only the inspector finds.

use migration_stream::{
    BlockList, Configuration, RAM_SECTION_VERSION, RamBlock, put_configuration, put_end_of_section,
    put_file_header, put_page_header, put_ram_blocks,
};

use super::{Kind, Recipes, base::Base};

const XML: &[u8] = b"<domain type='kvm'>\n  <name>vm1</name>\n</domain>\n\0";

fn base() -> Base {
    let mut base = Base::new("libvirt");
    base.mark("magic").put(b"LibvirtQemudSave");
    let length = u32::try_from(XML.len()).expect("short");
    for (mark, value) in [("version", 2), ("length", length), ("running", 1), ("format", 0), ("cookie", 0)] {
        base.mark(mark).put(&u32::to_le_bytes(value));
    }
    base.put(&[0; 56]).mark("xml").put(XML).mark("stream");
    base.put_with(put_file_header);
    base.put_with(|out| {
        put_configuration(out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    });
    base.section(false, 2, b"ram", RAM_SECTION_VERSION);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 4096,
        host_page_size: None,
        guest_physical_address: None,
    };
    base.put_with(|out| put_ram_blocks(out, &BlockList { blocks: vec![block] }));
    base.put_with(put_end_of_section).footer(2).mark("end").put(&[3, 0, 0, 0, 2]);
    base.put_with(|out| put_page_header(out, Some(b"pc.ram"), 0)).put(&[b'p'; 4096]);
    base.put_with(put_end_of_section).footer(2).mark("eof").put(&[0, 6]);
    let json = r#"{"page_size": 4096, "devices": []}"#;
    base.put(&u32::try_from(json.len()).expect("short").to_be_bytes()).put(json.as_bytes());
    base
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Stream, base());
    r.set("part", "a save that was not completed", ("magic", 0), b"LibvirtQemudPart");
    r.set("magic", "another magic", ("magic", 0), b"LibvirtQemudSalt");
    r.set("version-0", "version 0", ("version", 0), &[0]);
    r.set("version-4", "version 4", ("version", 0), &[4]);
    r.set("version-max", "version 2^32 - 1", ("version", 0), &[0xff; 4]);
    r.set(
        "version-swapped",
        "a version in the other byte order, the rest in this",
        ("version", 0),
        &[0, 0, 0, 2],
    );
    r.set("length-0", "no XML", ("length", 0), &[0]);
    r.set("length-short", "a stream that begins in the XML", ("length", 0), &[20]);
    r.set("length-over", "XML that is longer than the file", ("length", 2), &[1]);
    r.set("length-limit", "XML of 64 MiB and a byte", ("length", 0), &((64 << 20) + 1_u32).to_le_bytes());
    r.set("length-max", "XML of 2^32 - 1 bytes (CVE-2013-4535)", ("length", 0), &[0xff; 4]);
    r.make("xml-no-end", "XML without its NUL", |bytes, base| bytes[base.at("stream") - 1] = b' ');
    r.set("xml-escapes", "XML that writes to a terminal", ("xml", 0), b"\x1b]0;title\x07\x1b[2J");
    for (name, change, format) in
        [("format-7", "an unknown packing", 7), ("format-max", "packing 2^32 - 1", u32::MAX)]
    {
        r.set(name, change, ("format", 0), &format.to_le_bytes());
    }
    for (name, change, format, start) in [
        ("format-bzip2", "nothing but the start of a bzip2 stream", 2_u32, &b"BZh91AY&SY"[..]),
        ("format-xz", "nothing but the start of an xz stream", 3, b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46"),
        ("format-lzop", "nothing but the start of an lzop stream", 4, b"\x89LZO\0\r\n\x1a\n\x10\x40"),
    ] {
        r.make(name, change, |bytes, base| {
            bytes[base.at("format")..][..4].copy_from_slice(&format.to_le_bytes());
            bytes.truncate(base.at("stream"));
            bytes.extend_from_slice(start);
        });
    }
    r.set("stream-magic", "something else behind the XML", ("stream", 0), b"QEVN");
    r.set("stream-damaged", "a section that has not started", ("end", 4), &[9]);
    r.make("twice", "a save image in a save image", |bytes, base| {
        let header = bytes[..base.at("stream")].to_vec();
        bytes.splice(0..0, header);
    });
    r.cut("cut-header", "cut inside the header", ("running", 2));
    r.cut("cut-xml", "cut inside the XML", ("xml", 30));
    r.cut("cut-behind-xml", "nothing behind the XML", ("stream", 0));
    r.cut("cut-stream", "cut inside a page", ("end", 100));
    r
}
