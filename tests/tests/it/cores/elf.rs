//! Reads an ELF core: what QEMU dumps, and what `snapinspect` writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PT_LOAD: u64 = 1;
/// `e_phnum` where there are more program headers than it can count; `sh_info` of the first section header has the number.
const PN_XNUM: u64 = 0xffff;

/// A range of memory in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) address: u64,
    pub(super) bytes: u64,
    offset: u64,
}

pub(super) struct Core {
    file: File,
    pub(super) loads: Vec<Load>,
}

impl Core {
    pub(super) fn open(path: &Path) -> Self {
        let file = File::open(path).expect("written");
        let read = |offset: u64, bytes: u64| {
            let mut piece = vec![0; usize::try_from(bytes).expect("small")];
            file.read_exact_at(&mut piece, offset).expect("the header says so");
            piece
        };
        let header = read(0, 64);
        assert_eq!(header[..6], *b"\x7fELF\x02\x01", "an ELF file of 64 bits, little-endian");
        let mut count = number(&header, 56, 2);
        if count == PN_XNUM {
            count = number(&read(number(&header, 40, 8), 64), 44, 4);
        }
        let headers = read(number(&header, 32, 8), count * 56);
        let mut loads = Vec::new();
        for header in headers.chunks(56) {
            let [offset, address, bytes] = [8, 24, 32].map(|at| number(header, at, 8));
            if number(header, 0, 4) == PT_LOAD {
                loads.push(Load { address, bytes, offset });
            }
        }
        Self { loads, file }
    }

    /// What is at a physical address; none where no range has all of it.
    pub(super) fn at(&self, address: u64, bytes: u64) -> Option<Vec<u8>> {
        let has = |load: &&Load| load.address <= address && address + bytes <= load.address + load.bytes;
        let load = self.loads.iter().find(has)?;
        let mut piece = vec![0; usize::try_from(bytes).ok()?];
        self.file.read_exact_at(&mut piece, load.offset + (address - load.address)).ok()?;
        Some(piece)
    }

    /// The pages of all ranges, by physical address.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.loads.iter().flat_map(|load| (load.address..load.address + load.bytes).step_by(4096))
    }
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
