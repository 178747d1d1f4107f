//! Reads an ELF core: what QEMU dumps, and what `snapinspect` writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_phnum` where there are more program headers than it can count; `sh_info` of the first section
/// header has the number.
const PN_XNUM: u64 = 0xffff;

/// A range of memory in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) virtual_address: u64,
    pub(super) address: u64,
    pub(super) bytes: u64,
    offset: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) name: String,
    pub(super) kind: u32,
    pub(super) content: Vec<u8>,
}

pub(super) struct Core {
    file: File,
    pub(super) machine: u16,
    pub(super) loads: Vec<Load>,
    pub(super) notes: Vec<Note>,
    /// The bytes of all notes, as they are in the file.
    pub(super) note_bytes: Vec<u8>,
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
        let (mut loads, mut note_bytes) = (Vec::new(), Vec::new());
        for header in headers.chunks(56) {
            let [offset, virtual_address, address, bytes] = [8, 16, 24, 32].map(|at| number(header, at, 8));
            match u32::try_from(number(header, 0, 4)).expect("four bytes") {
                PT_LOAD => loads.push(Load { virtual_address, address, bytes, offset }),
                PT_NOTE => note_bytes.extend(read(offset, bytes)),
                _ => {}
            }
        }
        let machine = u16::try_from(number(&header, 18, 2)).expect("two bytes");
        Self { machine, loads, notes: notes(&note_bytes), note_bytes, file }
    }

    /// What is at a physical address; none where no range has all of it.
    pub(super) fn at(&self, address: u64, bytes: u64) -> Option<Vec<u8>> {
        let has = |load: &&Load| load.address <= address && address + bytes <= load.address + load.bytes;
        self.read(self.loads.iter().find(has)?, |load| load.address, address, bytes)
    }

    /// The same by virtual address.
    pub(super) fn at_virtual(&self, address: u64, bytes: u64) -> Option<Vec<u8>> {
        let has = |load: &&Load| {
            load.virtual_address <= address && address - load.virtual_address + bytes <= load.bytes
        };
        self.read(self.loads.iter().find(has)?, |load| load.virtual_address, address, bytes)
    }

    fn read(&self, load: &Load, start: impl Fn(&Load) -> u64, address: u64, bytes: u64) -> Option<Vec<u8>> {
        let mut piece = vec![0; usize::try_from(bytes).ok()?];
        self.file.read_exact_at(&mut piece, load.offset + (address - start(load))).ok()?;
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

fn notes(mut rest: &[u8]) -> Vec<Note> {
    let mut notes = Vec::new();
    while rest.len() >= 12 {
        let [name, content] = [0, 4].map(|at| usize::try_from(number(rest, at, 4)).expect("four bytes"));
        let kind = u32::try_from(number(rest, 8, 4)).expect("four bytes");
        let content_at = 12 + name.next_multiple_of(4);
        notes.push(Note {
            name: String::from_utf8_lossy(&rest[12..12 + name]).trim_end_matches('\0').to_owned(),
            kind,
            content: rest[content_at..content_at + content].to_vec(),
        });
        rest = &rest[(content_at + content.next_multiple_of(4)).min(rest.len())..];
    }
    notes
}
