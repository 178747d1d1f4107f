//! Sections: their headers, footers, and the table of ids.

use crate::error::ErrorKind;
use crate::prelude::*;
use crate::span::{Parsed, Span, take};
use nom::Parser;
use nom::number::streaming::{be_u8, be_u32};

/// `QEMU_VM_EOF`.
pub const QEMU_VM_EOF: u8 = 0x00;
/// `QEMU_VM_SECTION_START`.
pub(crate) const QEMU_VM_SECTION_START: u8 = 0x01;
/// `QEMU_VM_SECTION_PART`.
pub(crate) const QEMU_VM_SECTION_PART: u8 = 0x02;
/// `QEMU_VM_SECTION_END`.
pub(crate) const QEMU_VM_SECTION_END: u8 = 0x03;
/// `QEMU_VM_SECTION_FULL`.
pub(crate) const QEMU_VM_SECTION_FULL: u8 = 0x04;
/// `QEMU_VM_VMDESCRIPTION`.
pub(crate) const QEMU_VM_VMDESCRIPTION: u8 = 0x06;
/// `QEMU_VM_COMMAND`.
pub(crate) const QEMU_VM_COMMAND: u8 = 0x08;
/// `QEMU_VM_SECTION_FOOTER`.
pub(crate) const QEMU_VM_SECTION_FOOTER: u8 = 0x7e;

/// The id that PART, END and footers repeat; chosen by the source, unique in a stream, otherwise arbitrary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionId(pub u32);

/// Length of a footer: mark (u8), section id (be32).
pub const FOOTER_BYTES: usize = 5;
/// Length of what is before the JSON of a vmdesc: type (u8), length (be32).
pub const VMDESC_HEADER_BYTES: usize = 5;
/// Length of a FULL section's header without its idstr: type (u8), id (be32), length of the idstr (u8),
/// instance (be32), version (be32).
pub(crate) const FULL_HEADER_BYTES: usize = 14;

/// The header of a START or FULL section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionHeader<'a> {
    /// Its id.
    pub section_id: SectionId,
    /// Which handler it belongs to.
    pub idstr: &'a [u8],
    /// Which of several instances of that handler.
    pub instance_id: u32,
    /// Version of the body's layout; 0 is legal.
    pub version_id: u32,
}

impl<'a> SectionHeader<'a> {
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> SectionHeader<'b> {
        let Self { section_id, idstr, instance_id, version_id } = self;
        SectionHeader { section_id, idstr: map(idstr), instance_id, version_id }
    }
}

/// Parses a string with its length in one byte.
///
/// # Errors
///
/// `Incomplete` only.
pub(crate) fn str8(input: Span<'_>) -> Parsed<'_, &[u8]> {
    let (rest, length) = be_u8.parse(input)?;
    take(rest, usize::from(length))
}

/// Writes what `str8` accepts; a longer name is cut, as it could not have come from a stream.
pub fn put_str8(out: &mut Vec<u8>, name: &[u8]) {
    let (length, name) = match u8::try_from(name.len()) {
        Ok(length) => (length, name),
        Err(_) => (u8::MAX, &name[..usize::from(u8::MAX)]),
    };
    out.push(length);
    out.extend_from_slice(name);
}

/// The bytes with their number, which goes into a be16. What is longer is cut, as it could not have come from
/// a stream: the number never differs from what follows it.
pub(crate) fn counted16(bytes: &[u8]) -> (u16, &[u8]) {
    match u16::try_from(bytes.len()) {
        Ok(count) => (count, bytes),
        Err(_) => (u16::MAX, &bytes[..usize::from(u16::MAX)]),
    }
}

/// As [`counted16`], for a be32.
pub(crate) fn counted32<T>(items: &[T]) -> (u32, &[T]) {
    match u32::try_from(items.len()) {
        Ok(count) => (count, items),
        Err(_) => (u32::MAX, &items[..u32::MAX as usize]),
    }
}

/// Parses what follows the type byte of START and FULL: id (be32), idstr (str8), instance (be32), version
/// (be32).
///
/// # Errors
///
/// `EmptyName`, as `qemu_loadvm_section_start_full` (migration/savevm.c).
pub(crate) fn section_header(input: Span<'_>) -> Parsed<'_, SectionHeader<'_>> {
    let (at_name, id) = be_u32.parse(input)?;
    let (rest, idstr) = str8(at_name)?;
    if idstr.is_empty() {
        return Err(at_name.reject(ErrorKind::EmptyName { what: "idstr" }));
    }
    let (rest, instance_id) = be_u32.parse(rest)?;
    let (rest, version_id) = be_u32.parse(rest)?;
    Ok((rest, SectionHeader { section_id: SectionId(id), idstr, instance_id, version_id }))
}

/// Writes a START (or with `full` a FULL) section's type byte and header.
pub fn put_section_header(out: &mut Vec<u8>, full: bool, header: &SectionHeader<'_>) {
    out.push(if full { QEMU_VM_SECTION_FULL } else { QEMU_VM_SECTION_START });
    out.extend_from_slice(&header.section_id.0.to_be_bytes());
    put_str8(out, header.idstr);
    out.extend_from_slice(&header.instance_id.to_be_bytes());
    out.extend_from_slice(&header.version_id.to_be_bytes());
}

/// Writes the start of a PART section.
pub fn put_section_part(out: &mut Vec<u8>, id: SectionId) {
    out.push(QEMU_VM_SECTION_PART);
    out.extend_from_slice(&id.0.to_be_bytes());
}

/// Writes the start of an END section.
pub fn put_section_end(out: &mut Vec<u8>, id: SectionId) {
    out.push(QEMU_VM_SECTION_END);
    out.extend_from_slice(&id.0.to_be_bytes());
}

/// Parses the footer that closes section `expected`: mark (u8), section id (be32).
///
/// Same check as QEMU's `check_section_footer` (migration/savevm.c).
///
/// # Errors
///
/// `FooterMark` or `FooterId`, at the offset of the field that is wrong.
/// Too few bytes is `Incomplete`: only the caller knows if more can come.
pub(crate) fn section_footer(input: Span<'_>, expected: SectionId) -> Parsed<'_, ()> {
    let (at_id, mark) = be_u8.parse(input)?;
    if mark != QEMU_VM_SECTION_FOOTER {
        return Err(input.reject(ErrorKind::FooterMark { found: mark }));
    }
    let (rest, found) = be_u32.parse(at_id)?;
    if found != expected.0 {
        return Err(at_id.reject(ErrorKind::FooterId { found, expected: expected.0 }));
    }
    Ok((rest, ()))
}

/// Writes what `section_footer` accepts for `id`.
pub fn put_section_footer(out: &mut Vec<u8>, id: SectionId) {
    out.push(QEMU_VM_SECTION_FOOTER);
    out.extend_from_slice(&id.0.to_be_bytes());
}
