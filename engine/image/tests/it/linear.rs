//! Linear images: each block in one piece, and tables that say so.

use crate::bed::{
    Content, File, IDENTITY, PAGE, Places, content, content_of, inspect, read, write, write_linear,
};
use snapshot_image::{
    Geometry, HostOffset, ImageBlock, ImageError, Inspection, Layout, RamLayout, ReadOptions, SnapshotReader,
    SnapshotWriter,
};

const MIB: u64 = 1 << 20;

fn small() -> Geometry {
    Geometry::new(64 << 10, 16).unwrap()
}

/// Three blocks, of which the middle one has no page that is not zero.
fn sample() -> Content {
    let blocks = [(&b"pc.ram"[..], 700), (b"vga.vram", 300), (b"/rom@etc/acpi/tables", 3)];
    content_of(b"", &blocks, &[(0, 0), (0, 17), (0, 699), (2, 2)])
}

fn open(file: &File, allow_unverified: bool) -> SnapshotReader {
    let read = |at, length| Ok::<_, ImageError>(file.read_checked(at, length));
    SnapshotReader::open_with(file.length(), ReadOptions { allow_unverified }, read).unwrap()
}

#[test]
fn each_block_lies_in_one_piece_with_holes() {
    for geometry in [small(), Geometry::default()] {
        let content = sample();
        let file = write_linear(&content, geometry);
        assert!(
            matches!(inspect(&file), Ok(Inspection::Snapshot(found, Layout::Linear, _)) if found == geometry)
        );
        let reader = open(&file, false);
        let bases: Vec<u64> = (0..3).map(|block| reader.linear_base(block).unwrap().0).collect();
        assert!(bases[0].is_multiple_of(2 * MIB) && bases[0] > 0, "{bases:?}");
        assert_eq!([bases[1] - bases[0], bases[2] - bases[1]], [4 * MIB, 2 * MIB]);
        assert_eq!(reader.linear_base(3), None);
        for (block, base) in content.blocks.iter().zip(bases) {
            assert!(base + block.used_length <= file.length());
            let number = content.blocks.iter().position(|other| other.name == block.name).unwrap();
            for offset in (0..block.used_length).step_by(4096) {
                let page = reader.layout().page(reader.layout().guest(number, offset));
                let found = file.read(base + offset, 4096);
                match content.ram.get(&page) {
                    Some(bytes) => assert!(found == *bytes, "block {number}, offset {offset:#x}"),
                    None => assert!(
                        file.next_data(base + offset).is_none_or(|data| data.start >= base + offset + PAGE),
                        "no hole at block {number}, offset {offset:#x}"
                    ),
                }
            }
        }
        let (found, _) = read(&file, false).unwrap();
        assert!(found == content);
    }
}

#[test]
fn what_a_dense_image_or_a_doubtful_one_has_is_not_known() {
    assert_eq!(open(&write(&sample(), small()), false).linear_base(0), None);
    let mut file = write_linear(&sample(), small());
    assert!(open(&file, true).linear_base(0).is_some());
    // The bit that says that nobody else has written to it.
    file.put_be64(88, 0);
    assert_eq!(open(&file, true).linear_base(0), None);
}

/// A forger's checksums fit: a mapped guest would see other bytes than a reverted one.
#[test]
fn tables_that_say_something_else_are_refused() {
    let content = sample();
    let file = write_linear(&content, small());
    let places = Places::of(&file);
    let table = places.get("L2 table").at;
    let first = file.be64(table);
    let at = first & !(1 << 63);
    for (entry, value, found) in [
        // The first two clusters have changed places, or the first one is said to be zero.
        (0, first + (64 << 10), Some(at + (64 << 10))),
        (0, first | 1, Some(at | 1)),
        // A cluster in the middle block, which has none, at its place, and at another one.
        (48, first + 4 * MIB, None),
        (48, first + 3 * MIB, Some(at + 3 * MIB)),
        // Behind the last block, and where there is none at all.
        (80, first + 6 * MIB, None),
        (112, first + 7 * MIB, Some(at + 7 * MIB)),
        (8191, first, Some(at)),
    ] {
        let mut file = file.clone();
        file.put_be64(table + entry * 8, value);
        places.forge(&mut file);
        match (read(&file, false), found) {
            (Ok((read, _)), None) => assert!(read == content, "entry {entry}"),
            (Err(ImageError::NotLinear { at, found, expected }), Some(wrong)) => {
                assert_eq!((at.0, found), (entry << 16, wrong));
                assert_ne!(expected, Some(found));
            }
            (result, _) => panic!("entry {entry}, {value:#x}: {:?}", result.map(|_| "read")),
        }
        // Without checksums it is an image like any other, and its tables count.
        file.put_be64(88, 0);
        let other = read(&file, true).map(|(content, _)| content);
        assert!(!matches!(other, Err(ImageError::NotLinear { .. })), "entry {entry}");
    }
    let error =
        ImageError::NotLinear { at: snapshot_image::GuestOffset(0x10000), found: 0x20_0000, expected: None };
    assert_eq!(
        error.to_string(),
        "not linear: the cluster at guest offset 0x10000 lies at offset 0x200000, expected none"
    );
}

