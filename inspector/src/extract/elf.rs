//! The headers of an ELF core of 64 bits.

/// Bytes of the ELF header, of a program header and of a section header.
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const SECTION_HEADER_BYTES: u64 = 64;
/// RAM begins at a multiple of that in the file.
pub(super) const ALIGNMENT_BYTES: u64 = 4096;
const CORE: u16 = 4;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const READ_WRITE_EXECUTE: u32 = 7;
/// `PN_XNUM`: there are at least as many program headers; the one section header has their number
/// as `sh_info`.
const COUNTED_ELSEWHERE: u16 = 0xffff;

/// A range of memory: its addresses, and the offset of its bytes among those of all RAM in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) virtual_address: u64,
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) offset: u64,
}

/// Numbers in the byte order of the machine.
struct Words {
    bytes: Vec<u8>,
    big_endian: bool,
}

impl Words {
    fn u16(&mut self, value: u16) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend_from_slice(&bytes);
    }

    fn u32(&mut self, value: u32) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend_from_slice(&bytes);
    }

    fn u64(&mut self, value: u64) {
        let bytes = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend_from_slice(&bytes);
    }

    /// A program header: type, flags (le32 each), offset, virtual address, physical address, bytes
    /// in the file, bytes in memory, alignment (le64 each).
    fn program_header(&mut self, kind: u32, load: &Load) {
        self.u32(kind);
        self.u32(if kind == LOAD { READ_WRITE_EXECUTE } else { 0 });
        let in_memory = if kind == LOAD { load.bytes } else { 0 };
        for value in [load.offset, load.virtual_address, load.address, load.bytes, in_memory, 0] {
            self.u64(value);
        }
    }
}

/// A machine in an ELF header: `EM_*`, and its byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) number: u16,
    pub(super) big_endian: bool,
}

/// Everything in front of RAM: headers and notes, up to a multiple of [`ALIGNMENT_BYTES`].
pub(super) fn head(machine: Machine, notes: &[u8], loads: &[Load]) -> Vec<u8> {
    let count = loads.len() + usize::from(!notes.is_empty());
    let counted = u16::try_from(count).ok().filter(|&count| count != COUNTED_ELSEWHERE);
    let section_bytes = if counted.is_some() { 0 } else { SECTION_HEADER_BYTES };
    let notes_offset = HEADER_BYTES + section_bytes + PROGRAM_HEADER_BYTES * count as u64;
    let ram_offset = (notes_offset + notes.len() as u64).next_multiple_of(ALIGNMENT_BYTES);

    let mut words = Words { bytes: Vec::new(), big_endian: machine.big_endian };
    let order = if machine.big_endian { 2 } else { 1 };
    words.bytes.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    words.u16(CORE);
    words.u16(machine.number);
    words.u32(1);
    words.u64(0);
    words.u64(HEADER_BYTES + section_bytes);
    words.u64(if counted.is_some() { 0 } else { HEADER_BYTES });
    words.u32(0);
    let sections = if counted.is_some() { [0, 0] } else { [64, 1] };
    for value in [64, 56, counted.unwrap_or(COUNTED_ELSEWHERE), sections[0], sections[1], 0] {
        words.u16(value);
    }
    if counted.is_none() {
        section_header(&mut words, count);
    }
    if !notes.is_empty() {
        let bytes = notes.len() as u64;
        words.program_header(NOTE, &Load { virtual_address: 0, address: 0, bytes, offset: notes_offset });
    }
    for load in loads {
        words.program_header(LOAD, &Load { offset: ram_offset + load.offset, ..*load });
    }
    let mut head = words.bytes;
    head.extend_from_slice(notes);
    head.resize(crate::size::to_usize(ram_offset), 0);
    head
}

/// The section header that has nothing but the number of program headers.
fn section_header(words: &mut Words, count: usize) {
    for _ in 0..2 {
        words.u32(0);
    }
    for _ in 0..4 {
        words.u64(0);
    }
    words.u32(0);
    words.u32(u32::try_from(count).expect("each of them takes 32 bytes of memory"));
    words.u64(0);
    words.u64(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
        bytes[at..at + width].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    #[test]
    fn more_program_headers_than_16_bits_count_are_counted_in_a_section_header() {
        let machine = Machine { number: 62, big_endian: false };
        let load = Load { virtual_address: 0x1000, address: 0x2000, bytes: 0x3000, offset: 0x4000 };
        for loads in [3, 0xfffd, 0xfffe, 0xffff, 0x1_0000, 0x2_0000] {
            let head = head(machine, b"note", &vec![load; loads]);
            let mut count = number(&head, 56, 2);
            if count == 0xffff {
                assert_eq!((number(&head, 58, 2), number(&head, 60, 2)), (64, 1));
                let section = usize::try_from(number(&head, 40, 8)).unwrap();
                count = number(&head, section + 44, 4);
            }
            assert_eq!(count, loads as u64 + 1);
            let last = usize::try_from(number(&head, 32, 8) + 56 * (count - 1)).unwrap();
            let offset = head.len() as u64 + 0x4000;
            let header = [1 | 7 << 32, offset, 0x1000, 0x2000, 0x3000, 0x3000, 0];
            assert_eq!([0, 8, 16, 24, 32, 40, 48].map(|at| number(&head, last + at, 8)), header);
            assert_eq!(head[last + 56..][..4], *b"note");
        }
    }
}
