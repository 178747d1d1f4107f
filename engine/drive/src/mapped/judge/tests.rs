use super::*;
use crate::mapped::maps::parse_maps;

const IMAGE: FileKey = FileKey { device: (0xfe, 0), inode: 7 };
const MIB: u64 = 1 << 20;

fn wanted(name: &str, base: u64, length: u64) -> Wanted {
    Wanted { name: name.into(), base, length }
}

/// A mapping of 64 MiB at this address; `letters` and offset as the kernel prints them.
fn line(address: u64, letters: &str, offset: u64, inode: u64) -> String {
    format!("{address:x}-{:x} {letters} {offset:08x} fe:00 {inode} /vm\n", address + 64 * MIB)
}

fn object(id: &str, offset: u64) -> Backend {
    Backend { id: id.into(), offset, size: 64 * MIB, used: true }
}

fn judged(block: &Wanted, maps: &str, backends: &[Backend]) -> Result<Proven, String> {
    let mappings = parse_maps(maps.as_bytes()).unwrap();
    let evidence = Evidence { mappings: &mappings, backends, image: IMAGE };
    prove(block, &evidence).map_err(|refusal| refusal.to_string())
}

#[test]
fn a_private_mapping_of_the_block_is_proven() {
    let ram = wanted("pc.ram", 2 * MIB, 64 * MIB);
    let maps = line(0x1000_0000, "rw-p", 2 * MIB, 7);
    let proven = judged(&ram, &maps, &[object("pc.ram", 2 * MIB)]).unwrap();
    assert_eq!(proven.addresses, 0x1000_0000..0x1000_0000 + 64 * MIB);
    // Machine types up to 4.0 name the block by the object's path.
    let path = wanted("/objects/pc.ram", 2 * MIB, 64 * MIB);
    assert!(judged(&path, &maps, &[object("pc.ram", 2 * MIB)]).is_ok());
    // The kernel joins mappings that go on in each other, and splits one whose parts get different advice.
    let joined = "10000000-18000000 rw-p 00200000 fe:00 7 /vm\n";
    let second = wanted("more", 66 * MIB, 64 * MIB);
    let both = [object("pc.ram", 2 * MIB), object("more", 66 * MIB)];
    assert_eq!(judged(&second, joined, &both).unwrap().addresses, 0x1400_0000..0x1800_0000);
    let split = "10000000-11000000 rw-p 00200000 fe:00 7 /vm\n11000000-14000000 rw-p 01200000 fe:00 7 /vm\n";
    assert_eq!(judged(&ram, split, &both).unwrap().addresses, 0x1000_0000..0x1400_0000);
}

#[test]
fn each_wrong_mapping_is_refused_with_what_is_needed() {
    let ram = wanted("pc.ram", 2 * MIB, 64 * MIB);
    let objects = [object("pc.ram", 2 * MIB)];
    let check = |maps: &str, expected: &str| {
        assert_eq!(judged(&ram, maps, &objects).unwrap_err(), format!("ram block \"pc.ram\": {expected}"));
    };
    check(
        &line(0x1000_0000, "rw-s", 2 * MIB, 7),
        "the image is mapped shared (rws) at address 0x10000000, needed: private (share=off)",
    );
    check(
        &line(0x1000_0000, "r--p", 2 * MIB, 7),
        "it is mapped r-p at address 0x10000000, needed: rwp (readonly=on,rom=off)",
    );
    check(
        &line(0x1000_0000, "rw-p", 4 * MIB, 7),
        "62 MiB of it are mapped from the image, at address 0x10000000; needed: all of 64 MiB from file offset \
         0x200000 on, in one piece",
    );
    check(
        &line(0x1000_0000, "rw-p", 2 * MIB, 8),
        "at address 0x10000000 file fe:00 inode 8 is mapped, needed: the image, fe:00 inode 7",
    );
    check(
        &line(0x1000_0000, "rw-p", 128 * MIB, 7),
        "the destination maps no file there, needed: file fe:00 inode 7 from offset 0x200000 on",
    );
    check("", "the destination maps no file there, needed: file fe:00 inode 7 from offset 0x200000 on");
    // Its first half is mapped here, its second half there.
    check(
        "10000000-12000000 rw-p 00200000 fe:00 7 /vm\n13000000-15000000 rw-p 02200000 fe:00 7 /vm\n",
        "32 MiB of it are mapped from the image, at address 0x13000000; needed: all of 64 MiB from file offset \
         0x200000 on, in one piece",
    );
    let twice = line(0x1000_0000, "rw-p", 2 * MIB, 7) + &line(0x2000_0000, "rw-p", 2 * MIB, 7);
    check(
        &twice,
        "the destination has 2 mappings of its place in the image, and 1 objects with offset=0x200000; \
         needed: one of each",
    );
    // What the object has mapped may be the other file, and the image's mapping something else.
    check(
        &(line(0x1000_0000, "rw-p", 2 * MIB, 7) + &line(0x2000_0000, "rw-p", 2 * MIB, 8)),
        "at address 0x20000000 file fe:00 inode 8 is mapped, needed: the image, fe:00 inode 7",
    );
    // A file of locales, say, is no RAM.
    let locales = line(0x1000_0000, "rw-p", 2 * MIB, 7) + &line(0x2000_0000, "r--p", 2 * MIB, 8);
    assert!(judged(&ram, &locales, &objects).is_ok());
    // Shared, though elsewhere in the image.
    check(
        &(line(0x1000_0000, "rw-p", 2 * MIB, 7) + &line(0x2000_0000, "rw-s", 128 * MIB, 7)),
        "the image is mapped shared (rws) at address 0x20000000, needed: private (share=off)",
    );
}

