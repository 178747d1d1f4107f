//! Which blocks are main RAM, in the order in which they lie in it.
//!
//! A machine with NUMA nodes has a block for each node's memory backend, named by the user. Node
//! after node, as `-numa` orders them, they are main RAM (`numa_init_memdev_container`). A stream
//! lists blocks by size, the largest first, and those of one size as they were created: by
//! `-object`, in an order of its own. So the order of nodes follows from:
//!
//! * the affinity table ([`super::affinity`]), which has the size of each node: a size that only
//!   one block has is a proof;
//! * names, among blocks of one size: `ram-node0`, `ram-node1` are libvirt's, for just this
//!   purpose. Other names that end in numbers count if the blocks were also created in the order of
//!   these numbers;
//! * addresses, in streams with capability `x-ignore-shared`.
//!
//! Where that does not suffice, the core is refused.

use super::affinity::{Affinity, NODES_LIMIT, has_tables};
use super::board::Board;
use super::names::listed;
use crate::contents::Contents;
use crate::escape::terminal;
use migration_stream::UNKNOWN_LENGTH;

/// What libvirt calls the memory backend of a node, before the node's number.
const LIBVIRT: &[u8] = b"ram-node";
/// Names of backends of machine types up to 3.1 have their path (`x-use-canonical-path-for-ramblock-id`).
const OBJECTS: &[u8] = b"/objects/";
/// More kinds of names among blocks of one size are not looked at.
const FAMILIES_LIMIT: usize = 16;
/// Blocks of the board itself, on a PC.
const PC_BLOCKS: [&[u8]; 8] = [
    b"pc.bios",
    b"pc.rom",
    b"isa-bios",
    b"system.flash0",
    b"system.flash1",
    b"vga.vram",
    b"vmsvga.fifo",
    b"tpm-ppi",
];

/// Why the blocks of main RAM are not known.
pub(super) type Why = String;

/// Name of the memory backend that a block comes from, if it may come from one: devices' blocks
/// have a path before their names, those of other boards than a PC a dot in them.
pub(super) fn backend(board: Board, idstr: &[u8]) -> Option<&[u8]> {
    let name = idstr.strip_prefix(OBJECTS).unwrap_or(idstr);
    let is_own = if board.is_pc() { PC_BLOCKS.contains(&name) } else { name.contains(&b'.') };
    (!name.contains(&b'/') && !is_own).then_some(name)
}

/// A name's number at its end, and what precedes it.
fn numbered(name: &[u8]) -> Option<(&[u8], u64)> {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (prefix, number) = name.split_at(name.len() - digits);
    Some((prefix, std::str::from_utf8(number).ok()?.parse().ok()?))
}

struct Candidate<'a> {
    block: usize,
    name: &'a [u8],
    length: u64,
}

/// What names have in common, and the number and block of each.
type Family<'a> = (&'a [u8], Vec<(u64, usize)>);

/// The blocks of main RAM in their order.
pub(super) fn main_ram(
    contents: &Contents,
    board: Board,
    affinity: Option<&Affinity>,
) -> Result<Vec<usize>, Why> {
    if let Some(block) = board.main_block(contents) {
        return Ok(vec![block]);
    }
    let blocks = contents.blocks.iter().enumerate();
    let blocks = blocks.filter(|(_, block)| block.used_length != UNKNOWN_LENGTH);
    let candidates: Vec<_> = blocks
        .filter_map(|(number, block)| {
            let name = backend(board, &block.idstr)?;
            Some(Candidate { block: number, name, length: block.used_length })
        })
        .collect();
    match affinity {
        Some(affinity) => by_size(contents, &candidates, &affinity.nodes),
        None => without_table(contents, &candidates, board),
    }
}

fn names<'a>(candidates: impl IntoIterator<Item = &'a Candidate<'a>>) -> String {
    let names: Vec<_> = candidates.into_iter().map(|candidate| terminal(candidate.name)).collect();
    listed(&names)
}

