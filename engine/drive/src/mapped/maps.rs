//! What `/proc/PID/maps` says (proc(5)): one line for each mapping.
//!
//! ```text
//! 7f0d4ffff000-7f0d53fff000 rw-p 00200000 fe:00 10805301       /vm/vm1.qcow2
//! addresses                 how  offset   device inode         name
//! ```

use std::ops::Range;

/// Longest text that is read: 65,530 mappings (vm.max_map_count) with names of 900 bytes.
pub(crate) const MAPS_LIMIT_BYTES: usize = 64 << 20;

/// A file, as the kernel prints it in a list of mappings. That is not always what fstat(2) says: on
/// btrfs and overlayfs the device is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileKey {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// The inode; 0 where no file is mapped.
    pub inode: u64,
}

impl std::fmt::Display for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.device;
        write!(f, "{major:02x}:{minor:02x} inode {}", self.inode)
    }
}

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses in the process.
    pub addresses: Range<u64>,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// What is written stays in the process (`MAP_PRIVATE`).
    pub private: bool,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// The file.
    pub file: FileKey,
}

impl Mapping {
    /// The bytes of the file that it shows.
    #[must_use]
    pub fn file_range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.addresses.end - self.addresses.start)
    }

    /// `next` goes on where this one ends, in the process and in the file.
    #[must_use]
    pub fn is_continued_by(&self, next: &Self) -> bool {
        self.file == next.file
            && self.addresses.end == next.addresses.start
            && self.file_range().end == next.offset
    }

    /// How it may be used, in the kernel's letters.
    #[must_use]
    pub fn letters(&self) -> String {
        let letter = |is: bool, yes, no| if is { yes } else { no };
        [letter(self.readable, 'r', '-'), letter(self.writable, 'w', '-'), letter(self.private, 'p', 's')]
            .iter()
            .collect()
    }
}

/// A line that is not as the kernel writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct MapsError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Reads all mappings of a process, in the order of their addresses.
///
/// # Errors
///
/// A line that is not as the kernel writes it; mappings that are not in order, or overlap.
pub fn parse_maps(text: &[u8]) -> Result<Vec<Mapping>, MapsError> {
    let mut found: Vec<Mapping> = Vec::new();
    for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let error = |what| MapsError { line: at + 1, what };
        let mapping = parse_line(line).map_err(error)?;
        if found.last().is_some_and(|last| last.addresses.end > mapping.addresses.start) {
            return Err(error("it overlaps the mapping before it"));
        }
        found.push(mapping);
    }
    Ok(found)
}

/// Reads one line.
pub(super) fn parse_line(line: &[u8]) -> Result<Mapping, &'static str> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut next = |what| fields.next().ok_or(what);
    let addresses = range(next("it has no addresses")?)?;
    let letters = next("it has no permissions")?;
    let offset = hex(next("it has no offset")?).ok_or("its offset is no number")?;
    let device = device(next("it has no device")?).ok_or("its device is no pair of numbers")?;
    let inode = decimal(next("it has no inode")?).ok_or("its inode is no number")?;
    let &[read, write, _, share] = letters else { return Err("its permissions are not four letters") };
    if !matches!((read, write, share), (b'r' | b'-', b'w' | b'-', b'p' | b's')) {
        return Err("its permissions are not those of a mapping");
    }
    let length = addresses.end - addresses.start;
    offset.checked_add(length).ok_or("it ends behind 2^64 in its file")?;
    Ok(Mapping {
        addresses,
        readable: read == b'r',
        writable: write == b'w',
        private: share == b'p',
        offset,
        file: FileKey { device, inode },
    })
}

fn range(field: &[u8]) -> Result<Range<u64>, &'static str> {
    let dash = field.iter().position(|&byte| byte == b'-').ok_or("its addresses are no range")?;
    let bound = |digits| hex(digits).ok_or("its addresses are no numbers");
    let range = bound(&field[..dash])?..bound(&field[dash + 1..])?;
    if range.is_empty() { Err("its addresses are an empty range") } else { Ok(range) }
}

fn device(field: &[u8]) -> Option<(u32, u32)> {
    let colon = field.iter().position(|&byte| byte == b':')?;
    let number = |digits| u32::try_from(hex(digits)?).ok();
    Some((number(&field[..colon])?, number(&field[colon + 1..])?))
}

fn hex(digits: &[u8]) -> Option<u64> {
    number(digits, 16)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

/// Digits and nothing else: `from_str_radix` takes a sign, too.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "7f0d4ffff000-7f0d53fff000 rw-p 00200000 fe:00 10805301                   /a b";

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let expected = Mapping {
            addresses: 0x7f0d_4fff_f000..0x7f0d_53ff_f000,
            readable: true,
            writable: true,
            private: true,
            offset: 0x20_0000,
            file: FileKey { device: (0xfe, 0), inode: 10_805_301 },
        };
        let found = parse_maps(format!("{LINE}\n").as_bytes()).unwrap();
        assert_eq!(found[..], [expected]);
        let expected = &found[0];
        assert_eq!(expected.file_range(), 0x20_0000..0x420_0000);
        assert_eq!(
            (expected.letters(), expected.file.to_string()),
            ("rwp".into(), "fe:00 inode 10805301".into())
        );
    }

    #[test]
    fn mappings_of_this_process_are_all_read() {
        let text = std::fs::read("/proc/self/maps").unwrap();
        let found = parse_maps(&text).unwrap();
        assert_eq!(found.len(), text.iter().filter(|&&byte| byte == b'\n').count());
        let local = &raw const found as u64;
        assert!(found.iter().any(|mapping| mapping.addresses.contains(&local) && mapping.writable));
    }

    #[test]
    fn lines_that_no_kernel_writes_are_refused() {
        let refused = |text: &str| parse_maps(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused("x"), "line 1: its addresses are no range");
        assert_eq!(
            refused(&LINE.replace("7f0d53fff000", "7f0d4ffff000")),
            "line 1: its addresses are an empty range"
        );
        assert_eq!(refused(&LINE.replace("rw-p", "rw-")), "line 1: its permissions are not four letters");
        assert_eq!(
            refused(&LINE.replace("rw-p", "rw-x")),
            "line 1: its permissions are not those of a mapping"
        );
        assert_eq!(refused(&LINE.replace("00200000", "+200000")), "line 1: its offset is no number");
        assert_eq!(refused(&LINE.replace("fe:00", "fe00")), "line 1: its device is no pair of numbers");
        assert_eq!(refused(&LINE.replace("10805301", "1080530a")), "line 1: its inode is no number");
        assert_eq!(
            refused(&LINE.replace("00200000", "ffffffffffffffff")),
            "line 1: it ends behind 2^64 in its file"
        );
        assert_eq!(refused(&format!("{LINE}\n{LINE}\n")), "line 2: it overlaps the mapping before it");
        assert_eq!(refused("1000-2000 rw-p 0 0:0"), "line 1: it has no inode");
    }
}
