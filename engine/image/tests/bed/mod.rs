//! A snapshot image in memory, what lies where in it, and a reader that gives nothing away for
//! free: every read is checked against the file.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod file;
mod places;

pub(crate) use file::File;
pub(crate) use places::Part;
#[allow(unused_imports, reason = "each test program uses a part of it")]
pub(crate) use places::Places;

use migration_stream::{
    BlockList, Configuration, RAM_SECTION_VERSION, RamBlock, SectionHeader, SectionId, put_configuration,
    put_end_of_section, put_file_header, put_ram_blocks, put_section_footer, put_section_header,
};
use snapshot_image::{
    Geometry, GuestOffset, HostOffset, Identity, ImageBlock, ImageError, Inspect, Inspection, Inspector,
    Layout, PageIndex, RamLayout, ReadOptions, SnapshotReader, SnapshotWriter, Step, Verification, VmState,
    crc32c,
};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const IDENTITY: Identity = Identity { uuid: *b"0123456789abcdef", created_unix_s: 1_700_000_000 };
/// Reads that any of these images can need: more means that it does not end.
const READS: usize = 20_000;
/// The most that is looked at of a RAM layout that may claim a petabyte, in pages.
const PAGES_LOOKED_AT: u64 = 4096;

/// What a snapshot holds: everything that a revert sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) leader: Vec<u8>,
    pub(crate) third: Vec<u8>,
    pub(crate) tail: Vec<u8>,
    pub(crate) blocks: Vec<ImageBlock>,
    /// Pages that are not zero.
    pub(crate) ram: BTreeMap<u64, Vec<u8>>,
}

/// A content of two blocks with pages here and there, and other iterables if it is to be in the `STV2` form.
pub(crate) fn content(third: &[u8]) -> Content {
    let blocks = [(&b"pc.ram"[..], 40), (b"/rom@etc/acpi/tables", 3)];
    content_of(third, &blocks, &[(0, 0), (0, 1), (0, 17), (0, 39), (1, 0), (1, 2)])
}

/// A content of `blocks` (name, pages), of which the pages `nonzero` (number of the block, page in it) are
/// not zero.
pub(crate) fn content_of(third: &[u8], blocks: &[(&[u8], u64)], nonzero: &[(usize, u64)]) -> Content {
    let blocks: Vec<ImageBlock> = blocks
        .iter()
        .map(|&(name, pages)| ImageBlock {
            name: name.to_vec(),
            used_length: pages * PAGE,
            host_page_size: None,
        })
        .collect();
    let mut leader = Vec::new();
    put_file_header(&mut leader);
    put_configuration(&mut leader, &Configuration { machine: b"pc".to_vec(), ..Default::default() });
    let header = SectionHeader {
        section_id: SectionId(2),
        idstr: b"ram",
        instance_id: 0,
        version_id: RAM_SECTION_VERSION,
    };
    put_section_header(&mut leader, false, &header);
    let listed = blocks.iter().map(|block| RamBlock {
        idstr: block.name.clone(),
        used_length: block.used_length,
        host_page_size: None,
        guest_physical_address: None,
    });
    put_ram_blocks(&mut leader, &BlockList { blocks: listed.collect() });
    put_end_of_section(&mut leader);
    put_section_footer(&mut leader, SectionId(2));
    let layout = RamLayout::new(blocks.clone(), 4096).unwrap();
    let mut ram = BTreeMap::new();
    for &(block, page) in nonzero {
        let number = layout.page(layout.guest(block, page * PAGE));
        ram.insert(number, (0..PAGE).map(|at| (at * 7 + number + at / 251).to_le_bytes()[0] | 1).collect());
    }
    let tail: Vec<u8> = (0..9000u32).map(|at| (at * 31 / 7).to_le_bytes()[0]).chain([0]).collect();
    Content { leader, third: third.to_vec(), tail, blocks, ram }
}

/// All that [`SnapshotWriter`] does for an image of `content`, if space for so much of the tail is
/// reserved at first.
pub(crate) fn steps(content: &Content, geometry: Geometry, tail_capacity: usize) -> Vec<Step> {
    steps_in(Layout::Dense, content, geometry, tail_capacity)
}

/// The same for an image of this layout.
pub(crate) fn steps_in(
    layout: Layout,
    content: &Content,
    geometry: Geometry,
    tail_capacity: usize,
) -> Vec<Step> {
    let ram = RamLayout::new(content.blocks.clone(), 4096).unwrap();
    let writer = match layout {
        Layout::Dense => SnapshotWriter::create(geometry, ram.total_bytes(), IDENTITY),
        Layout::Linear => SnapshotWriter::create_linear(geometry, &ram, IDENTITY),
    };
    save(writer.unwrap(), content, tail_capacity)
}