#[test]
fn ram_that_cannot_be_where_the_header_says_is_refused() {
    let file = write_linear(&sample(), small());
    let places = Places::of(&file);
    let ram_at = file.be64(RAM_AT);
    assert_eq!(ram_at, open(&file, false).linear_base(0).unwrap().0);
    for (at, expected) in [
        (ram_at + 4096, "snapshot place of linear RAM 0x201000, expected a multiple of 0x200000 below 2^62"),
        (
            1 << 62,
            "snapshot place of linear RAM 0x4000000000000000, expected a multiple of 0x200000 below 2^62",
        ),
        (
            1 << 40,
            "damaged qcow2 linear layout at offset 0x10000800000: RAM ends at 0x10000800000, the file has",
        ),
        (
            ram_at + 2 * MIB,
            "damaged qcow2 linear layout at offset 0xc00000: RAM ends at 0xc00000, the file has",
        ),
    ] {
        let mut file = file.clone();
        file.put_be64(RAM_AT, at);
        let error = read(&file, false).unwrap_err().to_string();
        assert!(error.contains("the header's checksum does not fit"), "{error}");
        places.forge_header(&mut file);
        let error = read(&file, false).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// The last field of our header extension.
const RAM_AT: u64 = 112 + 8 + 192 + 8 + 48;

#[test]
fn two_blocks_never_share_a_cluster() {
    let block = ImageBlock { name: b"pc.ram".to_vec(), used_length: 4096, host_page_size: None };
    let layout = RamLayout::new(vec![block], 4096).unwrap();
    let large = Geometry::with_cluster_size(2 << 20).unwrap();
    let error = SnapshotWriter::create_linear(large, &layout, IDENTITY).unwrap_err();
    assert_eq!(error, ImageError::LinearClusters { found: 2 << 20 });
}

/// What a guest sees that is mapped from the file, without the bytes behind each block: page by page, by the
/// page's number.
fn mapped(file: &File) -> Option<Vec<(u64, Vec<u8>)>> {
    let read = |at, length| Ok::<_, ImageError>(file.read_checked(at, length));
    let reader = SnapshotReader::open_with(file.length(), ReadOptions::default(), read).ok()?;
    let mut pages = Vec::new();
    for (number, block) in reader.layout().blocks().iter().enumerate() {
        let HostOffset(base) = reader.linear_base(number)?;
        for offset in (0..block.used_length).step_by(4096) {
            let page = reader.layout().page(reader.layout().guest(number, offset));
            pages.push((page, file.read(base + offset, 4096)));
        }
    }
    Some(pages)
}

/// A bit anywhere in the file, also where nothing is written: if a revert does not notice it, it is in the
/// place of a zero page, which is for who maps or checks the file to look at, or a mapped guest does not see
/// it.
#[test]
fn a_flipped_bit_is_noticed_or_in_a_zero_page_or_not_mapped() {
    let content = content(b"");
    let mut file = write_linear(&content, small());
    let whole = mapped(&file).unwrap();
    let (mut noticed, mut harmless, mut in_zero_pages) = (0, 0, 0);
    for bit in (0..file.length() * 8).step_by(5003) {
        file.flip(bit);
        let view = mapped(&file);
        match read(&file, false) {
            Err(_) => noticed += 1,
            Ok((found, _)) => {
                assert!(found == content, "bit {bit}");
                let view = view.expect("it was read");
                assert_eq!(view.len(), whole.len(), "bit {bit}");
                let changed: Vec<u64> =
                    view.iter().zip(&whole).filter(|(a, b)| a != b).map(|(page, _)| page.0).collect();
                assert!(changed.iter().all(|page| !content.ram.contains_key(page)), "bit {bit}: {changed:?}");
                in_zero_pages += changed.len();
                harmless += usize::from(changed.is_empty());
            }
        }
        file.flip(bit);
    }
    assert!(noticed > 20 && harmless > 1000 && in_zero_pages > 100, "{noticed}, {harmless}, {in_zero_pages}");
}
