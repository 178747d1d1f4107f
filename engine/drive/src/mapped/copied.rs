//! Which pages of a private mapping the process has copies of: they are not the file's.

use super::maps::parse_line;
use super::process::Process;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Longest text of `smaps`: some 1000 bytes for each of 65,530 mappings.
const SMAPS_LIMIT_BYTES: usize = 128 << 20;
/// Bits of an entry of `/proc/PID/pagemap` (proc_pid_pagemap(5)).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
/// Entries that are read at once.
const ENTRIES: usize = 8192;

/// The ranges of `addresses` that are copies, or may be, relative to their start.
pub(super) fn copied(process: &Process, addresses: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
    // Page tables that no one has asked about take no time: a block without copies is not read page by page.
    let counted = process.read("smaps", SMAPS_LIMIT_BYTES).ok().and_then(|text| copies(&text, addresses));
    if counted == Some(0) {
        return Ok(Vec::new());
    }
    let everything = 0..addresses.end - addresses.start;
    Ok(from_pagemap(process, addresses).unwrap_or_else(|_| Vec::from([everything])))
}

/// Bytes of private copies, in memory and in swap, in all mappings that `addresses` touches. `None`
/// where the text does not say it for every byte.
fn copies(smaps: &[u8], addresses: &Range<u64>) -> Option<u64> {
    let mut sum = 0_u64;
    let mut covered = 0;
    let mut missing = 0;
    let mut within = false;
    for line in smaps.split(|&byte| byte == b'\n') {
        if let Ok(mapping) = parse_line(line) {
            let own = mapping.addresses;
            let (start, end) = (own.start.max(addresses.start), own.end.min(addresses.end));
            within = start < end;
            covered += end.saturating_sub(start);
            missing += 2 * u64::from(within);
        } else if within && let Some(kib) = value(line, b"Anonymous:").or_else(|| value(line, b"Swap:")) {
            sum = sum.checked_add(kib)?;
            missing = missing.checked_sub(1)?;
        }
    }
    (covered == addresses.end - addresses.start && missing == 0).then_some(sum)
}

fn value(line: &[u8], key: &[u8]) -> Option<u64> {
    let rest = std::str::from_utf8(line.strip_prefix(key)?).ok()?;
    rest.strip_suffix("kB")?.trim().parse().ok()
}

fn from_pagemap(process: &Process, addresses: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let file = process.file("pagemap")?;
    let page = rustix::param::page_size() as u64;
    let (first, end) = (addresses.start / page, addresses.end.div_ceil(page));
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut buffer = vec![0; ENTRIES * 8];
    let mut next = first;
    while next < end {
        let count = usize::try_from(end - next).map_or(ENTRIES, |left| left.min(ENTRIES));
        let bytes = &mut buffer[..count * 8];
        file.read_exact_at(bytes, next * 8)?;
        for (at, entry) in bytes.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().map_err(io::Error::other)?);
            if is_copy(entry) {
                let start = (next + at as u64 - first) * page;
                match found.last_mut() {
                    Some(last) if last.end == start => last.end += page,
                    _ => found.push(start..start + page),
                }
            }
        }
        next += count as u64;
    }
    Ok(found)
}

/// A page that was never touched has none of the bits; one of the file's in memory has two.
fn is_copy(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "10000-20000 rw-p 00200000 fe:00 7 /vm\nSize:   64 kB\nAnonymous:  0 kB\nSwap:  0 kB\n\
                         SwapPss:   9 kB\nVmFlags: rd wr\n20000-30000 rw-p 00210000 fe:00 7 /vm\nAnonymous:  4 kB\n\
                         Swap:  8 kB\n";

    #[test]
    fn copies_are_counted_in_memory_and_in_swap() {
        assert_eq!(copies(SMAPS.as_bytes(), &(0x10000..0x20000)), Some(0));
        assert_eq!(copies(SMAPS.as_bytes(), &(0x10000..0x20001)), Some(12));
        assert_eq!(copies(SMAPS.as_bytes(), &(0x20000..0x30000)), Some(12));
        assert_eq!(copies(SMAPS.as_bytes(), &(0x20000..0x30001)), None, "not all of it is mapped");
        let without = SMAPS.replace("Swap:  8 kB\n", "");
        assert_eq!(
            copies(without.as_bytes(), &(0x20000..0x30000)),
            None,
            "it does not say how much is in swap"
        );
        assert_eq!(copies(SMAPS.replace("4 kB", "x kB").as_bytes(), &(0x20000..0x30000)), None);
    }

    #[test]
    fn bits_of_a_copy() {
        assert!(!is_copy(0), "never touched");
        assert!(!is_copy(PRESENT | OF_FILE), "the file's page");
        assert!(is_copy(PRESENT) && is_copy(SWAPPED));
        assert!(!is_copy(OF_FILE));
    }
}