#[test]
fn the_command_line_has_to_name_the_block() {
    let ram = wanted("pc.ram", 2 * MIB, 64 * MIB);
    let maps = line(0x1000_0000, "rw-p", 2 * MIB, 7);
    let check = |objects: &[Backend], expected: &str| {
        let refused = judged(&ram, &maps, objects).unwrap_err();
        assert!(refused.starts_with("ram block \"pc.ram\": ") && refused.contains(expected), "{refused}");
    };
    check(&[], "needed: offset=0x200000");
    check(
        &[object("pc.ram", 2 * MIB), object("pc.ram", 2 * MIB)],
        "2 objects on the destination's command line",
    );
    check(&[object("pc.ram", 4 * MIB)], "its object has offset=0x400000, needed: offset=0x200000");
    check(
        &[Backend { size: 63 * MIB, ..object("pc.ram", 2 * MIB) }],
        "its object has 63 MiB, needed: 64 MiB",
    );
    check(&[Backend { used: false, ..object("pc.ram", 2 * MIB) }], "is no memory of the machine");
    check(
        &[object("pc.ram", 2 * MIB), object("more", 2 * MIB)],
        "1 mappings of its place in the image, and 2 objects with offset=0x200000",
    );
}

/// Both mappings are right, and both blocks would be shown the other's pages.
#[test]
fn blocks_with_swapped_offsets_are_refused() {
    let (a, b) = (wanted("a", 2 * MIB, 64 * MIB), wanted("b", 66 * MIB, 64 * MIB));
    let maps = line(0x1000_0000, "rw-p", 2 * MIB, 7) + &line(0x2000_0000, "rw-p", 66 * MIB, 7);
    let right = [object("a", 2 * MIB), object("b", 66 * MIB)];
    assert!(judged(&a, &maps, &right).is_ok() && judged(&b, &maps, &right).is_ok());
    let swapped = [object("a", 66 * MIB), object("b", 2 * MIB)];
    let refused = judged(&a, &maps, &swapped).unwrap_err();
    assert_eq!(refused, "ram block \"a\": its object has offset=0x4200000, needed: offset=0x200000");
    assert!(judged(&b, &maps, &swapped).is_err());
}

#[test]
fn candidates_are_what_is_mapped_or_named() {
    let blocks = [wanted("a", 2 * MIB, MIB), wanted("b", 4 * MIB, MIB), wanted("c", 6 * MIB, MIB)];
    let mappings = parse_maps(b"1000-2000 rw-p 00200000 fe:00 7 /vm\n").unwrap();
    let backends = [object("b", 4 * MIB), Backend { used: false, ..object("c", 6 * MIB) }];
    let evidence = Evidence { mappings: &mappings, backends: &backends, image: IMAGE };
    let found: Vec<_> = candidates(&blocks, &evidence).iter().map(|block| block.name.clone()).collect();
    assert_eq!(found, [b"a".to_vec(), b"b".to_vec()], "c's object is no memory, and no byte of it is mapped");
}

#[test]
fn a_block_behind_the_end_of_all_files_is_never_proven() {
    let block = wanted("a", u64::MAX - MIB, 2 * MIB);
    let maps = format!("10000000-10100000 rw-p {:x} fe:00 7 /vm\n", u64::MAX - MIB);
    assert!(judged(&block, &maps, &[object("a", u64::MAX - MIB)]).is_err());
}
