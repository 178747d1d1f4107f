//! Notes of an ELF core, as `dump-guest-memory` writes them (`target/i386/arch_dump.c`): first the
//! general registers of each processor as `NT_PRSTATUS`, which debuggers read, then all that a
//! kernel debugger wants as QEMU's own note, then the guest's own note. crash and drgn know by the
//! last two that a core is that of a kernel.
//!
//! A note is the length of its name with the NUL (le32), the length of its content (le32), a type
//! (le32), the name and the content, each padded with zeros to a multiple of 4 bytes.

use super::processor::{Processor, SegmentRegister};

const PRSTATUS: u32 = 1;
/// `struct elf_prstatus` of x86-64: the thread's id (le32 at 32), the registers (from 112 on, le64
/// each), 336 bytes in all.
const STATUS_64: (usize, usize, usize) = (32, 112, 336);
/// The same of i386: id at 24, registers of 4 bytes from 72 on, 144 bytes in all.
const STATUS_32: (usize, usize, usize) = (24, 72, 144);
/// The general registers by their places in `struct user_regs_struct` of x86-64, and the others.
const GENERAL_64: [usize; 16] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];
const SEGMENTS_64: [usize; 6] = [24, 17, 20, 23, 25, 26];
const RIP_64: usize = 16;
const RFLAGS_64: usize = 18;
const FS_BASE_64: usize = 21;
const GS_BASE_64: usize = 22;
/// The same of i386, which has no place for bases. Register 11 (`orig_eax`) stays 0.
const GENERAL_32: [usize; 8] = [6, 1, 2, 0, 15, 5, 3, 4];
const SEGMENTS_32: [usize; 6] = [8, 13, 16, 7, 9, 10];
const EIP_32: usize = 12;
const EFLAGS_32: usize = 14;
/// `struct QEMUCPUState`: a version (le32), its size (le32), 18 registers, 10 segments of 24 bytes,
/// cr0 to cr4, the base of gs in the kernel (le64 each).
const STATE_VERSION: u32 = 1;
const STATE_BYTES: u32 = 440;

/// Appends a note; `name` has its NUL.
fn note(out: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    let length = |bytes: usize| u32::try_from(bytes).expect("a note has a few KiB").to_le_bytes();
    out.extend_from_slice(&length(name.len()));
    out.extend_from_slice(&length(content.len()));
    out.extend_from_slice(&kind.to_le_bytes());
    for part in [name, content] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// All registers in the layout of x86-64, if the first processor is in long mode, else in that of i386.
fn status(processor: &Processor, long_mode: bool) -> Vec<u8> {
    let (id_at, registers_at, bytes) = if long_mode { STATUS_64 } else { STATUS_32 };
    let width = if long_mode { 8 } else { 4 };
    let mut status = vec![0; bytes];
    let id = processor.index.wrapping_add(1);
    status[id_at..id_at + 4].copy_from_slice(&id.to_le_bytes());
    let mut put = |place: usize, value: u64| {
        let at = registers_at + width * place;
        status[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    let segments = processor.segments.iter().map(|segment| u64::from(segment.selector));
    if long_mode {
        GENERAL_64.into_iter().zip(processor.general).for_each(|(place, value)| put(place, value));
        SEGMENTS_64.into_iter().zip(segments).for_each(|(place, value)| put(place, value));
        put(RIP_64, processor.rip);
        put(RFLAGS_64, processor.rflags);
        put(FS_BASE_64, processor.segments[4].base);
        put(GS_BASE_64, processor.segments[5].base);
    } else {
        GENERAL_32.into_iter().zip(processor.general).for_each(|(place, value)| put(place, value));
        // Two bytes each, and two that stay zero.
        SEGMENTS_32.into_iter().zip(segments).for_each(|(place, value)| put(place, value & 0xffff));
        put(EIP_32, processor.rip);
        put(EFLAGS_32, processor.rflags);
    }
    status
}

/// `struct QEMUCPUState`.
fn state(processor: &Processor) -> Vec<u8> {
    let mut state = Vec::new();
    state.extend_from_slice(&STATE_VERSION.to_le_bytes());
    state.extend_from_slice(&STATE_BYTES.to_le_bytes());
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rest @ ..] = processor.general;
    let registers = [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp].into_iter().chain(rest);
    for register in registers.chain([processor.rip, processor.rflags]) {
        state.extend_from_slice(&register.to_le_bytes());
    }
    let [es, cs, ss, ds, fs, gs] = processor.segments;
    for segment in [cs, ds, es, fs, gs, ss, processor.ldt, processor.tr, processor.gdt, processor.idt] {
        let SegmentRegister { selector, limit, flags, base } = segment;
        for word in [selector, limit, flags, 0] {
            state.extend_from_slice(&word.to_le_bytes());
        }
        state.extend_from_slice(&base.to_le_bytes());
    }
    for register in processor.control.into_iter().chain([processor.kernel_gs_base]) {
        state.extend_from_slice(&register.to_le_bytes());
    }
    state
}

/// The notes of all processors, and the guest's own.
pub(super) fn notes(processors: &[Processor], long_mode: bool, of_guest: Option<&[u8]>) -> Vec<u8> {
    let mut notes = Vec::new();
    for processor in processors {
        note(&mut notes, b"CORE\0", PRSTATUS, &status(processor, long_mode));
    }
    for processor in processors {
        note(&mut notes, b"QEMU\0", 0, &state(processor));
    }
    notes.extend_from_slice(of_guest.unwrap_or(&[]));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_have_the_lengths_that_they_say() {
        let processors = [Processor::default(), Processor { index: 1, ..Processor::default() }];
        for (long_mode, status) in [(true, 336), (false, 144)] {
            let notes = notes(&processors, long_mode, Some(b"ours"));
            assert_eq!(notes.len(), 2 * (12 + 8 + status) + 2 * (12 + 8 + 440) + 4);
            assert_eq!(notes[12..20], *b"CORE\0\0\0\0");
            assert_eq!(notes[2 * (12 + 8 + status)..][..20], *b"\x05\0\0\0\xb8\x01\0\0\0\0\0\0QEMU\0\0\0\0");
        }
    }
}
