//! A mapped-ram file: two blocks, some pages of each. The readers of streams and a save refuse it
//! by its capability; the inspector reads it.

use migration_stream::{
    Configuration, RAM_SECTION_VERSION, RamBlock, put_configuration, put_end_of_section, put_file_header,
    ram::{
        RAM_SAVE_FLAG_MEM_SIZE,
        mapped::{MappedBlock, place, put_entry},
    },
};

use super::{Kind, Recipes, base::Base};

const PAGE: u32 = 4096;
/// Name, pages, bitmap; and the names of its places.
type Block = (&'static [u8], u64, u8, [&'static str; 3]);
const BLOCKS: [Block; 2] = [
    (b"pc.ram", 5, 0b01101, ["entry", "bitmap", "pages"]),
    (b"pc.rom", 2, 0b10, ["second entry", "second bitmap", "second pages"]),
];

/// A file with both blocks; or, with x-ignore-shared, one of which the first block is elsewhere.
fn base(name: &'static str, ignore_shared: bool) -> Base {
    let mut base = Base::new(name);
    base.put_with(put_file_header).mark("configuration");
    base.put_with(|out| {
        let mut capabilities = vec![b"mapped-ram".to_vec()];
        if ignore_shared {
            capabilities.push(b"x-ignore-shared".to_vec());
        }
        let capabilities = Some(capabilities);
        put_configuration(
            out,
            &Configuration { machine: b"pc".to_vec(), capabilities, ..Configuration::default() },
        );
    });
    base.section(false, 2, b"ram", RAM_SECTION_VERSION);
    let total: u64 = BLOCKS.iter().map(|block| block.1 * u64::from(PAGE)).sum();
    base.mark("list").put(&(total | RAM_SAVE_FLAG_MEM_SIZE).to_be_bytes());
    for (name, pages, bits, marks) in BLOCKS {
        let block = RamBlock {
            idstr: name.to_vec(),
            used_length: pages * u64::from(PAGE),
            host_page_size: None,
            guest_physical_address: ignore_shared.then_some(0x10_0000),
        };
        let placed = place(&block, base.bytes.len() as u64, PAGE);
        if ignore_shared && name == b"pc.ram" {
            base.mark(marks[0]).put_with(|out| put_entry(out, &MappedBlock { place: None, ..placed }, PAGE));
            continue;
        }
        base.mark(marks[0]).put_with(|out| put_entry(out, &placed, PAGE));
        base.mark(marks[1]).put(&u64::from(bits).to_le_bytes());
        let pages_offset = placed.place.expect("a block with pages").pages_offset;
        let at = usize::try_from(pages_offset).expect("a small file");
        base.put_with(|out| out.resize(at, 0)).mark(marks[2]);
        for page in 0..pages {
            let fill = if bits >> page & 1 == 1 { b'p' } else { 0 };
            base.put(&[fill; PAGE as usize]);
        }
    }
    base.mark("start end").put_with(put_end_of_section).footer(2);
    base.mark("end").put(&[3, 0, 0, 0, 2]).put_with(put_end_of_section).footer(2);
    base.mark("devices").timer_and_end();
    base
}

/// As background-snapshot leaves it: no END of RAM, and no bit in any bitmap.
fn background(bytes: &mut Vec<u8>, base: &Base) {
    for bitmap in ["bitmap", "second bitmap"] {
        bytes[base.at(bitmap)..][..8].fill(0);
    }
    bytes.drain(base.at("end")..base.at("devices"));
}

