//! A window on a file that is mapped into memory: most of a stream is page data, which no one looks
//! at, so not copying it makes reading five times faster.

use crate::size::to_usize;
use crate::source::{FileRange, read_full};
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::io;
use std::ops::Range;

/// What is mapped at once: it counts as our memory while it is.
const WINDOW_BYTES: u64 = 16 << 20;
/// What is mapped first where something was passed over: little may be wanted there.
const FIRST_WINDOW_BYTES: u64 = 256 << 10;
/// Mappings begin at multiples of the host's page size, which is no more than that.
const ALIGNMENT_BYTES: u64 = 64 << 10;

/// What is held of the file.
#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Read(Vec<u8>),
}

/// The window. It moves on and never back.
#[derive(Debug)]
pub(super) struct MappedWindow {
    file: FileRange,
    content: Content,
    /// What of the content is held.
    held: Range<usize>,
    /// Where the first held byte is in the file, and where the range ends there.
    at: u64,
    end: u64,
    /// Mapped pages can be filled beforehand: unknown before Linux 5.14.
    maps: bool,
    /// What the next window has at least.
    window_bytes: u64,
}

impl MappedWindow {
    /// A window on `file`, empty at first.
    pub(super) fn new(file: &FileRange) -> Self {
        let place = file.place().1;
        Self {
            file: file.clone(),
            content: Content::Read(Vec::new()),
            held: 0..0,
            at: place.start,
            end: place.end,
            maps: true,
            window_bytes: FIRST_WINDOW_BYTES,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => &map[self.held.clone()],
            Content::Read(bytes) => &bytes[self.held.clone()],
        }
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
        self.hold(Content::Read(Vec::new()), 0..0);
        self.window_bytes = FIRST_WINDOW_BYTES;
        skipped
    }

    fn hold(&mut self, content: Content, held: Range<usize>) {
        self.content = content;
        self.held = held;
    }

    /// How many bytes from the first held one on are a hole; 0 where the file system does not tell.
    pub(super) fn hole(&self) -> io::Result<u64> {
        let (file, _) = self.file.place();
        match rustix::fs::seek(file, SeekFrom::Data(self.at)) {
            Ok(data) => Ok(data.min(self.end).saturating_sub(self.at)),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => Ok(self.end - self.at),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Holds more, everything that is held already included; false at the end.
    pub(super) fn more(&mut self) -> io::Result<bool> {
        if self.left() == 0 {
            return Ok(false);
        }
        // A record that is longer than the window makes it grow.
        let before = self.held.len();
        let length = (before as u64 * 2).max(self.window_bytes).min(self.end - self.at);
        self.window_bytes = (self.window_bytes * 4).min(WINDOW_BYTES);
        self.hold(Content::Read(Vec::new()), 0..0);
        if self.maps && self.map(length)? {
            return Ok(true);
        }
        // A byte of a mapping that the disk does not give would end the process with SIGBUS; of a
        // read it is an error.
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let read = read_full(self.file.place().0, self.at, &mut bytes)?;
        bytes.truncate(read);
        let more = read > before;
        self.hold(Content::Read(bytes), 0..read);
        Ok(more)
    }

    /// Maps the next `length` bytes; false where they cannot be filled beforehand.
    fn map(&mut self, length: u64) -> io::Result<bool> {
        let before = self.at % ALIGNMENT_BYTES;
        let whole = usize::try_from(before + length).map_err(io::Error::other)?;
        let map = map(self.file.place().0, self.at - before, whole)?;
        // One call instead of a fault for every 64 KiB; and an error where a fault would be SIGBUS
        // (madvise(2)).
        if let Err(error) = map.advise(Advice::PopulateRead) {
            // A kernel that does not know it never will.
            self.maps = error.kind() != io::ErrorKind::InvalidInput;
            return Ok(false);
        }
        self.hold(Content::Mapped(map), to_usize(before)..whole);
        Ok(true)
    }
}

#[allow(unsafe_code, reason = "mapping a file is unsafe whatever the file is")]
fn map(file: &std::fs::File, offset: u64, length: usize) -> io::Result<Mmap> {
    // SAFETY: The map is private to this window and only read. No one keeps a reference into it
    // beyond the call that looks at a record, no byte of it is trusted to stay the same between two
    // looks, and every index into it is checked against the slice's length, which does not change.
    // Its pages are filled before they are looked at. A file that is cut while it is read, or a
    // disk that fails for a page that was given back meanwhile, is SIGBUS: see `bus_error`.
    let map = unsafe { MmapOptions::new().offset(offset).len(length).map(file)? };
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_hole_is_as_long_as_the_file_has_it() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        let mut window = MappedWindow::new(&FileRange::whole(file).unwrap().from(4096));
        // A file system without holes has data everywhere, and one with large blocks has it a little earlier.
        let hole = window.hole().unwrap();
        assert!(hole <= (1 << 20) - 4096, "{hole}");
        window.skip((1 << 20) - 4096);
        assert_eq!(window.hole().unwrap(), 0);
        assert!(window.more().unwrap());
        window.consume(2 << 20);
        let hole = window.hole().unwrap();
        assert!(hole == 0 || hole == 1 << 20, "{hole}");
    }

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
