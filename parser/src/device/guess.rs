//! Cuts device sections without a description: a package of a postcopy, a tail whose vmdesc is suppressed.
//!
//! Nothing states their lengths. A section's footer repeats its id, and what follows it is a section, a
//! command or the end; where the first such place is, the section ends, most likely. Bodies stay bytes.

use crate::command::{Command, command};
use crate::prelude::*;
use crate::section::{
    QEMU_VM_COMMAND, QEMU_VM_EOF, QEMU_VM_SECTION_FULL, SectionHeader, put_section_footer, section_header,
};
use crate::span::Span;
use core::ops::Range;

/// A part; ranges count from the start of what was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guess<'a> {
    /// A device section, by its footer.
    Device {
        /// Its header.
        header: SectionHeader<'a>,
        /// Type byte and header.
        head: Range<usize>,
        /// Its state.
        body: Range<usize>,
        /// Its footer.
        footer: Range<usize>,
    },
    /// A command.
    Command(Command<'a>, Range<usize>),
    /// The end mark.
    Eof(Range<usize>),
    /// What could not be cut.
    Opaque(Range<usize>),
}

/// Cuts `bytes`; the parts leave no byte out.
#[must_use]
pub fn guess(bytes: &[u8], footers: bool) -> Vec<Guess<'_>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(&mark) = bytes.get(at) {
        match mark {
            QEMU_VM_SECTION_FULL if footers => {
                let Some((header, start)) = plausible(bytes, at) else { break };
                let Some(end) = end(bytes, start, &header) else { break };
                let (head, body, footer) = (at..start, start..end, end..end + 5);
                parts.push(Guess::Device { header, head, body, footer });
                at = end + 5;
            }
            QEMU_VM_COMMAND => {
                let span = Span::new(&bytes[at..], at as u64);
                let Ok((rest, command)) = command(span) else { break };
                let next = at + span.consumed(&rest);
                parts.push(Guess::Command(command, at..next));
                at = next;
            }
            QEMU_VM_EOF if at + 1 == bytes.len() => {
                parts.push(Guess::Eof(at..at + 1));
                at += 1;
            }
            _ => break,
        }
    }
    if at < bytes.len() {
        parts.push(Guess::Opaque(at..bytes.len()));
    }
    parts
}

/// A FULL section's header that looks like one: printable name, small numbers.
fn plausible(bytes: &[u8], at: usize) -> Option<(SectionHeader<'_>, usize)> {
    let (rest, header) = section_header(Span::new(bytes.get(at + 1..)?, 0)).ok()?;
    let printable = header.idstr.iter().all(|byte| (0x20..0x7f).contains(byte));
    (printable && header.version_id < 1 << 16).then_some((header, bytes.len() - rest.bytes.len()))
}

