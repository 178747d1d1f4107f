//! What a PC's processor reads between 768 KiB and 1 MiB: RAM, or the ROM that lies over it. The
//! chipset decides it for each part of 16 KiB by its programmable attribute registers
//! (`pam_update`); firmware switches to RAM when it has copied itself. Firmware of 64 KiB has a ROM
//! from 960 KiB on only (`pc_isa_bios_init`).

use super::board::Board;
use super::devices::pci_configuration;
use super::segment::Segment;
use crate::contents::Contents;
use crate::size::to_usize;

/// Where the area begins, and ends.
const START: u64 = 0xc_0000;
const END: u64 = 0x10_0000;
/// Where the ROM of option ROMs ends, and that of the firmware may begin: the last 128 KiB of it at most.
const FIRMWARE_START: u64 = 0xe_0000;
const PART_BYTES: u64 = 0x4000;
/// The last part is of 64 KiB, and is the only one that the first register is for.
const LAST_PART: u64 = 0xf_0000;
/// An attribute that has reads go to RAM.
const READ_ENABLED: u8 = 1;
/// Offsets of the first of seven registers in PCI configuration space (`I440FX_PAM`, `MCH_HOST_BRIDGE_PAM0`).
const REGISTERS: [(Board, &[u8], usize); 2] =
    [(Board::I440fx, b"/I440FX", 0x59), (Board::Q35, b"/mch", 0x90)];

/// The attribute registers, where they are known.
fn registers(contents: &Contents, board: Board) -> Option<[u8; 7]> {
    let (_, name, at) = REGISTERS.into_iter().find(|(of, _, _)| *of == board)?;
    let chipset = contents.devices.iter().find(|device| device.idstr.ends_with(name))?;
    pci_configuration(chipset)?.get(at..at + 7)?.try_into().ok()
}

/// Whether what lies at `address` is RAM.
fn is_ram(registers: [u8; 7], address: u64) -> bool {
    let attribute = if address >= LAST_PART {
        registers[0] >> 4
    } else {
        let part = to_usize((address - START) / PART_BYTES);
        registers[1 + part / 2] >> (4 * (part % 2))
    };
    attribute & READ_ENABLED != 0
}

/// The ROM at `address`: its block, and the offset in it.
fn rom(contents: &Contents, address: u64) -> Option<(usize, u64)> {
    let find = |name: &[u8]| {
        let block = contents.blocks.iter().position(|block| block.idstr == name)?;
        Some((block, contents.blocks[block].used_length))
    };
    if address < FIRMWARE_START {
        let (block, length) = find(b"pc.rom")?;
        return (address - START + PART_BYTES <= length).then_some((block, address - START));
    }
    // Firmware in flash has a copy of its end; other firmware is seen a second time here.
    let (block, length) = find(b"isa-bios").or_else(|| find(b"pc.bios"))?;
    Some((block, length.checked_sub(END - address)?))
}

/// Puts ROM over RAM where the processor reads it.
pub(super) fn cover(contents: &Contents, board: Board, segments: &mut Vec<Segment>) {
    let registers = match board {
        // The firmware lies over RAM for good (`x86_bios_rom_init`).
        Board::Microvm => Some([0, 0x11, 0x11, 0x11, 0x11, 0, 0]),
        _ => registers(contents, board),
    };
    let Some(registers) = registers else { return };
    let mut address = START;
    while address < END {
        if !is_ram(registers, address) {
            // Where there is no ROM either, RAM shows through: the alias of PCI memory that lies
            // over it is empty there.
            if let Some((block, offset)) = rom(contents, address) {
                cut(segments, address);
                segments.push(Segment { address, block, range: offset..offset + PART_BYTES });
            }
        }
        address += PART_BYTES;
    }
}

/// Takes a part out of the segment that has it.
fn cut(segments: &mut Vec<Segment>, address: u64) {
    let has = |segment: &Segment| {
        segment.address <= address && address + PART_BYTES <= segment.address.saturating_add(segment.bytes())
    };
    let Some(number) = segments.iter().position(has) else { return };
    let before = segments[number].clone();
    let at = before.range.start + (address - before.address);
    let behind = Segment {
        address: address + PART_BYTES,
        block: before.block,
        range: at + PART_BYTES..before.range.end,
    };
    segments[number].range.end = at;
    segments.push(behind);
}
