//! The ACPI table that says which memory belongs to which NUMA node. QEMU builds it for the guest
//! and keeps it in a block of its own, so a stream of a machine with nodes, or with memory
//! hot-plug, holds it.

use super::board::{Board, FOUR_GIB, Part, split};
use crate::contents::{Contents, RamFile};
use crate::size::to_usize;
use std::io;

/// The block with QEMU's ACPI tables (`ACPI_BUILD_TABLE_FILE`), and the most bytes it may have
/// (`ACPI_BUILD_TABLE_MAX_SIZE`).
pub(crate) const TABLES_BLOCK: &[u8] = b"/rom@etc/acpi/tables";
const TABLES_LIMIT_BYTES: u64 = 2 << 20;
/// A table: signature (4 bytes), length with this header (le32), revision, checksum, and more, 36
/// bytes in all. A FACS is a signature and a length, too.
const SHORTEST_TABLE_BYTES: usize = 36;
/// The system resource affinity table (SRAT): 12 bytes behind the header, then structures of a type
/// and a length (one byte each).
const AFFINITY: &[u8] = b"SRAT";
const STRUCTURES_OFFSET: usize = 48;
/// Memory affinity: type 1, 40 bytes: node (le32 at 2), base (le64 at 8), length (le64 at 16),
/// flags (le32 at 28).
const MEMORY_AFFINITY: u8 = 1;
const MEMORY_AFFINITY_BYTES: usize = 40;
const ENABLED: u32 = 1;
const HOT_PLUGGABLE: u32 = 2;
/// The most nodes that QEMU has (`MAX_NODES`).
pub(super) const NODES_LIMIT: usize = 128;
/// A PC's RAM between these addresses belongs to no structure (`build_srat`).
const PC_HOLE: (u64, u64) = (0xa_0000, 0x10_0000);

/// What the table says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    /// Bytes of each node that has memory, in the order of the nodes.
    pub(super) nodes: Vec<u64>,
    /// Where main RAM lies.
    pub(super) parts: Vec<Part>,
    /// Where the memory of hot-pluggable devices begins.
    pub(super) device_memory: Option<u64>,
    /// How long that memory can be, in bytes.
    pub(super) device_memory_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    node: u32,
    base: u64,
    length: u64,
}

/// The machine has ACPI tables; so without an affinity table it has no nodes.
pub(super) fn has_tables(contents: &Contents) -> bool {
    contents.blocks.iter().any(|block| block.idstr == TABLES_BLOCK)
}

