//! A window on a file that is mapped into memory: most of a stream is page data, which nobody looks at, so not copying
//! it makes reading five times faster.

use crate::input::FileRange;
use memmap2::{Advice, Mmap, MmapOptions};
use std::io;
use std::ops::Range;

/// What is mapped at once: it counts as our memory while it is.
const WINDOW_BYTES: u64 = 16 << 20;
/// Mappings begin at multiples of the host's page size, which is no more than that.
const ALIGNMENT_BYTES: u64 = 64 << 10;

/// The window. It moves on and never back.
#[derive(Debug)]
pub(super) struct MappedWindow {
    file: FileRange,
    map: Option<Mmap>,
    /// What of the map is held.
    held: Range<usize>,
    /// Where the first held byte is in the file, and where the range ends there.
    at: u64,
    end: u64,
}

impl MappedWindow {
    /// A window on `file`, empty at first.
    pub(super) fn new(file: &FileRange) -> Self {
        let place = file.place().1;
        Self { file: file.clone(), map: None, held: 0..0, at: place.start, end: place.end }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.map.as_ref().map_or(&[][..], |map| &map[self.held.clone()])
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.held.start += bytes;
        self.at += bytes as u64;
    }

    /// How much there is behind what is held.
    pub(super) fn left(&self) -> u64 {
        self.end - self.at - self.held.len() as u64
    }

    /// Passes over bytes that are not held.
    pub(super) fn skip(&mut self, bytes: u64) -> u64 {
        let held = self.held.len();
        self.consume(held);
        let skipped = bytes.min(self.left());
        self.at += skipped;
        self.held = 0..0;
        self.map = None;
        skipped
    }

    /// Holds more, everything that is held already included; false at the end.
    pub(super) fn more(&mut self) -> io::Result<bool> {
        if self.left() == 0 {
            return Ok(false);
        }
        // A record that is longer than the window makes it grow.
        let length = (self.held.len() as u64 * 2).max(WINDOW_BYTES).min(self.end - self.at);
        let before = self.at % ALIGNMENT_BYTES;
        let whole = usize::try_from(before + length).map_err(io::Error::other)?;
        let (file, _) = self.file.place();
        let continues = self.map.is_some();
        self.map = None;
        self.held = 0..0;
        let map = map(file, self.at - before, whole)?;
        if continues {
            // One call instead of a fault for every 64 KiB. Where something was passed over, little may be wanted; and
            // kernels before 5.14 do not know it, and do without.
            let _ = map.advise(Advice::PopulateRead);
        }
        self.held = usize::try_from(before).unwrap_or(0)..whole;
        self.map = Some(map);
        Ok(true)
    }
}

#[allow(unsafe_code, reason = "mapping a file is unsafe whatever the file is")]
fn map(file: &std::fs::File, offset: u64, length: usize) -> io::Result<Mmap> {
    // SAFETY: The map is private to this window and only read. Nobody keeps a reference into it beyond the call that
    // looks at a record, no byte of it is trusted to stay the same between two looks, and every index into it is checked
    // against the slice's length, which does not change. A file that is cut while it is read ends the process with
    // SIGBUS, which the README says.
    let map = unsafe { MmapOptions::new().offset(offset).len(length).map(file)? };
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_window_moves_over_the_whole_file_and_grows_when_nothing_is_consumed() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> =
            (0..40u32 << 20).map(|at| at.wrapping_mul(0x9e37_79b1).to_be_bytes()[0]).collect();
        file.write_all(&bytes).unwrap();
        let mut window = MappedWindow::new(&FileRange::whole(file).unwrap().from(3));
        assert!(window.more().unwrap());
        window.consume(1000);
        assert_eq!(window.bytes()[..50], bytes[1003..1053]);
        while window.more().unwrap() {}
        assert_eq!(window.bytes(), &bytes[1003..]);
        window.consume(20 << 20);
        assert_eq!(window.skip(5), 0);
        assert!(window.bytes().is_empty() && !window.more().unwrap());
    }
}
