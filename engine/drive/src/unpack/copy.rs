//! Copies the pages of a RAM block into its file, and verifies each.

use super::At;
use crate::open_snapshot::{OpenSnapshot, read_at_most};
use crate::size::to_usize;
use rustix::io::Errno;
use snapshot_engine::{Failure, IoError};
use snapshot_image::{GuestOffset, ImageError, PresentPage};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is copied between two looks at signals, in bytes: a multiple of any page size.
const STEP_BYTES: u64 = 4 << 20;

/// Copies pages from an image to files.
#[derive(Debug)]
pub(super) struct Copier<'a> {
    snapshot: &'a mut OpenSnapshot,
    buffer: Vec<u8>,
    /// The kernel copies from this image to these files: by sharing the bytes where the file system can do
    /// that (reflink), or else without us.
    kernel_copies: bool,
}

/// Consecutive pages of a block that are not zero.
struct Run<'a> {
    /// Byte offset of the first one in the block, and so in the file.
    offset: u64,
    /// Where it lies in the virtual disk.
    guest: GuestOffset,
    pages: &'a [PresentPage],
}

impl<'a> Copier<'a> {
    pub(super) fn new(snapshot: &'a mut OpenSnapshot) -> Self {
        Self { snapshot, buffer: Vec::new(), kernel_copies: true }
    }

    /// Copies the pages of a block that are not zero to their places in `file`, which is as long as the block
    /// and empty: zero pages stay holes. `step` gets the bytes of RAM that are done, and can end
    /// it. Returns how many bytes were copied.
    ///
    /// # Errors
    ///
    /// The image is damaged or cannot be read, the file cannot be written, or what `step` returns.
    pub(super) fn copy(
        &mut self,
        block: usize,
        (file, path): (&File, &Path),
        step: &mut impl FnMut(u64) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let layout = self.snapshot.reader().layout();
        let (page, length) = (u64::from(layout.page_size()), layout.blocks()[block].used_length);
        let start = layout.guest(block, 0);
        let first_page = layout.page(start);
        let mut copied = 0;
        for offset in (0..length).step_by(to_usize(STEP_BYTES)) {
            let bytes = STEP_BYTES.min(length - offset);
            let first = first_page + offset / page;
            let pages = self.snapshot.ask(|reader| reader.present(first, bytes / page))?;
            for pages in pages.chunk_by(|one, next| one.page + 1 == next.page) {
                let offset = (pages[0].page - first_page) * page;
                let run = Run { offset, guest: GuestOffset(start.0 + offset), pages };
                self.copy_run(block, &run, (file, path))?;
                copied += pages.len() as u64 * page;
            }
            step(bytes)?;
        }
        Ok(copied)
    }

    fn copy_run(&mut self, block: usize, run: &Run<'_>, (file, path): (&File, &Path)) -> Result<(), Failure> {
        let page_bytes = to_usize(self.snapshot.reader().layout().page_size().into());
        let length = run.pages.len() * page_bytes;
        let extents = self.snapshot.ask(|reader| reader.map(run.guest, length as u64))?;
        self.buffer.clear();
        self.buffer.resize(length, 0);
        for extent in extents {
            let at = to_usize(extent.guest.0 - run.guest.0);
            let (part, to) = (at..at + to_usize(extent.length), run.offset + at as u64);
            let by_kernel = match extent.host {
                Some(from) => self.let_kernel_copy(from.0, file, to, extent.length),
                None => Ok(false),
            };
            let by_kernel = by_kernel.map_err(|error| At::failed(path, error))?;
            // What counts is what the guest will read. A page without a place is zeros, which no present page
            // is: its checksum will say so.
            if by_kernel {
                let read = read_at_most(file, &mut self.buffer[part.clone()], to);
                read.map_err(|error| At::failed(path, error))?;
            } else if let Some(from) = extent.host {
                let read = read_at_most(self.snapshot.file(), &mut self.buffer[part.clone()], from.0);
                read.map_err(|error| self.page_read(block, to, &error))?;
            }
            self.verify(&run.pages[at / page_bytes..], &self.buffer[part.clone()])?;
            if !by_kernel {
                file.write_all_at(&self.buffer[part], to).map_err(|error| At::failed(path, error))?;
            }
        }
        Ok(())
    }

    /// Verifies `bytes`, which begin with the first of these pages.
    fn verify(&self, pages: &[PresentPage], bytes: &[u8]) -> Result<(), Failure> {
        let layout = self.snapshot.reader().layout();
        let bytes = bytes.chunks_exact(to_usize(layout.page_size().into()));
        let verified = pages.iter().zip(bytes).map(|(page, bytes)| match page.checksum {
            Some(_) => layout.verify_page(page, bytes),
            None => Err(ImageError::NoSnapshot("a page has no checksum")),
        });
        verified.collect::<Result<(), ImageError>>().map_err(Failure::WrongImage)
    }

    fn page_read(&self, block: usize, offset: u64, error: &std::io::Error) -> Failure {
        let block = self.snapshot.reader().layout().blocks()[block].name.clone();
        Failure::PageRead { block, offset, source: IoError::from(error) }
    }

    /// Has the kernel copy; false if it does not from this image to this file.
    fn let_kernel_copy(&mut self, from: u64, file: &File, to: u64, length: u64) -> Result<bool, Errno> {
        let (mut from, mut to, mut rest) = (from, to, length);
        if !self.kernel_copies {
            return Ok(false);
        }
        while rest > 0 {
            let image = self.snapshot.file();
            match rustix::fs::copy_file_range(image, Some(&mut from), file, Some(&mut to), to_usize(rest)) {
                // Behind the end of the image, or a file system that says nothing else.
                Ok(0) => return Ok(false),
                Ok(copied) => rest -= (copied as u64).min(rest),
                Err(Errno::INTR) => {}
                Err(
                    Errno::XDEV
                    | Errno::INVAL
                    | Errno::NOSYS
                    | Errno::OPNOTSUPP
                    | Errno::PERM
                    | Errno::TXTBSY
                    | Errno::IO,
                ) => {
                    // What cannot be read will say so when it is read.
                    self.kernel_copies = false;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
