//! Where RAM blocks lie in the guest's physical memory. A stream does not say that; for the
//! machines that are known here it follows from the machine type, the machine's ACPI tables and its
//! devices. What does not follow from them is refused.

use super::affinity::{self, Affinity};
use super::board::{Board, FOUR_GIB, Part};
use super::devices::Devices;
use super::names::listed;
use super::numa::{backend, main_ram};
use super::placement::{Place, Placement};
use super::segment::Segment;
use super::shadow;
use crate::advice::Advice;
use crate::contents::{Contents, RamFile};
use crate::error::Error;
use crate::escape::terminal;
use migration_stream::{RamBlock, UNKNOWN_LENGTH};
use std::collections::HashSet;

/// The layout of a guest, by address, and the blocks that were left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) board: Board,
    pub(super) segments: Vec<Segment>,
    pub(super) left_out: Vec<String>,
}

/// The layout, if it is known.
pub(super) fn layout(contents: &Contents, ram: &RamFile, placement: &Placement) -> Result<Layout, Error> {
    let refuse = |why: &str| Error::Usage(format!("{}: {why}", contents.name));
    let board = Board::of(contents).ok_or_else(|| {
        refuse("where this machine has its RAM is not known").advised(Some(Advice::SingleBlocks))
    })?;
    let affinity = affinity::read(contents, ram, board).map_err(Error::io("reading RAM"))?;
    let main = match placement.nodes(contents, affinity.as_ref())? {
        Some(nodes) => nodes,
        None => main_ram(contents, board, affinity.as_ref())
            .map_err(|why| refuse(&why).advised(Some(Advice::NodeOrder)))?,
    };
    let parts = parts(contents, board, affinity.as_ref(), &main).ok_or_else(|| {
        let why = "so much main RAM may lie at 1 TiB, and the file has no ACPI table that says so";
        refuse(why).advised(Some(Advice::SingleBlocks))
    })?;
    let mut segments = main_segments(contents, &main, &parts);
    let devices = Devices::of(contents);
    let mut left_out = Vec::new();
    let mut unknown = Vec::new();
    for (number, block) in contents.blocks.iter().enumerate().filter(|(number, _)| !main.contains(number)) {
        let place = match placement.place(number) {
            Some(place) => place,
            None => known_place(block, board, affinity.as_ref(), &devices),
        };
        match place {
            Place::At(address) if block.used_length != UNKNOWN_LENGTH => {
                segments.push(Segment { address, block: number, range: 0..block.used_length });
            }
            Place::At(_) | Place::LeftOut => left_out.push(number),
            Place::Unknown => unknown.push(terminal(&block.idstr)),
        }
    }
    if let [first, ..] = &unknown[..] {
        let why =
            format!("at which addresses the guest has this memory is not in the file: {}", listed(&unknown));
        return Err(refuse(&why).advised(Some(Advice::PlaceBlock(first.clone()))));
    }
    shadow::cover(contents, board, &mut segments);
    segments.retain(|segment| !segment.range.is_empty());
    segments.sort_by_key(|segment| segment.address);
    check(contents, &segments)?;
    let placed: HashSet<_> = segments.iter().map(|segment| segment.block).collect();
    left_out.retain(|number| !placed.contains(number));
    let left_out = left_out.iter().map(|&number| terminal(&contents.blocks[number].idstr)).collect();
    Ok(Layout { board, segments, left_out })
}

/// Where main RAM lies.
fn parts(
    contents: &Contents,
    board: Board,
    affinity: Option<&Affinity>,
    main: &[usize],
) -> Option<Vec<Part>> {
    let lengths = main.iter().map(|&block| contents.blocks[block].used_length);
    let total = lengths.fold(0, u64::saturating_add);
    match affinity.filter(|affinity| affinity.nodes.iter().sum::<u64>() == total) {
        Some(affinity) => Some(affinity.parts.clone()),
        None => board.parts(contents, total),
    }
}

/// Blocks one after the other, cut where a part of main RAM ends.
fn main_segments(contents: &Contents, main: &[usize], parts: &[Part]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut start = 0_u64;
    for &block in main {
        let end = start.saturating_add(contents.blocks[block].used_length);
        for part in parts {
            let (from, to) = (part.range.start.max(start), part.range.end.min(end));
            if from < to {
                let address = part.address.saturating_add(from - part.range.start);
                segments.push(Segment { address, block, range: from - start..to - start });
            }
        }
        start = end;
    }
    segments
}

/// What is known of a block that is not main RAM.
fn known_place(block: &RamBlock, board: Board, affinity: Option<&Affinity>, devices: &Devices<'_>) -> Place {
    let length = block.used_length;
    if block.idstr == b"pc.bios" && length <= FOUR_GIB {
        return Place::At(FOUR_GIB - length);
    }
    if let Some(place) = devices.place(block) {
        return place;
    }
    if backend(board, &block.idstr).is_none() {
        return Place::LeftOut;
    }
    // The address of a memory device is counted from where the memory of such devices begins
    // (`memory_device_plug`).
    let base = affinity.and_then(|affinity| affinity.device_memory);
    let address = base.zip(block.guest_physical_address).and_then(|(base, at)| base.checked_add(at));
    address.map_or(Place::Unknown, Place::At)
}

