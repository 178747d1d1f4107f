//! All RAM as an ELF core: addresses are physical ones.

use super::copy_range;
use super::layout::{Machine, layout};
use super::registers::notes;
use crate::contents::Contents;
use crate::error::Error;
use crate::sink::Sink;

/// Bytes of the ELF header, and of a program header.
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
/// RAM begins at a multiple of that.
const ALIGNMENT_BYTES: u64 = 4096;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const READ_WRITE_EXECUTE: u32 = 7;

/// Numbers in the byte order of the machine.
struct Words {
    bytes: Vec<u8>,
    big_endian: bool,
}

impl Words {
    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }

    /// A program header: type, flags, offset, virtual and physical address, bytes in file and memory, alignment.
    fn program_header(&mut self, kind: u32, offset: u64, address: u64, bytes: u64) {
        self.u32(kind);
        self.u32(if kind == PT_LOAD { READ_WRITE_EXECUTE } else { 0 });
        for value in [offset, address, address, bytes, if kind == PT_LOAD { bytes } else { 0 }, 0] {
            self.u64(value);
        }
    }
}

fn header(machine: Machine, program_headers: u16) -> Words {
    let mut words = Words { bytes: Vec::new(), big_endian: machine.big_endian };
    let order = if machine.big_endian { 2 } else { 1 };
    words.bytes.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    words.u16(4); // ET_CORE
    words.u16(machine.elf_machine);
    words.u32(1);
    words.u64(0);
    words.u64(HEADER_BYTES);
    words.u64(0);
    words.u32(0);
    for value in [64, 56, program_headers, 0, 0, 0] {
        words.u16(value);
    }
    words
}

/// Writes the core; returns the names of blocks whose place in the guest's memory is not known.
pub(crate) fn write_core(contents: &Contents, out: &mut dyn Sink) -> Result<Vec<String>, Error> {
    let Some(ram) = &contents.ram else { return Ok(Vec::new()) };
    let layout = layout(contents).ok_or_else(|| {
        Error::Usage(format!("{}: where this machine has its RAM is not known; use --block", contents.name))
    })?;
    let notes = if layout.machine.is_x86() { notes(contents) } else { Vec::new() };
    let count = layout.segments.len() + usize::from(!notes.is_empty());
    let count =
        u16::try_from(count).map_err(|_| Error::Usage("too many blocks for an ELF file".to_owned()))?;
    let notes_offset = HEADER_BYTES + PROGRAM_HEADER_BYTES * u64::from(count);
    let first = (notes_offset + notes.len() as u64).next_multiple_of(ALIGNMENT_BYTES);
    let mut words = header(layout.machine, count);
    if !notes.is_empty() {
        words.program_header(PT_NOTE, notes_offset, 0, notes.len() as u64);
    }
    let mut offset = first;
    for segment in &layout.segments {
        let bytes = segment.range.end - segment.range.start;
        words.program_header(PT_LOAD, offset, segment.address, bytes);
        offset += bytes.next_multiple_of(ALIGNMENT_BYTES);
    }
    let mut head = words.bytes;
    head.extend_from_slice(&notes);
    head.resize(usize::try_from(first).unwrap_or(head.len()), 0);
    out.put(&head)?;
    for segment in &layout.segments {
        let bytes = segment.range.end - segment.range.start;
        copy_range(ram, contents.page_size, segment.block, segment.range.clone(), out)?;
        out.put_zeros(bytes.next_multiple_of(ALIGNMENT_BYTES) - bytes)?;
    }
    Ok(layout.left_out)
}
