//! Linear images: what lies in the places of their zero pages, which no revert reads, and which a guest that
//! is mapped from the image sees.

use crate::error::Error;
use crate::machines::{ImageReadError, read_part};
use crate::size::to_usize;
use crate::source::{FileRange, RandomAccess};
use crate::walk::{Finding, Level};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use snapshot_image::{HostOffset, Layout, SnapshotReader, Verification};
use std::ops::Range;

/// Pages that are looked up at once.
const BATCH_PAGES: u64 = 8192;
/// Read at once, a multiple of every page size.
const PIECE_BYTES: u64 = 1 << 20;

/// How RAM lies in the image, where its checksums count.
pub(crate) fn layout(reader: &SnapshotReader) -> Option<Layout> {
    (reader.snapshot().verification == Verification::Verified).then(|| match reader.linear_base(0) {
        Some(_) => Layout::Linear,
        None => Layout::Dense,
    })
}

/// Looks for anything but zeros in the places of zero pages, and tells of the first `told` pages that have
/// some. How many have; none in a dense image, where such pages have no place.
///
/// # Errors
///
/// The index cannot be read, or the file.
pub(crate) fn check_zeros(
    reader: &mut SnapshotReader,
    file: &FileRange,
    told: u64,
    found: &mut dyn FnMut(Finding),
) -> Result<u64, ImageReadError> {
    let page_bytes = u64::from(reader.layout().page_size());
    let mut places = Places { file, page_bytes, hole: 0..0, wrong: 0 };
    for number in 0..reader.layout().blocks().len() {
        let Some(HostOffset(base)) = reader.linear_base(number) else { return Ok(0) };
        let block = reader.layout().blocks()[number].clone();
        let first = reader.layout().page(reader.layout().guest(number, 0));
        let pages = block.used_length / page_bytes;
        let mut tell = |offset: u64, at: u64, byte: u8| {
            let text = format!(
                "ram block \"{}\" offset {offset:#x}: {byte:#04x} at offset {at:#x} of the file, expected zero: the page \
                 is zero, and a guest that is mapped from the image would see it",
                block.name.escape_ascii()
            );
            found(Finding::new(Level::Error, None, "image", text));
        };
        let mut from = 0;
        while from < pages {
            let count = BATCH_PAGES.min(pages - from);
            let read = |at, length| read_part(file, at, length);
            let present = reader.ask_with(read, |reader| reader.present(first + from, count))?;
            let present = present.iter().map(|page| page.page - first).chain([from + count]);
            let mut zero = from;
            for page in present {
                places.scan(base, zero..page, told, &mut tell)?;
                zero = page + 1;
            }
            from += count;
        }
    }
    Ok(places.wrong)
}

/// Scans parts of a file that should be zero.
struct Places<'a> {
    file: &'a FileRange,
    page_bytes: u64,
    /// A hole that was found last.
    hole: Range<u64>,
    /// Pages that are not zero.
    wrong: u64,
}

impl Places<'_> {
    /// Scans these pages of the block at `base`.
    fn scan(
        &mut self,
        base: u64,
        pages: Range<u64>,
        told: u64,
        tell: &mut impl FnMut(u64, u64, u8),
    ) -> Result<(), ImageReadError> {
        let end = base + pages.end * self.page_bytes;
        let mut at = base + pages.start * self.page_bytes;
        while at < end {
            let data = self.next_data(at)?;
            if data >= end {
                return Ok(());
            }
            // A page is looked at whole: a hole may end in it.
            at = data - (data - base) % self.page_bytes;
            let mut piece = vec![0; to_usize(PIECE_BYTES.min(end - at))];
            self.file.read_at(at, &mut piece).map_err(ImageReadError::at(at))?;
            for (page, bytes) in
                (at..).step_by(to_usize(self.page_bytes)).zip(piece.chunks(to_usize(self.page_bytes)))
            {
                let Some(byte) = bytes.iter().position(|&byte| byte != 0) else { continue };
                self.wrong += 1;
                if self.wrong <= told {
                    tell(page - base, page + byte as u64, bytes[byte]);
                }
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Where data begins, at this offset or behind; a file system that does not know has data everywhere.
    fn next_data(&mut self, at: u64) -> Result<u64, ImageReadError> {
        if self.hole.contains(&at) {
            return Ok(self.hole.end);
        }
        let (file, range) = self.file.place();
        let data = match rustix::fs::seek(file, SeekFrom::Data(range.start + at)) {
            Ok(data) => data - range.start,
            Err(Errno::NXIO) => u64::MAX,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(ImageReadError::at(at)(error.into())),
        };
        self.hole = at..data;
        Ok(data)
    }
}

/// The layout of the image in `file`, where it is a snapshot that is verified.
///
/// # Errors
///
/// The file, whose name is `name`, could not be read.
pub(crate) fn layout_of(
    name: &str,
    file: &FileRange,
    options: snapshot_image::ReadOptions,
) -> Result<Option<Layout>, Error> {
    match crate::machines::open_snapshot(file, options) {
        Ok(reader) => Ok(layout(&reader)),
        Err(ImageReadError::Image(_)) => Ok(None),
        Err(error) => Err(error.of_file(name)),
    }
}