/// Reads the table, where there is one that makes sense.
pub(super) fn read(contents: &Contents, ram: &RamFile, board: Board) -> io::Result<Option<Affinity>> {
    let Some(block) = contents.blocks.iter().position(|block| block.idstr == TABLES_BLOCK) else {
        return Ok(None);
    };
    let length = contents.blocks[block].used_length.min(TABLES_LIMIT_BYTES);
    let mut tables = vec![0; to_usize(length)];
    ram.read(block, 0, &mut tables)?;
    Ok(find(&tables).and_then(|table| parse(table, board)))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The affinity table among tables that follow each other, zeros between them.
fn find(mut tables: &[u8]) -> Option<&[u8]> {
    loop {
        let start = tables.iter().position(|&byte| byte != 0)?;
        tables = &tables[start..];
        let length = usize::try_from(le32(tables, 4)?).ok()?;
        if length < SHORTEST_TABLE_BYTES || !tables[..4].iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        let table = tables.get(..length)?;
        if table.starts_with(AFFINITY) {
            return Some(table);
        }
        tables = &tables[length..];
    }
}

fn parse(table: &[u8], board: Board) -> Option<Affinity> {
    let mut memory = Vec::new();
    let (mut device_memory, mut device_memory_bytes) = (None, None);
    let mut rest = table.get(STRUCTURES_OFFSET..)?;
    while let [kind, length, ..] = *rest {
        let structure = rest.get(..usize::from(length)).filter(|structure| structure.len() >= 2)?;
        rest = &rest[structure.len()..];
        if kind != MEMORY_AFFINITY || structure.len() < MEMORY_AFFINITY_BYTES {
            continue;
        }
        let (base, length) = (le64(structure, 8)?, le64(structure, 16)?);
        match le32(structure, 28)? {
            ENABLED if length > 0 => memory.push(Memory { node: le32(structure, 2)?, base, length }),
            flags if flags == ENABLED | HOT_PLUGGABLE => {
                (device_memory, device_memory_bytes) = (Some(base), Some(length));
            }
            _ => {}
        }
    }
    let (nodes, parts) = nodes_of(&memory, board)?;
    Some(Affinity { nodes, parts, device_memory, device_memory_bytes })
}

/// Nodes and parts of ranges that cover main RAM without a gap, node after node.
fn nodes_of(memory: &[Memory], board: Board) -> Option<(Vec<u64>, Vec<Part>)> {
    let is_high = |memory: &&Memory| board.is_pc() && memory.base >= FOUR_GIB;
    let low_end =
        memory.iter().filter(|memory| !is_high(memory)).map(|memory| memory.base.checked_add(memory.length));
    let low = low_end.collect::<Option<Vec<_>>>()?.into_iter().max()?.checked_sub(board.start())?;
    let high_start = memory.iter().find(is_high).map_or(FOUR_GIB, |memory| memory.base);
    let mut nodes: Vec<(u32, u64)> = Vec::new();
    let mut total = 0_u64;
    for range in memory {
        let start = match range.base {
            base if is_high(&range) => low.checked_add(base.checked_sub(high_start)?)?,
            base => base.checked_sub(board.start())?,
        };
        let hole = start.checked_sub(total)?;
        if let Some((_, bytes)) = nodes.last_mut().filter(|(node, _)| *node == range.node) {
            if hole != 0 && (!board.is_pc() || (total, start) != PC_HOLE) {
                return None;
            }
            *bytes = bytes.checked_add(hole)?.checked_add(range.length)?;
        } else {
            let came = nodes.iter().any(|(node, _)| *node == range.node);
            if hole != 0 || came || nodes.len() == NODES_LIMIT {
                return None;
            }
            nodes.push((range.node, range.length));
        }
        total = start.checked_add(range.length)?;
    }
    high_start.checked_add(total)?;
    Some((nodes.into_iter().map(|(_, bytes)| bytes).collect(), split(board.start(), total, low, high_start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with structures of these nodes, bases, lengths and flags, behind another table.
    fn tables(memory: &[(u32, u64, u64, u32)]) -> Vec<u8> {
        let mut structures = vec![0, 16];
        structures.extend_from_slice(&[0; 14]);
        for (node, base, length, flags) in memory {
            let mut structure = [0; MEMORY_AFFINITY_BYTES];
            structure[..2].copy_from_slice(&[MEMORY_AFFINITY, 40]);
            structure[2..6].copy_from_slice(&node.to_le_bytes());
            structure[8..16].copy_from_slice(&base.to_le_bytes());
            structure[16..24].copy_from_slice(&length.to_le_bytes());
            structure[28..32].copy_from_slice(&flags.to_le_bytes());
            structures.extend_from_slice(&structure);
        }
        let mut tables = b"FACS\x40\0\0\0".to_vec();
        tables.resize(64 + 20, 0);
        tables.extend_from_slice(AFFINITY);
        let length = u32::try_from(STRUCTURES_OFFSET + structures.len()).unwrap();
        tables.extend_from_slice(&length.to_le_bytes());
        tables.resize(64 + 20 + STRUCTURES_OFFSET, 0);
        tables.extend_from_slice(&structures);
        tables.resize(4096, 0);
        tables
    }

    fn parsed(memory: &[(u32, u64, u64, u32)], board: Board) -> Option<Affinity> {
        parse(find(&tables(memory)).unwrap(), board)
    }

    #[test]
    fn nodes_of_a_pc_have_the_low_hole_in_them_and_the_pci_hole_between_parts() {
        let memory = [
            (0, 0, 0xa_0000, 1),
            (0, 0x10_0000, 0x1f0_0000, 1),
            (1, 0x200_0000, 0x200_0000, 1),
            (1, FOUR_GIB, 0x400_0000, 1),
            (0, 0, 0, 0),
            (1, 0x2_0000_0000, 0x4000_0000, 3),
        ];
        let affinity = parsed(&memory, Board::I440fx).unwrap();
        assert_eq!(affinity.nodes, [32 << 20, 96 << 20]);
        assert_eq!(affinity.parts, split(0, 128 << 20, 64 << 20, FOUR_GIB));
        assert_eq!(affinity.device_memory, Some(0x2_0000_0000));
        assert_eq!(affinity.device_memory_bytes, Some(0x4000_0000));
    }

    #[test]
    fn memory_of_other_machines_is_one_part_from_its_start_on() {
        let memory = [(0, 0x4000_0000, 0x1_0000_0000, 1), (1, 0x1_4000_0000, 0x1000, 1)];
        let affinity = parsed(&memory, Board::ArmVirt).unwrap();
        assert_eq!(affinity.nodes, [0x1_0000_0000, 0x1000]);
        assert_eq!(affinity.parts, split(0x4000_0000, 0x1_0000_1000, 0x1_0000_1000, FOUR_GIB));
    }

    #[test]
    fn a_table_that_makes_no_sense_says_nothing() {
        for memory in [
            &[(0, 0, 0x1000, 1), (1, 0x2000, 0x1000, 1)][..],
            &[(0, 0, 0x1000, 1), (1, 0x1000, 0x1000, 1), (0, 0x2000, 0x1000, 1)],
            &[(0, 0, 0x2000, 1), (1, 0x1000, 0x2000, 1)],
            &[(0, 0, 0xa_0000, 1), (1, 0x10_0000, 0x1000, 1)],
            &[(0, 0, u64::MAX, 1), (1, u64::MAX, 2, 1)],
            &[(0, FOUR_GIB, u64::MAX, 1)],
            &[],
        ] {
            assert_eq!(parsed(memory, Board::Q35), None, "{memory:x?}");
        }
    }

    #[test]
    fn any_cut_and_any_changed_byte_is_read_without_a_panic() {
        let whole = tables(&[(0, 0, 0x1000, 1), (1, 0x1000, 0x1000, 1)]);
        let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 13;
        for cut in 0..end {
            let _ = find(&whole[..cut]).and_then(|table| parse(table, Board::Q35));
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[cut] = value;
                let _ = find(&changed).and_then(|table| parse(table, Board::Q35));
            }
        }
    }
}
