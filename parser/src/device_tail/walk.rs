//! Cuts a device tail into sections, and goes on behind damage where that is honest.

use crate::device::Device;
use crate::error::{Error, ErrorKind, TailError, name_text};
use crate::prelude::*;
use crate::section::{
    FOOTER_BYTES, FULL_HEADER_BYTES, QEMU_VM_SECTION_FOOTER, QEMU_VM_SECTION_FULL, SectionHeader,
    put_section_footer, section_header,
};
use crate::span::Span;
use crate::width::to_usize;
use alloc::collections::BTreeMap;
use core::ops::Range;

/// Sections of one tail whose end is searched for: each search reads all that is left. QEMU describes one
/// section wrongly, on s390x.
const ANCHORED_LIMIT: usize = 64;

/// A part of a tail; ranges count from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A device section.
    Device {
        /// Which of the described devices it is.
        device: usize,
        /// Its header.
        header: SectionHeader<'a>,
        /// Where type byte and header are.
        head: Range<usize>,
        /// Its state.
        body: Range<usize>,
        /// Its footer; empty where the stream has none.
        footer: Range<usize>,
        /// Its end is not where its description has it, but before the header of the next section.
        by_anchor: bool,
    },
    /// Bytes between two sections that could not be understood.
    Skipped(Range<usize>),
}

/// A tail in pieces that leave no byte out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked<'a> {
    /// The pieces.
    pub pieces: Vec<Piece<'a>>,
    /// What is wrong.
    pub findings: Vec<Error>,
}

/// What a walk does where a section is not what is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It skips all that is left.
    Stop,
    /// It goes on behind the next footer that a header follows which the description names.
    Resync,
}

/// Walks device sections by their description.
#[derive(Debug, Clone, Copy)]
pub struct Walker<'d> {
    /// The devices that are described.
    pub devices: &'d [Device],
    /// Which of them the first section can be; those before it were sent before RAM.
    pub first: usize,
    /// Whether sections have footers.
    pub footers: bool,
    /// What happens at a section that is not what is described.
    pub on_error: OnError,
}

impl Walker<'_> {
    /// Walks `bytes`, device sections up to EOF, which begin at `offset` of the stream.
    #[must_use]
    pub fn walk<'a>(&self, bytes: &'a [u8], offset: u64) -> Walked<'a> {
        self.walk_from(bytes, offset, Walked::default(), (0, self.first))
    }

    /// Walks device sections that begin somewhere in `bytes`: behind the first footer that a header follows
    /// which the description names.
    #[must_use]
    pub fn walk_within<'a>(&self, bytes: &'a [u8], offset: u64) -> Walked<'a> {
        let mut walked = Walked::default();
        let begin = Index::new(self.devices).anchor(bytes, 0, self.first, self.footers);
        let skipped = begin.map_or(bytes.len(), |(at, _)| at);
        if skipped > 0 || begin.is_none() {
            walked.pieces.push(Piece::Skipped(0..skipped));
        }
        match begin {
            Some(begin) => self.walk_from(bytes, offset, walked, begin),
            None => walked,
        }
    }

    fn walk_from<'a>(
        &self,
        bytes: &'a [u8],
        offset: u64,
        mut walked: Walked<'a>,
        (mut at, mut expected): (usize, usize),
    ) -> Walked<'a> {
        let mut index = None;
        let mut anchored = 0;
        while at < bytes.len() {
            match self.section(bytes, offset, at, expected, anchored < ANCHORED_LIMIT) {
                Ok((piece, end)) => {
                    anchored += usize::from(matches!(piece, Piece::Device { by_anchor: true, .. }));
                    walked.pieces.push(piece);
                    (at, expected) = (end, expected + 1);
                }
                Err(error) => {
                    walked.findings.push(error);
                    let resume = match self.on_error {
                        OnError::Stop => None,
                        OnError::Resync => {
                            let index = index.get_or_insert_with(|| Index::new(self.devices));
                            index.anchor(bytes, at, expected, self.footers)
                        }
                    };
                    let (next, device) = resume.unwrap_or((bytes.len(), self.devices.len()));
                    walked.pieces.push(Piece::Skipped(at..next));
                    (at, expected) = (next, device);
                }
            }
        }
        if let Some(device) = self.devices.get(expected)
            && walked.findings.is_empty()
        {
            walked.findings.push(Error {
                offset: offset + bytes.len() as u64,
                path: path(expected, device),
                kind: ErrorKind::Tail(TailError::NotInStream),
            });
        }
        walked
    }

    /// The section at `at`, which has to be device `number`; and where it ends, its footer included.
    fn section<'a>(
        &self,
        bytes: &'a [u8],
        offset: u64,
        at: usize,
        number: usize,
        may_anchor: bool,
    ) -> Result<(Piece<'a>, usize), Error> {
        let wrong = |at: usize, path: String, what| Error {
            offset: offset + at as u64,
            path,
            kind: ErrorKind::Tail(what),
        };
        let Some(device) = self.devices.get(number) else {
            let what = TailError::BehindLastDevice { bytes: bytes.len() - at };
            return Err(wrong(at, String::new(), what));
        };
        let path = path(number, device);
        if bytes.get(at) != Some(&QEMU_VM_SECTION_FULL) {
            return Err(wrong(at, path, TailError::NoSection));
        }
        let Ok((rest, header)) = section_header(Span::new(&bytes[at + 1..], 0)) else {
            return Err(wrong(at, path, TailError::Cut));
        };
        if !is(device, &header) {
            return Err(wrong(at, path, TailError::OtherDevice));
        }
        let start = bytes.len() - rest.bytes.len();
        let mut footer = Vec::new();
        if self.footers {
            put_section_footer(&mut footer, header.section_id);
        }
        let described = described_end(device, start)
            .filter(|&end| bytes.get(end..).is_some_and(|rest| rest.starts_with(&footer)));
        let next = self.devices.get(number + 1);
        // Before 10.0 the description of arrays with NULL pointers is wrong.
        let anchored = || anchored_end(bytes, start, &footer, next).filter(|_| may_anchor && self.footers);
        let (end, by_anchor) = match described {
            Some(end) => (end, false),
            None => (anchored().ok_or_else(|| wrong(start, path, TailError::FooterNotFound))?, true),
        };
        let (head, body, footer) = (at..start, start..end, end..end + footer.len());
        let end = footer.end;
        Ok((Piece::Device { device: number, header, head, body, footer, by_anchor }, end))
    }
}