/// The description of a VM state whose RAM list is where [`content`] puts it.
pub(crate) fn vm_state(leader: Vec<u8>, third: Vec<u8>, normal_pages: u64) -> VmState {
    VmState {
        leader,
        third,
        ram_list_offset: 20,
        ram_start_is_last: true,
        footers: true,
        optional_fields: false,
        normal_pages,
    }
}

/// All that a writer does that has made these first steps.
pub(crate) fn save(
    (mut writer, mut steps): (SnapshotWriter, Vec<Step>),
    content: &Content,
    tail_capacity: usize,
) -> Vec<Step> {
    let layout = RamLayout::new(content.blocks.clone(), 4096).unwrap();
    let mut index = PageIndex::new();
    let cluster = writer.cluster_size();
    for (&page, bytes) in &content.ram {
        let guest = page * PAGE;
        let host = writer.host(GuestOffset(guest - guest % cluster)).unwrap();
        steps.push(Step::Write { at: HostOffset(host.0 + guest % cluster), bytes: bytes.clone() });
        index.set(page, crc32c(bytes));
    }
    let vm = vm_state(content.leader.clone(), content.third.clone(), content.ram.len() as u64);
    let (mut reserved, more) = writer.reserve(vm, &layout, &Arc::new(index), tail_capacity as u64).unwrap();
    steps.extend(more);
    steps.extend(reserved.grow_tail(content.tail.len() as u64).unwrap());
    steps.extend(reserved.seal(&content.tail).unwrap().1);
    steps
}

/// The image of `content`, as [`SnapshotWriter`] makes it.
pub(crate) fn write(content: &Content, geometry: Geometry) -> File {
    let mut file = File::default();
    file.carry_out(steps(content, geometry, content.tail.len()));
    file
}

/// The same, linear.
pub(crate) fn write_linear(content: &Content, geometry: Geometry) -> File {
    let mut file = File::default();
    file.carry_out(steps_in(Layout::Linear, content, geometry, content.tail.len()));
    file
}

/// Writes `content` into an image by this writer.
pub(crate) fn write_with(writer: (SnapshotWriter, Vec<Step>), file: &mut File, content: &Content) {
    file.carry_out(save(writer, content, content.tail.len()));
}

/// Inspects as a save does.
pub(crate) fn inspect(file: &File) -> Result<Inspection, ImageError> {
    let mut inspector = Inspector::new(file.length());
    for _ in 0..READS {
        match inspector.poll()? {
            Inspect::Need(at, length) => inspector.supply(at, &file.read_checked(at, length)),
            Inspect::NextData(from) => inspector.supply_data(file.next_data(from.0)),
            Inspect::Done(found) => return Ok(found),
        }
    }
    panic!("the inspection does not end");
}

/// Reads everything as a revert does: each page is verified before it counts.
pub(crate) fn read(file: &File, allow_unverified: bool) -> Result<(Content, Verification), ImageError> {
    let mut reads = 0;
    let mut need = |at, length| {
        reads += 1;
        assert!(reads < READS, "reading does not end");
        Ok::<_, ImageError>(file.read_checked(at, length))
    };
    let mut reader = SnapshotReader::open_with(file.length(), ReadOptions { allow_unverified }, &mut need)?;
    let layout = reader.layout().clone();
    let size = u64::from(layout.page_size());
    let count = layout.total_bytes().div_ceil(size);
    let mut ram = BTreeMap::new();
    for first in (0..count.min(PAGES_LOOKED_AT)).step_by(64).chain([count.saturating_sub(64)]) {
        for page in reader.ask_with(&mut need, |reader| reader.present(first, 64.min(count - first)))? {
            let extents =
                reader.ask_with(&mut need, |reader| reader.map(GuestOffset(page.page * size), size))?;
            let mut bytes = Vec::new();
            for extent in extents {
                match extent.host {
                    Some(host) => bytes.extend(file.read_piece(host, extent.length)),
                    None => bytes.resize(bytes.len() + usize::try_from(extent.length).unwrap(), 0),
                }
            }
            layout.verify_page(&page, &bytes)?;
            if bytes.iter().any(|&byte| byte != 0) {
                ram.insert(page.page, bytes);
            }
        }
    }
    reader.ask_with(&mut need, SnapshotReader::finish)?;
    let blocks = layout.blocks().to_vec();
    let snapshot = reader.snapshot().clone();
    let content =
        Content { leader: snapshot.leader, third: snapshot.third, tail: snapshot.tail, blocks, ram };
    Ok((content, snapshot.verification))
}
