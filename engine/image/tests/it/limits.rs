//! What does not fit is refused before anything is written, and an image that was made beforehand is used as
//! it is.

use crate::bed::{IDENTITY, PAGE, Places, content, inspect, read, vm_state, write, write_with};
use snapshot_image::{
    Geometry, GuestOffset, ImageBlock, ImageError, Inspection, PageIndex, RamLayout, Reserved, SnapshotWriter,
};
use std::sync::Arc;

fn large() -> Geometry {
    Geometry::new(2 << 20, 16).unwrap()
}
const MIB: u64 = 1 << 20;

fn block(name: &[u8], used_length: u64) -> ImageBlock {
    ImageBlock { name: name.to_vec(), used_length, host_page_size: None }
}

/// A writer that has reserved space for a device tail of this length.
fn reserved(geometry: Geometry, tail_capacity: u64) -> Result<Reserved, ImageError> {
    let layout = RamLayout::new(vec![block(b"pc.ram", 16 * PAGE)], 4096)?;
    let (writer, _) = SnapshotWriter::create(geometry, layout.total_bytes(), IDENTITY)?;
    let (reserved, steps) = writer.reserve(
        vm_state(vec![1; 100], Vec::new(), 0),
        &layout,
        &Arc::new(PageIndex::new()),
        tail_capacity,
    )?;
    assert!(steps.count() > 0);
    Ok(reserved)
}

#[test]
fn a_tail_longer_than_its_reservation_is_refused() {
    let error = reserved(Geometry::default(), 4096).unwrap().seal(&[0; 4097]).unwrap_err();
    assert_eq!(error.to_string(), "device tail is 4097 bytes long, the limit is 4096");
    reserved(Geometry::default(), 4096).unwrap().seal(&[0; 4096]).unwrap();
}

/// The extension lies half an L1 entry's span behind the start of the VM state.
#[test]
fn a_vm_state_up_to_the_extension_is_refused() {
    let small = Geometry::new(64 << 10, 16).unwrap();
    let limit = small.l1_span_bytes() / 2;
    for too_long in [limit, 1 << 40, u64::MAX - 4096, u64::MAX] {
        let error = reserved(small, 4096).unwrap().grow_tail(too_long).unwrap_err();
        assert!(
            matches!(error, ImageError::Limit { what: "VM state", limit: found, .. } if found == limit),
            "{error}"
        );
        let error = reserved(small, too_long).unwrap_err();
        assert!(matches!(error, ImageError::Limit { what: "VM state", .. }), "{error}");
    }
    let mut writer = reserved(small, 4096).unwrap();
    writer.grow_tail(2 * MIB).unwrap();
    writer.seal(&vec![3; usize::try_from(2 * MIB).unwrap()]).unwrap();
}

#[test]
fn page_and_block_sizes_that_are_none_are_refused() {
    for found in [0, 1, 512, 3000, 1 << 17, u32::MAX] {
        let error = RamLayout::new(vec![block(b"pc.ram", PAGE)], found).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("snapshot page size {found:#x}, expected a power of two, 1 KiB to 64 KiB")
        );
    }
    for found in [0, 1000] {
        assert!(RamLayout::new(vec![block(b"pc.ram", found)], 4096).is_err(), "{found}");
    }
    for found in [0, 256, 65536] {
        let error = RamLayout::new(vec![block(&vec![b'n'; found], PAGE)], 4096).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("snapshot block name length {found:#x}, expected 1 to 255 bytes")
        );
    }
    assert!(RamLayout::new(vec![block(&[b'n'; 255], PAGE)], 4096).is_ok());
}

/// What no machine has is refused before anything is made for it, and a place behind RAM is no page's.
#[test]
fn more_ram_than_any_machine_has_and_places_behind_it_are_refused() {
    for ram_bytes in [(1 << 50) + 1, u64::MAX] {
        let error = SnapshotWriter::create(Geometry::default(), ram_bytes, IDENTITY).unwrap_err();
        assert!(matches!(error, ImageError::Limit { what: "RAM", found, .. } if found == ram_bytes));
    }
    let (mut writer, _) = SnapshotWriter::create(large(), 64 << 20, IDENTITY).unwrap();
    let vm_state = large().vm_state_start(64 << 20);
    assert!(writer.host(GuestOffset(vm_state - large().cluster_bytes())).is_ok());
    for guest in [vm_state, u64::MAX - u64::MAX % large().cluster_bytes()] {
        let error = writer.host(GuestOffset(guest)).unwrap_err();
        assert!(matches!(error, ImageError::Value { what: "guest offset", found, .. } if found == guest));
    }
}

/// A reader has the VM state in memory, and takes no more than this: neither does a writer, whatever there is
/// space for.
#[test]
fn a_vm_state_that_no_reader_takes_is_refused() {
    let mut reserved = reserved(Geometry::default(), 4096).unwrap();
    let error = reserved.grow_tail(1024 * MIB).unwrap_err();
    assert!(matches!(error, ImageError::Limit { limit: 0x4000_0000, .. }), "{error}");
}