/// How many of the described devices `bytes` holds, device sections before RAM that begin at `offset` of the
/// stream; and the sections. Whether they have `footers` may not be known yet.
///
/// # Errors
///
/// `Tail` if the description does not confirm that they end with `bytes`.
pub fn early<'a>(
    devices: &[Device],
    offset: u64,
    bytes: &'a [u8],
    footers: Option<bool>,
) -> Result<(usize, Walked<'a>), Error> {
    let mut wrong = None;
    for footers in [true, false].into_iter().filter(|&is| footers.is_none_or(|footers| footers == is)) {
        let Some(count) = devices_within(devices, bytes.len(), footers) else { continue };
        let walker = Walker { devices: &devices[..count], first: 0, footers, on_error: OnError::Stop };
        let mut walked = walker.walk(bytes, offset);
        if walked.findings.is_empty() {
            return Ok((count, walked));
        }
        wrong = wrong.or(walked.findings.pop());
    }
    Err(wrong.unwrap_or_else(|| Error {
        offset,
        path: String::new(),
        kind: ErrorKind::Tail(TailError::EarlyEnd),
    }))
}

/// How many of the first sections have `length` bytes together.
fn devices_within(devices: &[Device], length: usize, footers: bool) -> Option<usize> {
    let mut end = 0;
    for (number, device) in devices.iter().enumerate() {
        end = described_end(device, end + FULL_HEADER_BYTES + device.idstr.len())?;
        end = end.checked_add(if footers { FOOTER_BYTES } else { 0 })?;
        if end >= length {
            return (end == length).then_some(number + 1);
        }
    }
    None
}

/// Where the body of a device ends that begins at `start`; `None` where the description does not add up.
fn described_end(device: &Device, start: usize) -> Option<usize> {
    to_usize(device.state.payload_bytes()?).checked_add(start)
}

fn path(number: usize, device: &Device) -> String {
    format!("device {number} \"{}\"", name_text(device.idstr.as_bytes()))
}

/// Devices by name and instance: a damaged tail can have any number of places where one could begin.
struct Index<'a>(BTreeMap<(&'a [u8], u64), Vec<usize>>);

impl<'a> Index<'a> {
    fn new(devices: &'a [Device]) -> Self {
        let mut index: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, device) in devices.iter().enumerate() {
            index.entry((device.idstr.as_bytes(), device.instance_id)).or_default().push(number);
        }
        Self(index)
    }

    /// The first section from `from` on that begins behind a footer and that one of the devices from `first`
    /// on describes: where, and which device.
    fn anchor(&self, bytes: &[u8], from: usize, first: usize, footers: bool) -> Option<(usize, usize)> {
        if !footers {
            return None;
        }
        let mut at = from;
        while let Some(found) = bytes.get(at..)?.iter().position(|&byte| byte == QEMU_VM_SECTION_FOOTER) {
            let section = at + found + FOOTER_BYTES;
            if bytes.get(section) == Some(&QEMU_VM_SECTION_FULL)
                && let Ok((_, header)) = section_header(Span::new(&bytes[section + 1..], 0))
                && let Some(numbers) = self.0.get(&(header.idstr, u64::from(header.instance_id)))
                && let Some(&device) = numbers.get(numbers.partition_point(|&number| number < first))
            {
                return Some((section, device));
            }
            at += found + 1;
        }
        None
    }
}

fn is(device: &Device, header: &SectionHeader<'_>) -> bool {
    header.idstr == device.idstr.as_bytes() && u64::from(header.instance_id) == device.instance_id
}

/// The one place where this section's footer is followed by the next section, or by the end.
fn anchored_end(bytes: &[u8], start: usize, footer: &[u8], next: Option<&Device>) -> Option<usize> {
    let mut ends = (start..bytes.len().saturating_sub(footer.len() - 1)).filter(|&end| {
        let Some(after) = bytes[end..].strip_prefix(footer) else { return false };
        match next {
            None => after.is_empty(),
            Some(device) => {
                after.first() == Some(&QEMU_VM_SECTION_FULL)
                    && section_header(Span::new(&after[1..], 0)).is_ok_and(|(_, header)| is(device, &header))
            }
        }
    });
    let end = ends.next()?;
    ends.next().is_none().then_some(end)
}

#[cfg(all(test, feature = "vmdesc"))]
mod tests;
