//! All RAM as an ELF core.
//!
//! Its ranges have physical addresses, as virtual ones, too, or those that the processors' page
//! tables map to it. In the file RAM is there once, and as a whole, whatever is mapped.

use super::board::I386;
use super::copy_range;
use super::elf::{ALIGNMENT_BYTES, Load, Machine, head};
use super::guest_note::{GuestNote, guest_note};
use super::layout::{Layout, layout};
use super::names::listed;
use super::notes::notes;
use super::paging;
use super::physical::Physical;
use super::placement::Placement;
use super::processor::{Processor, processors};
use super::segment::Segment;
use crate::advice::Advice;
use crate::contents::{Contents, RamFile};
use crate::error::Error;
use crate::sink::Sink;
use std::collections::BTreeSet;

/// What the virtual addresses in a core are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// The physical ones.
    Physical,
    /// Those of the guest's page tables.
    Virtual,
}

/// A core that can be written: where everything lies is known.
#[derive(Debug)]
pub(crate) struct Core<'a> {
    ram: &'a RamFile,
    layout: Layout,
    machine: Machine,
    notes: Vec<u8>,
    loads: Vec<Load>,
    remarks: Vec<String>,
}

impl<'a> Core<'a> {
    /// Finds out where everything lies.
    pub(crate) fn of(
        contents: &'a Contents,
        placement: &Placement,
        addresses: Addresses,
    ) -> Result<Self, Error> {
        let ram = contents.ram.as_ref();
        let ram = ram.ok_or_else(|| Error::Usage(format!("{}: RAM was not read", contents.name)))?;
        let layout = layout(contents, ram, placement)?;
        let board = layout.board;
        let mut machine = Machine { number: board.elf_machine(), big_endian: board.is_big_endian() };
        // Page tables and notes are read from RAM, too: what is not there is not zeros.
        let blocks: BTreeSet<usize> = layout.segments.iter().map(|segment| segment.block).collect();
        let mut remarks = Vec::new();
        for block in blocks {
            remarks.extend(contents.require(block)?);
        }
        if !layout.left_out.is_empty() {
            let names = listed(&layout.left_out);
            remarks.push(format!("not in the core, as their addresses are not known: {names}"));
        }
        let memory = Physical { ram, segments: &layout.segments };
        let processors = if board.is_pc() { processors(contents) } else { Vec::new() };
        let mut notes_of = Vec::new();
        if let Some(first) = processors.first() {
            // As QEMU decides it, by the first processor (`cpu_get_dump_info`).
            if !first.is_in_long_mode() {
                machine.number = I386;
            }
            let note = guest_note(contents, memory)?;
            if let GuestNote::Wrong(why) = note {
                remarks.push(format!("no VMCOREINFO in the core: {why}"));
            }
            let of_guest = if let GuestNote::Found(note) = &note { Some(&note[..]) } else { None };
            notes_of = notes(&processors, first.is_in_long_mode(), of_guest);
        } else {
            remarks.push("no registers in the core: those of this machine are not known".to_owned());
        }
        let loads = match addresses {
            Addresses::Physical => physical_loads(&layout.segments),
            Addresses::Virtual => virtual_loads(contents, &processors, memory)?,
        };
        Ok(Self { ram, layout, machine, notes: notes_of, loads, remarks })
    }

    /// What a reader of the core should know.
    pub(crate) fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Writes it.
    pub(crate) fn write(&self, out: &mut dyn Sink) -> Result<(), Error> {
        out.put(&head(self.machine, &self.notes, &self.loads))?;
        for segment in &self.layout.segments {
            let bytes = segment.bytes();
            copy_range(self.ram, segment.block, segment.range.clone(), out)?;
            out.put_zeros(bytes.next_multiple_of(ALIGNMENT_BYTES) - bytes)?;
        }
        Ok(())
    }
}

/// A range for each segment, one behind the other in the file, virtual addresses as the physical ones.
fn physical_loads(segments: &[Segment]) -> Vec<Load> {
    let mut offset = 0_u64;
    let mut loads = Vec::new();
    for segment in segments {
        let (address, bytes) = (segment.address, segment.bytes());
        loads.push(Load { virtual_address: address, address, bytes, offset });
        offset = offset.saturating_add(bytes.next_multiple_of(ALIGNMENT_BYTES));
    }
    loads
}

/// A range for each mapping, by virtual address.
fn virtual_loads(
    contents: &Contents,
    processors: &[Processor],
    memory: Physical<'_>,
) -> Result<Vec<Load>, Error> {
    let refuse = |why: &str| {
        Err(Error::Usage(format!("{}: {why}", contents.name)).advised(Some(Advice::PhysicalAddresses)))
    };
    if processors.is_empty() {
        return refuse("virtual addresses need the registers of an x86 guest, and there are none");
    }
    let physical = physical_loads(memory.segments);
    // A guest without paging has physical addresses everywhere (`qemu_get_guest_memory_mapping`).
    if !processors.iter().any(paging::is_on) {
        return Ok(physical);
    }
    let mappings = paging::mappings(&contents.name, processors, memory)?;
    let mut loads = Vec::with_capacity(mappings.len());
    for mapping in mappings.iter() {
        let behind = physical.partition_point(|load| load.address <= mapping.address);
        let Some(load) = behind.checked_sub(1).and_then(|number| physical.get(number)) else { continue };
        loads.push(Load {
            virtual_address: mapping.virtual_address,
            address: mapping.address,
            bytes: mapping.bytes,
            offset: load.offset + (mapping.address - load.address),
        });
    }
    if loads.is_empty() {
        return refuse("the guest's page tables map nothing to its RAM");
    }
    Ok(loads)
}