#[test]
fn a_tail_that_fits_needs_no_more_space() {
    let mut reserved = reserved(Geometry::default(), 8192).unwrap();
    for tail in [0, 1, 8192] {
        assert_eq!(reserved.grow_tail(tail), Ok(Vec::new()));
    }
    assert!(!reserved.grow_tail(8193).unwrap().is_empty());
    assert!(reserved.seal(&[0; 8193]).is_ok());
}

#[test]
fn an_index_forgets_only_what_it_has() {
    let mut index = PageIndex::new();
    index.clear(12);
    assert_eq!((index.get(12), index.nonzero_pages()), (None, 0));
    index.set(12, 0xdead);
    // The same leaf, another page; another leaf; then twice the same.
    for page in [13, 1 << 30, 12, 12] {
        index.clear(page);
        assert_eq!(index.nonzero_pages(), u64::from(page != 12));
    }
    assert_eq!((index.get(12), index.get(1 << 30)), (None, None));
}

/// An image whose clusters are all there, with zeros in some and holes in others, holds nothing: a snapshot
/// goes into these clusters, also where a table says that they read as zero whatever they hold.
#[test]
fn a_preallocated_image_is_empty_and_its_clusters_are_used() {
    let content = content(b"");
    let mut file = write(&content, large());
    let places = Places::of(&file);
    let cluster = large().cluster_bytes();
    // No snapshot any more: neither in the header, nor in any cluster that is mapped.
    file.put_be32(places.get("header extension").at, 0);
    file.put_be64(88, 0);
    let page = places.get("page").at;
    let mapped: Vec<u64> =
        ["page", "VM-state header", "root"].map(|name| places.get(name).at / cluster * cluster).to_vec();
    for &start in &mapped {
        file.clear(start..start + cluster);
    }
    // Data that begins inside a cluster, behind a hole of more than is looked at once.
    file.punch(mapped[1]..mapped[1] + 3 * MIB / 2);
    file.write(mapped[1] + 3 * MIB / 2, &[0; 4096]);
    // Another cluster with nothing in it at all.
    file.punch(mapped[2]..mapped[2] + cluster);
    // The first page's cluster has a place, and reads as zero.
    let table = places.get("L2 table").at;
    let entry = file.be64(table);
    file.put_be64(table, entry | 1);
    let before = file.length();
    // The last cluster of a file need not be whole.
    let mut short = file.clone();
    short.set_length(before - MIB);
    assert!(matches!(inspect(&short), Ok(Inspection::Empty(_))), "{:?}", inspect(&short));
    let Ok(Inspection::Empty(container)) = inspect(&file) else { panic!("{:?}", inspect(&file)) };

    let layout = RamLayout::new(content.blocks.clone(), 4096).unwrap();
    let error =
        SnapshotWriter::reuse(container.clone(), layout.total_bytes() + cluster, IDENTITY).unwrap_err();
    assert!(matches!(error, ImageError::TooSmall { .. }), "{error}");
    let (mut writer, _) = SnapshotWriter::reuse(container.clone(), layout.total_bytes(), IDENTITY).unwrap();
    assert_eq!(writer.host(GuestOffset(0)).unwrap().0, page);
    let writer = SnapshotWriter::reuse(container, layout.total_bytes(), IDENTITY).unwrap();
    write_with(writer, &mut file, &content);
    assert_eq!(file.length(), before, "no cluster was needed that was not there");
    assert_eq!(file.be64(table) & 1, 0);
    let (found, verification) = read(&file, false).unwrap();
    assert_eq!(found, content);
    assert_eq!(verification, snapshot_image::Verification::Verified);
}

/// A byte that is not zero belongs to another program, wherever it is.
#[test]
fn a_byte_in_a_preallocated_image_belongs_to_another_program() {
    let mut file = write(&content(b""), large());
    let places = Places::of(&file);
    let cluster = large().cluster_bytes();
    file.put_be32(places.get("header extension").at, 0);
    file.put_be64(88, 0);
    for name in ["page", "VM-state header", "root"] {
        let start = places.get(name).at / cluster * cluster;
        file.clear(start..start + cluster);
    }
    let place = 3 * MIB / 2 + 777;
    file.write(places.get("page").at + place, &[1]);
    let error = inspect(&file).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("the image holds data at guest offset {place:#x} that is no snapshot; it is left alone")
    );
}

#[test]
fn ram_is_accepted_up_to_a_pebibyte() {
    let limit = 1 << 50;
    SnapshotWriter::create(large(), limit, IDENTITY).unwrap();
    let error = SnapshotWriter::create(large(), limit + 1, IDENTITY).unwrap_err();
    assert!(matches!(error, ImageError::Limit { what: "RAM", found, .. } if found == limit + 1), "{error}");
}