/// The nodes have these sizes.
fn by_size(contents: &Contents, candidates: &[Candidate<'_>], sizes: &[u64]) -> Result<Vec<usize>, Why> {
    let mut nodes = vec![usize::MAX; sizes.len()];
    let mut kinds = sizes.to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    let start = |node: usize| sizes[..node].iter().sum::<u64>();
    for size in kinds {
        let of_size = candidates.iter().filter(|candidate| candidate.length == size).collect::<Vec<_>>();
        let places: Vec<_> = (0..sizes.len()).filter(|&node| sizes[node] == size).collect();
        let in_order = if let Some(blocks) = by_address(contents, &of_size, &places, start) {
            blocks
        } else if of_size.len() == 1 && places.len() == 1 {
            vec![of_size[0].block]
        } else {
            by_name(&of_size, places.len()).ok_or_else(|| which(&of_size, size, places.len()))?
        };
        for (node, block) in places.into_iter().zip(in_order) {
            nodes[node] = block;
        }
    }
    Ok(nodes)
}

fn which(of_size: &[&Candidate<'_>], size: u64, places: usize) -> Why {
    if of_size.len() < places {
        let blocks = of_size.len();
        return format!(
            "the ACPI tables have {places} NUMA nodes of {size} bytes, and {blocks} blocks have that size"
        );
    }
    let names = names(of_size.iter().copied());
    format!("which of the blocks of {size} bytes is which NUMA node is not in the file: {names}")
}

/// By the addresses that a stream with capability `x-ignore-shared` has: in main RAM, each node
/// where the one before ends.
fn by_address(
    contents: &Contents,
    of_size: &[&Candidate<'_>],
    places: &[usize],
    start: impl Fn(usize) -> u64,
) -> Option<Vec<usize>> {
    let at = |start: u64| {
        let has = |candidate: &&&Candidate<'_>| {
            contents.blocks[candidate.block].guest_physical_address == Some(start)
        };
        let mut found = of_size.iter().filter(has);
        let first = found.next()?;
        // The memory of a device has an address that is counted from elsewhere, and may be the same number.
        found.next().is_none().then_some(first.block)
    };
    places.iter().map(|&node| at(start(node))).collect()
}

/// So many blocks of one size, in the order that their names say.
fn by_name(of_size: &[&Candidate<'_>], wanted: usize) -> Option<Vec<usize>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for candidate in of_size {
        let Some((prefix, number)) = numbered(candidate.name) else { continue };
        let member = (number, candidate.block);
        match families.iter().position(|family| family.0 == prefix) {
            Some(family) => families[family].1.push(member),
            None if families.len() < FAMILIES_LIMIT => families.push((prefix, vec![member])),
            None => return None,
        }
    }
    let of_libvirt = families.iter().position(|(prefix, _)| *prefix == LIBVIRT);
    // Others only if there is no block of this size that is something else.
    let only = (families.len() == 1 && of_size.len() == wanted).then_some(0);
    let (prefix, mut members) = families.swap_remove(of_libvirt.or(only)?);
    if members.len() != wanted || (prefix != LIBVIRT && !members.is_sorted()) {
        return None;
    }
    members.sort_unstable();
    members
        .windows(2)
        .all(|pair| pair[0].0 != pair[1].0)
        .then(|| members.iter().map(|member| member.1).collect())
}

/// No affinity table: with ACPI the machine has one block of main RAM; without, libvirt's names tell nodes.
fn without_table(contents: &Contents, candidates: &[Candidate<'_>], board: Board) -> Result<Vec<usize>, Why> {
    let total = board.total_in_cmos(contents);
    let of_libvirt =
        |candidate: &&Candidate<'_>| numbered(candidate.name).is_some_and(|(prefix, _)| prefix == LIBVIRT);
    let mut nodes: Vec<_> = candidates.iter().filter(of_libvirt).collect();
    if !nodes.is_empty() {
        nodes.sort_by_key(|candidate| numbered(candidate.name).map(|(_, number)| number));
        let bytes = nodes.iter().try_fold(0_u64, |bytes, candidate| bytes.checked_add(candidate.length));
        if nodes.len() <= NODES_LIMIT && total.is_none_or(|total| bytes == Some(total)) {
            return Ok(nodes.iter().map(|candidate| candidate.block).collect());
        }
    }
    let fits = |candidate: &&Candidate<'_>| total == Some(candidate.length);
    let mut fitting = candidates.iter().filter(fits);
    match (candidates, fitting.next(), fitting.next()) {
        ([only], _, _) => Ok(vec![only.block]),
        (_, Some(only), None) if has_tables(contents) => Ok(vec![only.block]),
        ([], _, _) => Err("there is no block that can be main RAM".to_owned()),
        _ => Err(format!("which blocks are main RAM is not in the file: {}", names(candidates))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::RamBlock;

    const MIB: u64 = 1 << 20;

    fn order(blocks: &[(&str, u64)], nodes: Option<&[u64]>) -> Result<Vec<usize>, Why> {
        let blocks = blocks.iter().map(|(name, length)| RamBlock {
            idstr: name.as_bytes().to_vec(),
            used_length: *length,
            host_page_size: None,
            guest_physical_address: None,
        });
        let contents = Contents { blocks: blocks.collect(), ..Contents::default() };
        let affinity = nodes.map(|nodes| Affinity { nodes: nodes.to_vec(), ..Affinity::default() });
        main_ram(&contents, Board::Q35, affinity.as_ref())
    }

    #[test]
    fn a_size_that_only_one_block_has_tells_its_node_whatever_its_name() {
        let blocks = [("big", 96 * MIB), ("pc.bios", 32 * MIB), ("small", 32 * MIB)];
        assert_eq!(order(&blocks, Some(&[32 * MIB, 96 * MIB])), Ok(vec![2, 0]));
        assert_eq!(order(&blocks, Some(&[96 * MIB, 32 * MIB])), Ok(vec![0, 2]));
    }

    #[test]
    fn equal_sizes_are_told_apart_by_names_only() {
        let both = Some(&[MIB, MIB][..]);
        // libvirt's names count whatever the order of creation, and whatever else has the same size.
        assert_eq!(order(&[("ram-node1", MIB), ("dimm0", MIB), ("ram-node0", MIB)], both), Ok(vec![2, 0]));
        assert_eq!(order(&[("ram-node2", MIB), ("ram-node10", MIB)], both), Ok(vec![0, 1]));
        assert_eq!(order(&[("/objects/m0", MIB), ("/objects/m1", MIB)], both), Ok(vec![0, 1]));
        for blocks in [
            &[("a", MIB), ("b", MIB)][..],
            &[("m1", MIB), ("m0", MIB)],
            &[("m0", MIB), ("n1", MIB)],
            &[("m0", MIB), ("m1", MIB), ("dimm0", MIB)],
            &[("ram-node0", MIB), ("ram-node00", MIB)],
        ] {
            let text = order(blocks, both).unwrap_err();
            assert!(text.contains("which of the blocks of 1048576 bytes"), "{text}");
            assert!(blocks.iter().all(|(name, _)| text.contains(name)), "{text}");
        }
        let text = order(&[("a", MIB), ("b", 2 * MIB)], both).unwrap_err();
        assert!(text.contains("2 NUMA nodes of 1048576 bytes, and 1 blocks"), "{text}");
    }

    #[test]
    fn without_a_table_there_are_the_names_of_libvirt_or_one_block() {
        assert_eq!(order(&[("ram-node1", 3 * MIB), ("ram-node0", MIB)], None), Ok(vec![1, 0]));
        assert_eq!(order(&[("ram", MIB), ("0000:00:02.0/vga.vram", 2 * MIB)], None), Ok(vec![0]));
        assert!(order(&[("m1", 3 * MIB), ("m0", MIB)], None).is_err());
        assert!(order(&[("pc.bios", MIB)], None).is_err());
    }
}
