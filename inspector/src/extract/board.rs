//! What the machine type says of a guest's memory: what its main RAM block is called, and at which
//! physical addresses main RAM lies.

use crate::contents::Contents;
use migration_stream::device::Value;
use std::ops::Range;

/// `EM_*`.
const X86_64: u16 = 62;
pub(super) const I386: u16 = 3;
const AARCH64: u16 = 183;
const S390: u16 = 22;
const PPC64: u16 = 21;
const RISCV: u16 = 243;
pub(super) const FOUR_GIB: u64 = 4 << 30;
/// A guest with more main RAM than this may have what lies above 4 GiB moved to 1 TiB: an AMD
/// processor keeps addresses from `0xfd_0000_0000` on for itself (`pc_memory_init`,
/// `AMD_HT_START`), and the 64-bit PCI window counts, too.
const MOVED_RAM_BYTES: u64 = 900 << 30;
/// CMOS: bytes above 16 MiB and below 4 GiB in units of 64 KiB, le16; bytes above 4 GiB in the same
/// units, le24; bytes above 1 MiB in KiB, le16 (`pc_cmos_init`, `microvm_set_rtc`).
const CMOS_ABOVE_16_MIB: usize = 0x34;
const CMOS_ABOVE_4_GIB: usize = 0x5b;
const CMOS_ABOVE_1_MIB: usize = 0x30;
const CMOS_UNIT_BYTES: u64 = 64 << 10;

/// Kinds of machines whose memory is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Board {
    I440fx,
    Q35,
    Microvm,
    ArmVirt,
    S390,
    Pseries,
    RiscvVirt,
}

/// A part of main RAM: the physical address at which it lies, and its bytes, counted from the start
/// of main RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) address: u64,
    pub(super) range: Range<u64>,
}

/// Main RAM's block where it does not come from a memory backend with a name of its own.
const MAIN_BLOCKS: [(&[u8], Board); 6] = [
    (b"pc.ram", Board::I440fx),
    (b"microvm.ram", Board::Microvm),
    (b"mach-virt.ram", Board::ArmVirt),
    (b"s390.ram", Board::S390),
    (b"ppc_spapr.ram", Board::Pseries),
    (b"riscv_virt_board.ram", Board::RiscvVirt),
];

impl Board {
    /// The machine, by its type, its chipset or the name of its RAM; none: not known.
    pub(super) fn of(contents: &Contents) -> Option<Self> {
        let machine = contents.configuration.as_ref().map_or(&[][..], |configuration| &configuration.machine);
        let starts = |prefix: &[u8]| machine.starts_with(prefix);
        let has = |end: &[u8]| contents.devices.iter().any(|device| device.idstr.ends_with(end));
        if starts(b"pc-q35") || starts(b"q35") || has(b"/mch") {
            return Some(Self::Q35);
        }
        if starts(b"microvm") {
            return Some(Self::Microvm);
        }
        if starts(b"pc") || has(b"/I440FX") {
            return Some(Self::I440fx);
        }
        let by_name = MAIN_BLOCKS.iter().find(|(name, _)| find(contents, name).is_some());
        match by_name {
            Some((_, board)) => Some(*board),
            None if starts(b"s390-ccw") => Some(Self::S390),
            None if starts(b"pseries") => Some(Self::Pseries),
            None if starts(b"virt-") => Some(Self::ArmVirt),
            None => None,
        }
    }

    /// The block that is main RAM by its name.
    pub(super) fn main_block(self, contents: &Contents) -> Option<usize> {
        let own = |(_, board): &&(&[u8], Self)| *board == self || (self.is_pc() && *board == Self::I440fx);
        MAIN_BLOCKS.iter().filter(own).find_map(|(name, _)| find(contents, name))
    }

    pub(super) const fn elf_machine(self) -> u16 {
        match self {
            Self::I440fx | Self::Q35 | Self::Microvm => X86_64,
            Self::ArmVirt => AARCH64,
            Self::S390 => S390,
            Self::Pseries => PPC64,
            Self::RiscvVirt => RISCV,
        }
    }

    pub(super) const fn is_big_endian(self) -> bool {
        matches!(self, Self::S390 | Self::Pseries)
    }

    /// A PC, whose RAM has a hole below 4 GiB.
    pub(super) const fn is_pc(self) -> bool {
        self.elf_machine() == X86_64
    }

    /// Where main RAM begins.
    pub(super) const fn start(self) -> u64 {
        match self {
            Self::ArmVirt => 0x4000_0000,
            Self::RiscvVirt => 0x8000_0000,
            _ => 0,
        }
    }

    /// Where the hole begins, if no option moved it (`pc_init1`, `pc_q35_init`, `microvm_memory_init`).
    const fn low_ram(self, total: u64) -> u64 {
        let (limit, low) = match self {
            Self::Q35 => (0xb000_0000, 0x8000_0000),
            Self::Microvm => (0xc000_0000, 0xc000_0000),
            _ => (0xe000_0000, 0xc000_0000),
        };
        if total >= limit { low } else { total }
    }

    /// Where `total` bytes of main RAM lie. With option `max-ram-below-4g` the hole begins
    /// elsewhere, which the real-time clock's CMOS says; what it says counts if it adds up. None: a
    /// guest so large that it cannot be known.
    pub(super) fn parts(self, contents: &Contents, total: u64) -> Option<Vec<Part>> {
        if !self.is_pc() {
            return Some(split(self.start(), total, total, FOUR_GIB));
        }
        let in_cmos = cmos(contents).filter(|(low, high)| low.checked_add(*high) == Some(total));
        let low = in_cmos.map_or_else(|| self.low_ram(total), |(low, _)| low);
        (total <= MOVED_RAM_BYTES).then(|| split(0, total, low, FOUR_GIB))
    }

    /// How much main RAM a PC has, as its CMOS says; that can be cut to 64 KiB.
    pub(super) fn total_in_cmos(self, contents: &Contents) -> Option<u64> {
        let (low, high) = cmos(contents).filter(|_| self.is_pc())?;
        low.checked_add(high)
    }
}

/// Main RAM in two parts: up to `low` at `start`, the rest at `high_start`.
pub(super) fn split(start: u64, total: u64, low: u64, high_start: u64) -> Vec<Part> {
    let mut parts = vec![Part { address: start, range: 0..low.min(total) }];
    if low < total {
        parts.push(Part { address: high_start, range: low..total });
    }
    parts
}

fn find(contents: &Contents, name: &[u8]) -> Option<usize> {
    contents.blocks.iter().position(|block| block.idstr == name)
}

/// Bytes of RAM below and above 4 GiB, as the machine's firmware finds them in the CMOS of the
/// real-time clock.
fn cmos(contents: &Contents) -> Option<(u64, u64)> {
    let clock = contents.devices.iter().find(|device| device.idstr == b"mc146818rtc")?;
    let decoded = clock.decode()?;
    let field = decoded.fields.iter().find(|field| field.path == "cmos_data")?;
    let number = |at: usize, bytes: usize| {
        let bytes = field.bytes.get(at..at + bytes)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    debug_assert!(matches!(field.value, Value::Bytes));
    let low = match number(CMOS_ABOVE_16_MIB, 2)? {
        0 => (1 << 20) + (number(CMOS_ABOVE_1_MIB, 2)? << 10),
        units => (16 << 20) + units * CMOS_UNIT_BYTES,
    };
    Some((low, number(CMOS_ABOVE_4_GIB, 3)? * CMOS_UNIT_BYTES))
}
