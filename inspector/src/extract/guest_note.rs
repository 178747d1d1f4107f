//! The note that a guest's kernel has about itself: VMCOREINFO, which says where things are in it.
//!
//! With `-device vmcoreinfo` the guest reports to QEMU where in its memory that note lies
//! (`hw/misc/vmcoreinfo.c`), and the device's section has it.

use super::physical::Physical;
use crate::contents::Contents;
use crate::error::Error;
use crate::size::to_usize;
use migration_stream::device::Value;

/// `FW_CFG_VMCOREINFO_FORMAT_ELF`: the memory holds an ELF note.
const FORMAT_ELF: u64 = 1;
/// The longest note that QEMU takes (`MAX_GUEST_NOTE_SIZE`).
const NOTE_LIMIT_BYTES: u64 = 1 << 20;
const NAME: &[u8] = b"VMCOREINFO";
const HEADER_BYTES: u64 = 12;

/// What is known of the guest's note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GuestNote {
    /// The guest has none.
    None,
    /// It was to have one: why it cannot be taken.
    Wrong(&'static str),
    /// The note, with its header.
    Found(Vec<u8>),
}

/// Takes the note out of the guest's memory.
pub(super) fn guest_note(contents: &Contents, memory: Physical<'_>) -> Result<GuestNote, Error> {
    let Some((address, bytes)) = contents.devices.iter().find_map(|device| {
        (device.idstr == b"vmcoreinfo").then(|| device.decode())?.and_then(|decoded| place(&decoded.fields))
    }) else {
        return Ok(GuestNote::None);
    };
    if !(HEADER_BYTES..=NOTE_LIMIT_BYTES).contains(&bytes) {
        return Ok(GuestNote::Wrong("its length is no note's"));
    }
    let mut note = vec![0; to_usize(bytes)];
    if !memory.read(address, &mut note).map_err(Error::io("reading RAM"))? {
        return Ok(GuestNote::Wrong("its address is not in RAM"));
    }
    Ok(match note_bytes(&note) {
        Some(bytes) => {
            note.truncate(bytes);
            GuestNote::Found(note)
        }
        None => GuestNote::Wrong("there is no note at its address"),
    })
}

/// Address and length, if the guest has said where its note is.
fn place(fields: &[migration_stream::device::DecodedField<'_>]) -> Option<(u64, u64)> {
    let value = |end: &str| fields.iter().find(|field| field.path.ends_with(end)).map(|field| &field.value);
    let number = |end: &str| match value(end)? {
        Value::Unsigned(number) => Some(*number),
        _ => None,
    };
    let has = matches!(value("has_vmcoreinfo")?, Value::Bool(true));
    (has && number("guest_format")? == FORMAT_ELF).then_some(())?;
    Some((number(".paddr")?, number(".size")?))
}

/// The length of the note, all of which is there, if it is one of the right name.
fn note_bytes(note: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u64::from(u32::from_le_bytes(note.get(at..at + 4)?.try_into().ok()?)));
    let (name, content) = (word(0)?, word(4)?);
    let bytes = HEADER_BYTES + name.next_multiple_of(4) + content.next_multiple_of(4);
    let named = note.get(12..)?.get(..usize::try_from(name).ok()?)?;
    let fits = named.strip_suffix(b"\0").unwrap_or(named) == NAME && bytes <= note.len() as u64;
    fits.then_some(usize::try_from(bytes).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_taken_whole_or_not_at_all() {
        let mut note = b"\x0b\0\0\0\x05\0\0\0\0\0\0\0VMCOREINFO\0\0hello\0\0\0more".to_vec();
        assert_eq!(note_bytes(&note), Some(32));
        for cut in 0..32 {
            assert_eq!(note_bytes(&note[..cut]), None, "{cut}");
        }
        for at in 0..32 {
            for value in [0, 4, 0x7f, 0xff] {
                let before = std::mem::replace(&mut note[at], value);
                assert!(note_bytes(&note).is_none_or(|bytes| bytes <= note.len()), "{at}");
                note[at] = before;
            }
        }
    }
}