pub(super) fn recipes() -> Recipes {
    let mut r = Recipes::new(Kind::Stream, base("mapped", false));
    r.set("list-flags", "a page instead of the block list", ("list", 7), &[0x08]);
    r.set("list-total-short", "blocks of one page more than their sum", ("list", 6), &[0x60]);
    r.set("list-total-over", "a sum of one page more than the blocks", ("list", 6), &[0x80]);
    r.set("list-total-max", "a sum of 2^64 - 4096 bytes", ("list", 0), &[0xff; 6]);
    // An entry: name (7), length (8), version (4), page size (8), offset of the bitmap (8), of the pages (8).
    r.set("name-empty", "a block without a name", ("entry", 0), &[0]);
    r.set("name-long", "a block's name over the fields behind it", ("entry", 0), &[255]);
    r.set("length-0", "a block of no bytes", ("entry", 7), &[0; 8]);
    r.set("length-odd", "a block of half a page more", ("entry", 13), &[0x58]);
    r.set("length-over", "a block longer than the sum of all (CVE-2014-7840)", ("entry", 11), &[1]);
    r.set("length-max", "a block of 2^64 - 1 bytes", ("entry", 7), &[0xff; 8]);
    r.set("version-0", "an entry of version 0", ("entry", 18), &[0]);
    r.set("version-2", "an entry of version 2", ("entry", 18), &[2]);
    r.set("page-size-0", "pages of no bytes", ("entry", 19), &[0; 8]);
    r.set("page-size-8192", "pages of 8192 bytes", ("entry", 25), &[0x20]);
    r.set("bitmap-offset-0", "a bitmap at the start of the file", ("entry", 27), &[0; 8]);
    r.set("bitmap-offset-back", "a bitmap inside its own entry", ("entry", 34), &[0x50]);
    r.set("bitmap-offset-far", "a bitmap 4 GiB behind its entry", ("entry", 30), &[1]);
    r.set("bitmap-offset-max", "a bitmap at 2^64 - 1 (CVE-2013-4148)", ("entry", 27), &[0xff; 8]);
    r.set("pages-offset-0", "pages at the start of the file", ("entry", 35), &[0; 8]);
    r.set("pages-offset-odd", "pages from 1 on", ("entry", 42), &[1]);
    r.set("pages-offset-far", "pages 4 GiB behind the bitmap", ("entry", 38), &[1]);
    r.set(
        "pages-offset-wraps",
        "pages that wrap",
        ("entry", 35),
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0],
    );
    r.set("bitmap-past-end", "bits of pages that the block does not have", ("bitmap", 0), &[0xff]);
    r.set("bitmap-swapped", "a bitmap in the other byte order", ("bitmap", 0), &[0, 0, 0, 0, 0, 0, 0, 0x0d]);
    r.set("block-twice", "two blocks of one name", ("second entry", 1), b"pc.ram");
    r.set("second-pages-over-first", "pages in the room of another block", ("second entry", 40), &[0x10]);
    r.set("end-missing", "a page where the list's end mark is", ("start end", 7), &[0x08]);
    r.make("capability-missing", "no capability mapped-ram", |bytes, base| {
        let mut out = Vec::new();
        put_configuration(&mut out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
        let at = base.at("configuration");
        let length = base.at("list") - at - b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".len();
        bytes.splice(at..at + length, out);
    });
    r.cut("cut-entry", "cut inside an entry", ("entry", 20));
    r.cut("cut-bitmap", "cut inside a bitmap", ("bitmap", 3));
    r.cut("cut-room", "cut between a bitmap and its pages", ("bitmap", 1000));
    r.cut("cut-page", "cut inside a page", ("pages", 100));
    r.cut("cut-second-block", "cut where the second block begins", ("second entry", 0));
    r.make("background", "no END of RAM, and empty bitmaps", background);
    r.make("background-cut", "no END of RAM, empty bitmaps, and cut inside the devices", |bytes, base| {
        let length = base.at("devices") + 20;
        bytes.truncate(length);
        background(bytes, base);
    });
    r
}

/// A file whose first block is elsewhere, as shared memory.
pub(super) fn shared() -> Recipes {
    let mut r = Recipes::new(Kind::Stream, base("mapped-shared", true));
    // An entry: name (7), length (8), address (8), version (4), page size (8), offset of the bitmap
    // (8), of the pages (8).
    r.set("bitmap-offset", "a bitmap of a block that is elsewhere", ("entry", 41), &[0x10]);
    r.set("pages-offset", "pages of a block that is elsewhere", ("entry", 48), &[0x10]);
    r.set("version-2", "an entry of version 2", ("entry", 26), &[2]);
    r.set("second-bitmap-offset-0", "a bitmap at the start of the file", ("second entry", 35), &[0; 8]);
    r.set("second-pages-offset-0", "pages at the start of the file", ("second entry", 43), &[0; 8]);
    r.make("address-missing", "an entry without an address", |bytes, base| {
        let at = base.at("entry") + 15;
        bytes.drain(at..at + 8);
    });
    r.make("capability-other", "another capability than x-ignore-shared", |bytes, _| {
        let at = bytes.windows(15).position(|window| window == b"x-ignore-shared").expect("a capability");
        bytes[at] = b'y';
    });
    r.cut("cut-address", "cut inside an address", ("entry", 18));
    r
}
