//! Where RAM blocks lie in the guest's physical memory. A stream says that only with capability x-ignore-shared; for the
//! machines that are known here it follows from the machine type.

use crate::contents::Contents;
use crate::escape::terminal;
use migration_stream::UNKNOWN_LENGTH;
use std::ops::Range;

/// `EM_*`.
const X86_64: u16 = 62;
const AARCH64: u16 = 183;
const S390: u16 = 22;
const PPC64: u16 = 21;
const RISCV: u16 = 243;
const FOUR_GIB: u64 = 4 << 30;

/// What an ELF file says of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) elf_machine: u16,
    pub(super) big_endian: bool,
}

/// A part of a block that the guest has at a physical address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) block: usize,
    pub(super) range: Range<u64>,
}

/// The layout of a guest, and what was left out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) machine: Machine,
    pub(super) segments: Vec<Segment>,
    pub(super) left_out: Vec<String>,
}

/// Main RAM of the machines that are known, and where it begins. PCs have a hole in it.
const KNOWN: [(&[u8], u16, bool, u64); 5] = [
    (b"pc.ram", X86_64, false, 0),
    (b"mach-virt.ram", AARCH64, false, 0x4000_0000),
    (b"s390.ram", S390, true, 0),
    (b"ppc_spapr.ram", PPC64, true, 0),
    (b"riscv_virt_board.ram", RISCV, false, 0x8000_0000),
];

/// By the machine type: which of [`KNOWN`] it is, where its RAM comes from a memory backend with a name of its own.
fn by_machine(machine: &[u8]) -> Option<usize> {
    let starts = |prefix: &[u8]| machine.starts_with(prefix);
    match machine {
        _ if starts(b"pc-") || starts(b"pc") || starts(b"q35") || starts(b"microvm") => Some(0),
        _ if starts(b"s390-ccw") => Some(2),
        _ if starts(b"pseries") => Some(3),
        _ => None,
    }
}

/// Where the hole of a PC's RAM begins (`pc_init1`, `pc_q35_init`).
fn low_ram(length: u64, q35: bool) -> u64 {
    let (limit, low) = if q35 { (0xb000_0000, 0x8000_0000) } else { (0xe000_0000, 0xc000_0000) };
    if length >= limit { low } else { length }
}

/// The layout, if anything is known of it.
pub(super) fn layout(contents: &Contents) -> Option<Layout> {
    let machine = contents.configuration.as_ref().map_or(&[][..], |configuration| &configuration.machine);
    let by_name = |name: &[u8]| contents.blocks.iter().position(|block| block.idstr == name);
    let known = (0..KNOWN.len()).find_map(|known| Some((known, by_name(KNOWN[known].0)?)));
    let (known, main) = known.or_else(|| {
        let blocks = contents.blocks.iter().enumerate();
        let largest = blocks.max_by_key(|(_, block)| block.used_length)?.0;
        Some((by_machine(machine)?, largest))
    })?;
    let (_, elf_machine, big_endian, start) = KNOWN[known];
    let mut segments = Vec::new();
    let mut left_out = Vec::new();
    for (number, block) in contents.blocks.iter().enumerate() {
        let length = block.used_length;
        if length == UNKNOWN_LENGTH {
            left_out.push(terminal(&block.idstr));
        } else if number == main && elf_machine == X86_64 {
            let q35 = machine.starts_with(b"pc-q35")
                || machine.starts_with(b"q35")
                || contents.devices.iter().any(|device| device.idstr.ends_with(b"/mch"));
            let low = low_ram(length, q35);
            segments.push(Segment { address: 0, block: number, range: 0..low });
            if low < length {
                segments.push(Segment { address: FOUR_GIB, block: number, range: low..length });
            }
        } else if number == main {
            segments.push(Segment { address: start, block: number, range: 0..length });
        } else if let Some(address) = block.guest_physical_address.filter(|&address| address > 0) {
            segments.push(Segment { address, block: number, range: 0..length });
        } else if block.idstr == b"pc.bios" && length <= FOUR_GIB {
            segments.push(Segment { address: FOUR_GIB - length, block: number, range: 0..length });
        } else {
            left_out.push(terminal(&block.idstr));
        }
    }
    segments.sort_by_key(|segment| segment.address);
    Some(Layout { machine: Machine { elf_machine, big_endian }, segments, left_out })
}

impl Machine {
    pub(super) fn is_x86(self) -> bool {
        self.elf_machine == X86_64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::RamBlock;

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

    fn addresses(contents: &Contents) -> Vec<(u64, Range<u64>)> {
        let layout = layout(contents).unwrap();
        layout.segments.into_iter().map(|segment| (segment.address, segment.range)).collect()
    }

    #[test]
    fn a_large_pc_has_its_hole_where_its_chipset_puts_it() {
        let pc = contents(b"pc-i440fx-7.2", &[(b"pc.ram", 4 << 30), (b"pc.bios", 0x4_0000)]);
        assert_eq!(
            addresses(&pc),
            [(0, 0..0xc000_0000), (0xfffc_0000, 0..0x4_0000), (0x1_0000_0000, 0xc000_0000..0x1_0000_0000)]
        );
        let q35 = contents(b"pc-q35-7.2", &[(b"pc.ram", 3 << 30)]);
        assert_eq!(addresses(&q35), [(0, 0..0x8000_0000), (0x1_0000_0000, 0x8000_0000..0xc000_0000)]);
    }

    #[test]
    fn blocks_without_a_known_place_are_left_out_by_name() {
        let virt = contents(b"virt-7.2", &[(b"mach-virt.ram", 1 << 20), (b"virt.flash0", 1 << 20)]);
        let layout = layout(&virt).unwrap();
        assert_eq!(layout.machine, Machine { elf_machine: AARCH64, big_endian: false });
        assert_eq!(layout.segments[0].address, 0x4000_0000);
        assert_eq!(layout.left_out, ["virt.flash0"]);
        assert_eq!(super::layout(&contents(b"none", &[(b"m", 4096)])), None);
    }
}
