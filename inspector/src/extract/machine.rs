//! A guest's memory as a QEMU is started with it: main RAM in the order of its nodes, and what else may come
//! from a memory backend.

use super::Placement;
use super::affinity;
use super::board::Board;
use super::numa::{backend, main_ram};
use crate::contents::{Contents, RamFile};
use crate::error::Error;
use migration_stream::UNKNOWN_LENGTH;
use migration_stream::device::Value;
use std::collections::BTreeMap;

/// Fields of the ACPI memory hot-plug registers: one element for each slot (`vmstate_memhp_sts`).
const SLOTS: &str = ".acpi_memory_hotplug.devs[";
const IS_ENABLED: &str = "].is_enabled";
/// What the region for memory devices has for each slot beside the memory (`pc_get_device_memory_range`).
const SLOT_BYTES: u64 = 1 << 30;

/// The memory of a guest.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) board: Board,
    /// Blocks of main RAM; more than one: of NUMA nodes, in their order.
    pub(crate) main: Vec<usize>,
    /// Other blocks that may come from a memory backend.
    pub(crate) others: Vec<usize>,
    /// Memory slots, in the order of their numbers: whether a DIMM is in it.
    pub(crate) slots: Vec<bool>,
    /// Bytes that main RAM and all DIMMs can have together (`maxmem`), where the file says it.
    pub(crate) most_bytes: Option<u64>,
}

/// The memory, if the machine is known. `nodes` are the blocks of main RAM, if the user gives them.
///
/// # Errors
///
/// Which blocks are main RAM, or in which order, does not follow from the file.
pub(crate) fn memory(contents: &Contents, ram: &RamFile, nodes: &[String]) -> Result<Option<Memory>, Error> {
    let Some(board) = Board::of(contents) else { return Ok(None) };
    let affinity = affinity::read(contents, ram, board).map_err(Error::io("reading RAM"))?;
    let given = Placement::new(contents, nodes, &[])?.nodes(contents, affinity.as_ref())?;
    let main = match given {
        Some(nodes) => nodes,
        None => main_ram(contents, board, affinity.as_ref()).map_err(|why| {
            let name = &contents.name;
            Error::Usage(format!(
                "{name}: {why}; give the blocks of main RAM in the order of -numa: --nodes NAME,NAME"
            ))
        })?,
    };
    let others = contents.blocks.iter().enumerate().filter(|(number, block)| {
        let may = backend(board, &block.idstr).is_some() && block.used_length != UNKNOWN_LENGTH;
        may && !main.contains(number)
    });
    let others = others.map(|(number, _)| number).collect();
    let slots = slots(contents);
    let total = main.iter().map(|&block| contents.blocks[block].used_length).fold(0, u64::saturating_add);
    let region = affinity.and_then(|affinity| affinity.device_memory_bytes);
    let most_bytes = region
        .and_then(|region| region.checked_sub(slots.len() as u64 * SLOT_BYTES))
        .and_then(|bytes| bytes.checked_add(total));
    Ok(Some(Memory { board, main, others, slots, most_bytes }))
}

fn slots(contents: &Contents) -> Vec<bool> {
    let mut slots = BTreeMap::new();
    for decoded in contents.devices.iter().filter_map(crate::contents::Device::decode) {
        for field in &decoded.fields {
            let number = field.path.split_once(SLOTS).and_then(|(_, rest)| rest.strip_suffix(IS_ENABLED));
            if let (Some(Ok(number)), Value::Bool(is_enabled)) = (number.map(str::parse::<u64>), &field.value)
            {
                slots.insert(number, *is_enabled);
            }
        }
    }
    slots.into_values().collect()
}
