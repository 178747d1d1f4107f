//! Registers of the guest's processors, as the notes of an ELF core that gdb reads.

use crate::contents::{Contents, Device};
use migration_stream::device::{DecodedField, Value};

/// `NT_PRSTATUS`.
const PRSTATUS: u32 = 1;
/// Bytes of `struct elf_prstatus` on x86-64, and where its registers begin.
const PRSTATUS_BYTES: usize = 336;
const REGISTERS_OFFSET: usize = 112;
const THREAD_ID_OFFSET: usize = 32;

/// QEMU's order of the general registers (`R_EAX` …), by their place in `struct user_regs_struct`.
const GENERAL: [usize; 16] = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];
/// QEMU's order of the segment registers, by their place there.
const SEGMENTS: [usize; 6] = [24, 17, 20, 23, 25, 26];
const RIP: usize = 16;
const EFLAGS: usize = 18;
const FS_BASE: usize = 21;
const GS_BASE: usize = 22;

fn number(fields: &[DecodedField<'_>], path: &str) -> Option<u64> {
    match fields.iter().find(|field| field.path == path)?.value {
        Value::Unsigned(number) => Some(number),
        _ => None,
    }
}

/// The note of one processor; none where its fields are not known.
fn processor(device: &Device) -> Option<Vec<u8>> {
    let fields = device.decode()?.fields;
    let mut registers = [0u64; 27];
    let Value::List(general) = &fields.iter().find(|field| field.path == "env.regs")?.value else {
        return None;
    };
    for (value, place) in general.iter().zip(GENERAL) {
        let Value::Unsigned(value) = value else { return None };
        registers[place] = *value;
    }
    registers[RIP] = number(&fields, "env.eip")?;
    registers[EFLAGS] = number(&fields, "env.eflags")?;
    for (segment, place) in SEGMENTS.into_iter().enumerate() {
        registers[place] = number(&fields, &format!("env.segs[{segment}].selector"))?;
    }
    registers[FS_BASE] = number(&fields, "env.segs[4].base")?;
    registers[GS_BASE] = number(&fields, "env.segs[5].base")?;
    // Code in low memory, as firmware runs, is counted from the segment's base; gdb knows no segments.
    let base = number(&fields, "env.segs[1].base")?;
    registers[RIP] = registers[RIP].wrapping_add(base);

    let mut status = vec![0; PRSTATUS_BYTES];
    let thread = device.instance_id.wrapping_add(1);
    status[THREAD_ID_OFFSET..THREAD_ID_OFFSET + 4].copy_from_slice(&thread.to_le_bytes());
    for (number, register) in registers.iter().enumerate() {
        let at = REGISTERS_OFFSET + 8 * number;
        status[at..at + 8].copy_from_slice(&register.to_le_bytes());
    }
    Some(status)
}

/// The notes of all processors: length of name, length of content, type (le32 each), name, content, each padded to 4.
pub(super) fn notes(contents: &Contents) -> Vec<u8> {
    let mut notes = Vec::new();
    let processors = contents.devices.iter().filter(|device| device.idstr == b"cpu");
    for status in processors.filter_map(processor) {
        for word in [5, u32::try_from(status.len()).unwrap_or(0), PRSTATUS] {
            notes.extend_from_slice(&word.to_le_bytes());
        }
        notes.extend_from_slice(b"CORE\0\0\0\0");
        notes.extend_from_slice(&status);
    }
    notes
}