/// No two segments lie at one address, and none ends behind all addresses.
fn check(contents: &Contents, segments: &[Segment]) -> Result<(), Error> {
    let wrong = |segment: &Segment, what: &str| {
        let name = terminal(&contents.blocks[segment.block].idstr);
        Error::Usage(format!("{}: block \"{name}\" at {:#x} {what}", contents.name, segment.address))
    };
    let mut end = 0;
    for segment in segments {
        if segment.address < end {
            return Err(wrong(segment, "overlaps the memory in front of it"));
        }
        let checked = segment.address.checked_add(segment.bytes());
        end = checked.ok_or_else(|| wrong(segment, "ends behind the last address"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    fn contents(machine: &[u8], blocks: &[(&[u8], u64)]) -> Contents {
        let configuration =
            migration_stream::Configuration { machine: machine.to_vec(), ..Default::default() };
        let blocks = blocks.iter().map(|(name, length)| RamBlock {
            idstr: name.to_vec(),
            used_length: *length,
            host_page_size: None,
            guest_physical_address: None,
        });
        Contents { configuration: Some(configuration), blocks: blocks.collect(), ..Contents::default() }
    }

    fn layout_of(contents: &Contents) -> Result<Layout, String> {
        let ram = RamFile::temporary().unwrap();
        layout(contents, &ram, &Placement::default()).map_err(|error| crate::error_text(&error))
    }

    /// Address, block and bytes of each segment.
    fn segments(contents: &Contents) -> Vec<(u64, usize, Range<u64>)> {
        let layout = layout_of(contents).unwrap();
        layout.segments.into_iter().map(|segment| (segment.address, segment.block, segment.range)).collect()
    }

    #[test]
    fn a_large_pc_has_its_hole_where_its_chipset_puts_it() {
        let pc = contents(b"pc-i440fx-7.2", &[(b"pc.ram", 4 << 30), (b"pc.bios", 0x4_0000)]);
        assert_eq!(
            segments(&pc),
            [
                (0, 0, 0..0xc000_0000),
                (0xfffc_0000, 1, 0..0x4_0000),
                (0x1_0000_0000, 0, 0xc000_0000..0x1_0000_0000)
            ]
        );
        let q35 = contents(b"pc-q35-7.2", &[(b"pc.ram", 3 << 30)]);
        assert_eq!(segments(&q35), [(0, 0, 0..0x8000_0000), (0x1_0000_0000, 0, 0x8000_0000..0xc000_0000)]);
    }

    #[test]
    fn nodes_follow_each_other_through_the_hole() {
        let blocks: &[(&[u8], u64)] =
            &[(b"ram-node1", 3 << 30), (b"ram-node0", 1 << 30), (b"ram-node2", 1 << 30)];
        assert_eq!(
            segments(&contents(b"pc-q35-10.0", blocks)),
            [
                (0, 1, 0..1 << 30),
                (1 << 30, 0, 0..1 << 30),
                (FOUR_GIB, 0, 1 << 30..3 << 30),
                (FOUR_GIB + (2 << 30), 2, 0..1 << 30)
            ]
        );
    }

    #[test]
    fn blocks_without_a_known_place_are_left_out_by_name() {
        let virt = contents(b"virt-7.2", &[(b"mach-virt.ram", 1 << 20), (b"virt.flash0", 1 << 20)]);
        let layout = layout_of(&virt).unwrap();
        assert_eq!(layout.board, Board::ArmVirt);
        assert_eq!(layout.segments[0].address, 0x4000_0000);
        assert_eq!(layout.left_out, ["virt.flash0"]);
    }

    #[test]
    fn memory_without_a_known_place_is_refused_by_name() {
        let refused =
            |machine: &[u8], blocks: &[(&[u8], u64)]| layout_of(&contents(machine, blocks)).unwrap_err();
        let text = refused(b"pc-q35-7.2", &[(b"pc.ram", 1 << 20), (b"dimm", 1 << 20)]);
        assert!(text.contains("dimm; give each") && text.contains("--place dimm=ADDRESS"), "{text}");
        let text = refused(b"pc-q35-7.2", &[(b"a", 1 << 20), (b"b", 1 << 20)]);
        assert!(text.contains("which blocks are main RAM is not in the file: a, b"), "{text}");
        let text = refused(b"none", &[(b"m", 4096)]);
        assert!(text.contains("where this machine has its RAM is not known"), "{text}");
        let text = refused(b"pc-q35-7.2", &[(b"pc.ram", 1 << 50)]);
        assert!(text.contains("may lie at 1 TiB"), "{text}");
    }

    #[test]
    fn addresses_of_a_stream_that_overlap_are_refused() {
        let mut pc = contents(b"pc-i440fx-7.2", &[(b"pc.ram", 1 << 20), (b"0000:00:02.0/vga.vram", 1 << 20)]);
        pc.blocks[1].guest_physical_address = Some(0x1000);
        let text = layout_of(&pc).unwrap_err();
        assert!(text.contains("vga.vram\" at 0x1000 overlaps"), "{text}");
        pc.blocks[1].guest_physical_address = Some(u64::MAX - 1);
        let text = layout_of(&pc).unwrap_err();
        assert!(text.contains("ends behind the last address"), "{text}");
    }

    #[test]
    fn a_message_names_some_of_a_million_blocks() {
        let names: Vec<_> = (0..34).map(|number| format!("b{number}")).collect();
        assert!(listed(&names[..32]).ends_with(", b31") && listed(&names).ends_with(", b31 and 2 more"));
    }
}
