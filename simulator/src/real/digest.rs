//! What a page must hold: a checksum for each.
//!
//! As a file: a line `snapsim-digest 1`, then for each block a line `block NAME BYTES` (the name in
//! hexadecimal) and lines `COUNT CHECKSUM` for that many pages in a row (CRC-64/NVME in
//! hexadecimal); in the end `devices CHECKSUM`, of the device sections with headers and footers.

use super::memory::{GuestMemory, TARGET_PAGE_BYTES};
use crate::size::to_usize;
use crc_fast::{CrcAlgorithm, checksum};
use std::fmt::Write as _;
use std::num::IntErrorKind;

const HEAD: &str = "snapsim-digest 1";

/// The checksum of a page.
#[must_use]
pub fn page_checksum(page: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, page)
}

/// Checksums of all pages of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digest {
    /// Name of each block, and its pages' checksums.
    pub blocks: Vec<(Vec<u8>, Vec<u64>)>,
    /// Checksum of the device sections.
    pub devices: Option<u64>,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// It does not begin as one.
    #[error("line 1: not a digest, expected \"{HEAD}\"")]
    Head,
    /// A line is wrong.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It has more pages than the RAM that is expected.
    #[error("line {line}: more than {limit} pages")]
    TooManyPages {
        /// The number of the line, from 1.
        line: usize,
        /// The most that there can be.
        limit: usize,
    },
}

impl Digest {
    /// What the memory holds now. No thread may write it meanwhile.
    #[must_use]
    pub fn of(memory: &GuestMemory) -> Self {
        let mut page = [0; TARGET_PAGE_BYTES];
        let mut block = |block: &super::memory::Block| {
            let offsets = (0..block.mapping.length()).step_by(TARGET_PAGE_BYTES);
            let checksums = offsets.map(|offset| {
                block.mapping.read(offset, &mut page);
                page_checksum(&page)
            });
            (block.name.clone(), checksums.collect())
        };
        Self { blocks: memory.blocks().iter().map(&mut block).collect(), devices: None }
    }

    /// The checksum of a page of this block.
    #[must_use]
    pub fn page(&self, block: &[u8], offset: usize) -> Option<u64> {
        let (_, pages) = self.blocks.iter().find(|(name, _)| name == block)?;
        pages.get(offset / TARGET_PAGE_BYTES).copied()
    }

    /// As text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (name, pages) in &self.blocks {
            text.push_str("block ");
            for byte in name {
                // Writing to a string does not fail.
                let _ = write!(text, "{byte:02x}");
            }
            let _ = writeln!(text, " {}", pages.len() * TARGET_PAGE_BYTES);
            for run in pages.chunk_by(|a, b| a == b) {
                let _ = writeln!(text, "{} {:016x}", run.len(), run[0]);
            }
        }
        if let Some(devices) = self.devices {
            let _ = writeln!(text, "devices {devices:016x}");
        }
        text
    }

    /// From text; of at most `max_bytes` bytes of RAM.
    ///
    /// # Errors
    ///
    /// The line that is wrong.
    pub fn parse(text: &str, max_bytes: u64) -> Result<Self, DigestError> {
        let max_pages = to_usize(max_bytes) / TARGET_PAGE_BYTES;
        let mut lines = text.lines().enumerate();
        if lines.next().map(|(_, line)| line) != Some(HEAD) {
            return Err(DigestError::Head);
        }
        let mut digest = Self::default();
        let mut pages = 0usize;
        for (number, line) in lines {
            let wrong = |what| DigestError::Line { line: number + 1, what };
            if let Some(rest) = line.strip_prefix("block ") {
                let name = rest
                    .split(' ')
                    .next()
                    .and_then(name)
                    .ok_or_else(|| wrong("block name is not hexadecimal"))?;
                digest.blocks.push((name, Vec::new()));
                continue;
            }
            if let Some(checksum) = line.strip_prefix("devices ") {
                let checksum =
                    u64::from_str_radix(checksum, 16).map_err(|_| wrong("checksum is not hexadecimal"))?;
                digest.devices = Some(checksum);
                continue;
            }
            let (count, checksum) = line.split_once(' ').ok_or_else(|| wrong("expected COUNT CHECKSUM"))?;
            let count: usize =
                count.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
                    IntErrorKind::PosOverflow => wrong("count is too large"),
                    _ => wrong("count is no number"),
                })?;
            let checksum =
                u64::from_str_radix(checksum, 16).map_err(|_| wrong("checksum is not hexadecimal"))?;
            pages = pages.saturating_add(count);
            if pages > max_pages {
                return Err(DigestError::TooManyPages { line: number + 1, limit: max_pages });
            }
            let (_, block) = digest.blocks.last_mut().ok_or_else(|| wrong("pages before a block"))?;
            block.extend(std::iter::repeat_n(checksum, count));
        }
        Ok(digest)
    }
}

fn name(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::MemoryKind;

    #[test]
    fn a_digest_survives_its_text_form_and_sees_every_byte() {
        let mut memory = GuestMemory::new();
        memory.add(b"pc.ram", 8 * 4096, MemoryKind::Anonymous, 4096).unwrap();
        memory.add(b"\xff rom", 4096, MemoryKind::Anonymous, 4096).unwrap();
        memory.write_word(3, 5, 1);
        let digest = Digest { devices: Some(0xabc), ..Digest::of(&memory) };
        let text = digest.to_text();
        assert_eq!(text.lines().count(), 1 + 4 + 2 + 1);
        assert_eq!(Digest::parse(&text, 9 * 4096), Ok(digest.clone()));
        memory.write_word(8, 511, 1);
        assert_ne!(Digest::of(&memory).blocks, digest.blocks);
        assert_eq!(Digest::parse(&text, 8 * 4096), Err(DigestError::TooManyPages { line: 7, limit: 8 }));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Digest::parse(text, 10 * 4096).unwrap_err().to_string(), expected);
        };
        check("", "line 1: not a digest, expected \"snapsim-digest 1\"");
        check("snapsim-digest 1\n1 00\n", "line 2: pages before a block");
        check("snapsim-digest 1\nblock 7\n", "line 2: block name is not hexadecimal");
        check("snapsim-digest 1\nblock 70 4096\nx 00\n", "line 3: count is no number");
        check("snapsim-digest 1\nblock 70 4096\n1 xx\n", "line 3: checksum is not hexadecimal");
        check("snapsim-digest 1\nblock 70 4096\n11 00\n", "line 3: more than 10 pages");
    }
}
