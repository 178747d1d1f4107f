//! The virtual addresses of an x86 guest, by its page tables (`arch_memory_mapping.c`; Intel SDM
//! volume 3, "Paging").
//!
//! The tables are whatever the guest left in its memory. They can be circular, and a few pages of
//! them can map all virtual addresses to one page. So tables that are read, and mappings that are
//! kept, are counted, and too many are refused.

use super::mappings::{MAPPINGS_LIMIT, Mapping, Mappings, Run};
use super::physical::Physical;
use super::processor::Processor;
use crate::advice::Advice;
use crate::error::Error;

/// The most tables that are read, for all processors. As many map 1 TiB in pages of 4 KiB.
pub(super) const TABLES_LIMIT: u32 = 1 << 19;
/// CR0: paging is on.
const PAGING: u64 = 1 << 31;
/// CR4: pages of 4 MiB in the oldest format; physical address extension; tables of five levels.
const PAGE_SIZE_EXTENSIONS: u64 = 1 << 4;
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const FIVE_LEVELS: u64 = 1 << 12;
/// An entry: it counts; it is a page and no table, where a level can have pages; the address, bits 12 to 51.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// A level: the bits of a virtual address with which it is indexed, and whether its entries can be pages.
#[derive(Debug, Clone, Copy)]
struct Level {
    shift: u32,
    bits: u32,
    large: bool,
}

const fn level(shift: u32, bits: u32, large: bool) -> Level {
    Level { shift, bits, large }
}

const LONG: [Level; 5] =
    [level(48, 9, false), level(39, 9, false), level(30, 9, true), level(21, 9, true), level(12, 9, false)];
const EXTENDED: [Level; 3] = [level(30, 2, false), level(21, 9, true), level(12, 9, false)];
const OLD: [Level; 2] = [level(22, 10, true), level(12, 10, false)];
const OLD_WITHOUT_LARGE: [Level; 2] = [level(22, 10, false), level(12, 10, false)];

/// The format of a processor's tables.
#[derive(Debug, Clone, Copy)]
struct Format {
    levels: &'static [Level],
    entry_bytes: usize,
    /// Bits of CR3 that are the first table's address.
    root: u64,
}

impl Format {
    /// None: paging is off.
    fn of(processor: &Processor) -> Option<Self> {
        let [cr0, _, _, _, cr4] = processor.control;
        if cr0 & PAGING == 0 {
            return None;
        }
        Some(if processor.is_in_long_mode() {
            let levels = if cr4 & FIVE_LEVELS != 0 { &LONG[..] } else { &LONG[1..] };
            Self { levels, entry_bytes: 8, root: ADDRESS }
        } else if cr4 & PHYSICAL_ADDRESS_EXTENSION != 0 {
            Self { levels: &EXTENDED, entry_bytes: 8, root: 0xffff_ffe0 }
        } else {
            let large = cr4 & PAGE_SIZE_EXTENSIONS != 0;
            Self { levels: if large { &OLD } else { &OLD_WITHOUT_LARGE }, entry_bytes: 4, root: 0xffff_f000 }
        })
    }

    /// Virtual addresses of long mode have their highest bit in all bits above it, too.
    fn canonical(self, address: u64) -> u64 {
        let bits = self.levels[0].shift + self.levels[0].bits;
        if self.entry_bytes == 8 && bits >= 48 && address >> (bits - 1) & 1 != 0 {
            address | u64::MAX << bits
        } else {
            address
        }
    }

    /// The physical address of a page of `bytes` bytes.
    fn page(self, entry: u64, bytes: u64) -> u64 {
        if self.entry_bytes == 4 && bytes > 4096 {
            // Bits 13 to 20 are bits 32 to 39 of the address (PSE-36).
            return entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32;
        }
        entry & ADDRESS & !(bytes - 1)
    }
}

/// Whether a processor has paging on.
pub(super) fn is_on(processor: &Processor) -> bool {
    Format::of(processor).is_some()
}

/// What the tables of all processors with paging map to RAM. What two of them map differently is as
/// the first has it.
pub(super) fn mappings(
    name: &str,
    processors: &[Processor],
    memory: Physical<'_>,
) -> Result<Mappings, Error> {
    let mut all = Mappings::default();
    let mut tables = 0;
    let mut roots = std::collections::HashSet::new();
    for processor in processors {
        let Some(format) = Format::of(processor) else { continue };
        let root = processor.control[3] & format.root;
        if !roots.insert((root, format.levels.len(), format.entry_bytes)) {
            continue;
        }
        let mut walk = Walk { name, format, memory, tables: &mut tables, run: Run::default() };
        walk.table(format.levels, root, 0)?;
        let run = walk.run;
        if !run.into_mappings(&mut all) {
            return Err(too_many(name, "mappings", MAPPINGS_LIMIT));
        }
    }
    Ok(all)
}

fn too_many(name: &str, what: &str, limit: impl std::fmt::Display) -> Error {
    Error::Usage(format!("{name}: the guest's page tables have more than {limit} {what}"))
        .advised(Some(Advice::PhysicalAddresses))
}

struct Walk<'a> {
    name: &'a str,
    format: Format,
    memory: Physical<'a>,
    tables: &'a mut u32,
    run: Run,
}

impl Walk<'_> {
    /// Goes through a table and those below it; `levels` are those from this one on, so that there is an end.
    fn table(&mut self, levels: &[Level], address: u64, virtual_start: u64) -> Result<(), Error> {
        let [level, below @ ..] = levels else { return Ok(()) };
        *self.tables += 1;
        if *self.tables > TABLES_LIMIT {
            return Err(too_many(self.name, "tables", TABLES_LIMIT));
        }
        let mut bytes = vec![0; self.format.entry_bytes << level.bits];
        if !self.memory.read(address, &mut bytes).map_err(Error::io("reading RAM"))? {
            return Ok(());
        }
        for (number, entry) in bytes.chunks_exact(self.format.entry_bytes).enumerate() {
            let entry = entry.iter().rev().fold(0, |entry, &byte| entry << 8 | u64::from(byte));
            if entry & PRESENT == 0 {
                continue;
            }
            let start = virtual_start | (number as u64) << level.shift;
            if below.is_empty() || (level.large && entry & LARGE != 0) {
                self.page(start, self.format.page(entry, 1 << level.shift), 1 << level.shift)?;
            } else {
                self.table(below, entry & ADDRESS, start)?;
            }
        }
        Ok(())
    }

    /// Keeps what of a page is RAM.
    fn page(&mut self, virtual_start: u64, start: u64, bytes: u64) -> Result<(), Error> {
        let virtual_start = self.format.canonical(virtual_start);
        for (at, bytes) in self.memory.parts(start, bytes) {
            let mapping = Mapping { virtual_address: virtual_start + (at - start), address: at, bytes };
            if !self.run.push(mapping) {
                return Err(too_many(self.name, "mappings", MAPPINGS_LIMIT));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