fn end(bytes: &[u8], start: usize, header: &SectionHeader<'_>) -> Option<usize> {
    let mut footer = Vec::new();
    put_section_footer(&mut footer, header.section_id);
    (start..bytes.len().saturating_sub(footer.len() - 1)).find(|&end| {
        let after = end + footer.len();
        bytes[end..].starts_with(&footer)
            && match bytes.get(after) {
                None => true,
                Some(&QEMU_VM_SECTION_FULL) => plausible(bytes, after).is_some(),
                Some(&QEMU_VM_COMMAND) => command(Span::new(&bytes[after..], 0)).is_ok(),
                Some(&QEMU_VM_EOF) => after + 1 == bytes.len(),
                Some(_) => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::put_command;
    use crate::section::{SectionId, put_section_header};

    #[test]
    fn sections_and_commands_of_a_package_are_told_apart() {
        let mut bytes = Vec::new();
        put_command(&mut bytes, &Command::PostcopyListen);
        for id in [7, 8] {
            let header =
                SectionHeader { section_id: SectionId(id), idstr: b"dev", instance_id: id, version_id: 1 };
            put_section_header(&mut bytes, true, &header);
            bytes.extend_from_slice(&[0x7e, 0, 0, 0, 9, 1, 2]);
            put_section_footer(&mut bytes, SectionId(id));
        }
        put_command(&mut bytes, &Command::PostcopyRun);
        let parts = guess(&bytes, true);
        let kinds: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Guess::Device { header, body, .. } => format!("{} {}", header.section_id.0, body.len()),
                Guess::Command(command, _) => format!("{command:?}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(kinds, ["PostcopyListen", "7 7", "8 7", "PostcopyRun"]);
        assert_eq!(guess(&bytes[5..], false), [Guess::Opaque(0..bytes.len() - 5)]);
        assert_eq!(guess(b"\xff\x00", true), [Guess::Opaque(0..2)]);
    }

    fn section(id: u32, idstr: &[u8], version_id: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let header = SectionHeader { section_id: SectionId(id), idstr, instance_id: 0, version_id };
        put_section_header(&mut out, true, &header);
        out.extend_from_slice(body);
        put_section_footer(&mut out, SectionId(id));
        out
    }

    #[test]
    fn parts_have_their_places_and_an_end_mark_is_the_last() {
        // What looks like a footer is none if something else follows.
        let bytes =
            [section(7, b"dev", 1, &[9, 0x7e, 0, 0, 0, 7, 9]), section(8, b"x", 1, &[]), vec![0]].concat();
        let places = |parts: &[Guess<'_>]| -> Vec<Range<usize>> {
            parts
                .iter()
                .flat_map(|part| match part {
                    Guess::Device { head, body, footer, .. } => {
                        vec![head.clone(), body.clone(), footer.clone()]
                    }
                    Guess::Command(_, range) | Guess::Eof(range) | Guess::Opaque(range) => {
                        vec![range.clone()]
                    }
                })
                .collect()
        };
        let parts = guess(&bytes, true);
        assert_eq!(places(&parts), [0..17, 17..24, 24..29, 29..44, 44..44, 44..49, 49..50]);
        assert_eq!(parts[2], Guess::Eof(49..50));
        // An end mark before the end is none; then the footer before it is none either.
        let more = [&bytes[..], &[0]].concat();
        let parts = guess(&more, true);
        assert_eq!((parts.len(), parts.last()), (2, Some(&Guess::Opaque(29..51))));
        // Without the whole header behind it the first footer is none.
        for cut in 30..49 {
            let from = if cut < 44 { 0 } else { 29 };
            assert_eq!(guess(&bytes[..cut], true).last(), Some(&Guess::Opaque(from..cut)), "cut at {cut}");
        }
        let mut command = section(7, b"dev", 1, &[]);
        put_command(&mut command, &Command::Ping(3));
        assert_eq!(places(&guess(&command, true)), [0..17, 17..17, 17..22, 22..31]);
        command.truncate(30);
        assert_eq!(guess(&command, true), [Guess::Opaque(0..30)]);
    }

    #[test]
    fn a_header_of_a_strange_name_or_version_is_none() {
        let check = |idstr: &[u8], version: u32, plausible: bool| {
            let bytes = section(7, idstr, version, &[1]);
            assert_eq!(
                matches!(guess(&bytes, true)[..], [Guess::Device { .. }]),
                plausible,
                "{idstr:?} {version}"
            );
        };
        check(b" ~", 0xffff, true);
        check(b" ~", 0x1_0000, false);
        check(b"a\x1f", 1, false);
        check(b"a\x7f", 1, false);
    }

    #[test]
    fn a_section_that_is_cut_stays_whole() {
        let right = section(7, b"dev", 1, &[1]);
        for cut in [9, 14] {
            assert_eq!(guess(&right[..cut], true), [Guess::Opaque(0..cut)]);
        }
    }

    #[test]
    fn an_end_mark_is_the_last_byte() {
        assert_eq!(guess(&[QEMU_VM_EOF], true), [Guess::Eof(0..1)]);
        assert_eq!(guess(&[QEMU_VM_EOF, QEMU_VM_EOF], true), [Guess::Opaque(0..2)]);
    }
}
