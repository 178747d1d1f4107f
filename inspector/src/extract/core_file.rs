//! All RAM as an ELF core: addresses are physical ones.

use super::board::Board;
use super::copy_range;
use super::layout::{Layout, layout};
use super::placement::Placement;
use super::registers::notes;
use crate::contents::{Contents, RamFile};
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

fn header(board: Board, program_headers: u16) -> Words {
    let mut words = Words { bytes: Vec::new(), big_endian: board.is_big_endian() };
    let order = if words.big_endian { 2 } else { 1 };
    words.bytes.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    words.u16(4); // ET_CORE
    words.u16(board.elf_machine());
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

/// A core that can be written: where everything lies is known.
#[derive(Debug)]
pub(crate) struct Core<'a> {
    contents: &'a Contents,
    ram: &'a RamFile,
    layout: Layout,
    notes: Vec<u8>,
}

impl<'a> Core<'a> {
    /// Finds out where everything lies.
    pub(crate) fn of(contents: &'a Contents, placement: &Placement) -> Result<Self, Error> {
        let ram = contents.ram.as_ref();
        let ram = ram.ok_or_else(|| Error::Usage(format!("{}: RAM was not read", contents.name)))?;
        let layout = layout(contents, ram, placement)?;
        let notes = if layout.board.is_pc() { notes(contents) } else { Vec::new() };
        Ok(Self { contents, ram, layout, notes })
    }

    /// Names of blocks whose place in the guest's memory is not known.
    pub(crate) fn left_out(&self) -> &[String] {
        &self.layout.left_out
    }

    /// Everything in front of the first page.
    fn head(&self) -> Result<Vec<u8>, Error> {
        let count = self.layout.segments.len() + usize::from(!self.notes.is_empty());
        let count =
            u16::try_from(count).map_err(|_| Error::Usage("too many blocks for an ELF file".to_owned()))?;
        let notes_offset = HEADER_BYTES + PROGRAM_HEADER_BYTES * u64::from(count);
        let first = (notes_offset + self.notes.len() as u64).next_multiple_of(ALIGNMENT_BYTES);
        let mut words = header(self.layout.board, count);
        if !self.notes.is_empty() {
            words.program_header(PT_NOTE, notes_offset, 0, self.notes.len() as u64);
        }
        let mut offset = first;
        for segment in &self.layout.segments {
            words.program_header(PT_LOAD, offset, segment.address, segment.bytes());
            offset += segment.bytes().next_multiple_of(ALIGNMENT_BYTES);
        }
        let mut head = words.bytes;
        head.extend_from_slice(&self.notes);
        head.resize(usize::try_from(first).unwrap_or(head.len()), 0);
        Ok(head)
    }

    /// Writes it.
    pub(crate) fn write(&self, out: &mut dyn Sink) -> Result<(), Error> {
        out.put(&self.head()?)?;
        for segment in &self.layout.segments {
            let bytes = segment.bytes();
            copy_range(self.ram, self.contents.page_size, segment.block, segment.range.clone(), out)?;
            out.put_zeros(bytes.next_multiple_of(ALIGNMENT_BYTES) - bytes)?;
        }
        Ok(())
    }
}
