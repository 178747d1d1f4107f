//! Compares every page of mapped blocks with its checksum, through the page cache that the guest
//! will use.
//!
//! Zero pages count, too: the guest sees what lies in their place, so that has to be a hole or zeros.

use crate::disk::io_error;
use crate::open_snapshot::OpenSnapshot;
use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;
use snapshot_engine::Failure;
use snapshot_image::{ImageError, PresentPage, crc32c};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What a thread takes at once: long enough to be read ahead.
const TASK_BYTES: u64 = 4 << 20;
/// What is read at once: short enough to stay in a processor's cache until it has been looked at.
const PIECE_BYTES: usize = 256 << 10;
/// The most threads: memory is not faster with more.
const THREADS_LIMIT: usize = 4;

/// How far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The first damage.
    Damage,
    /// The end, or so much damage that more says nothing.
    End,
}

/// As many damaged pages are named.
pub(super) const DAMAGE_LIMIT: usize = 64;

/// Verifies these blocks, by their numbers; gives what is damaged, in the order of RAM.
///
/// # Errors
///
/// The image cannot be read, or its index is wrong.
pub(super) fn verify(
    file: &File,
    snapshot: &mut OpenSnapshot,
    blocks: &[usize],
    until: Until,
) -> Result<Vec<ImageError>, Failure> {
    let length = file.metadata().map_err(|error| read_failure(&error))?.len();
    let work =
        Mutex::new(Work { snapshot, blocks, next: 0, at: 0, until, damage: Vec::new(), failure: None });
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(THREADS_LIMIT));
    thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be started leaves its work to the others.
            let _ = thread::Builder::new().name("verify".to_owned()).spawn_scoped(scope, || {
                run(file, length, &work);
            });
        }
        run(file, length, &work);
    });
    let mut work = work.into_inner().unwrap_or_else(PoisonError::into_inner);
    work.damage.sort_by_key(|(page, _)| *page);
    match work.failure {
        Some(failure) => Err(failure),
        None => Ok(work.damage.into_iter().map(|(_, error)| error).collect()),
    }
}

/// What is left to do, and what came of it.
struct Work<'a> {
    snapshot: &'a mut OpenSnapshot,
    blocks: &'a [usize],
    next: usize,
    /// Offset in the next block.
    at: u64,
    until: Until,
    damage: Vec<(u64, ImageError)>,
    failure: Option<Failure>,
}

/// A part of a block.
struct Task {
    block: Vec<u8>,
    page_bytes: usize,
    /// Number of its first page in the virtual disk.
    first_page: u64,
    /// Its place in the block.
    offset: u64,
    /// Its place in the file.
    at: u64,
    length: u64,
    present: Vec<PresentPage>,
}

impl Work<'_> {
    fn task(&mut self) -> Option<Task> {
        let enough = match self.until {
            Until::Damage => 1,
            Until::End => DAMAGE_LIMIT,
        };
        if self.failure.is_some() || self.damage.len() >= enough {
            return None;
        }
        let result = self.next_task();
        result.unwrap_or_else(|failure| {
            self.failure = Some(failure);
            None
        })
    }

    fn next_task(&mut self) -> Result<Option<Task>, Failure> {
        let reader = self.snapshot.reader();
        let layout = reader.layout();
        let (block, base) = loop {
            let Some(&number) = self.blocks.get(self.next) else { return Ok(None) };
            let (block, base) = (&layout.blocks()[number], reader.linear_base(number));
            match base {
                Some(base) if self.at < block.used_length => break (block, base),
                _ => (self.next, self.at) = (self.next + 1, 0),
            }
        };
        let page_bytes = layout.page_size();
        let length = TASK_BYTES.min(block.used_length - self.at);
        let first_page = layout.page(layout.guest(self.blocks[self.next], self.at));
        let (name, offset) = (block.name.clone(), self.at);
        let count = length / u64::from(page_bytes);
        let present = self.snapshot.ask(|reader| reader.present(first_page, count))?;
        self.at += length;
        Ok(Some(Task {
            block: name,
            page_bytes: crate::size::to_usize(page_bytes.into()),
            first_page,
            offset,
            at: base.0 + offset,
            length,
            present,
        }))
    }
}

fn run(file: &File, length: u64, work: &Mutex<Work<'_>>) {
    let mut buffer = vec![0; PIECE_BYTES];
    let lock = || work.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        // A guard in the condition of a loop would live as long as its body.
        let task = lock().task();
        let Some(task) = task else { return };
        let mut damage = Vec::new();
        let result = task.run(file, length, &mut buffer, &mut damage);
        let mut work = lock();
        work.damage.extend(damage);
        if let Err(error) = result {
            work.failure.get_or_insert(error);
        }
    }
}

impl Task {
    fn run(
        &self,
        file: &File,
        file_length: u64,
        buffer: &mut [u8],
        damage: &mut Vec<(u64, ImageError)>,
    ) -> Result<(), Failure> {
        if self.at + self.length > file_length {
            let what =
                format!("the file ends at {file_length:#x}, inside block \"{}\"", self.block.escape_ascii());
            let error = ImageError::Damaged { structure: "linear layout", at: self.at, what };
            return Err(Failure::WrongImage(error));
        }
        if !self.present.is_empty() {
            // Best effort: the pieces find there what the disk has been asked for at once.
            let _ = rustix::fs::fadvise(file, self.at, NonZeroU64::new(self.length), Advice::WillNeed);
        }
        let mut present = self.present.iter().peekable();
        let mut done = 0;
        while done < self.length {
            let bytes = crate::size::to_usize((self.length - done).min(PIECE_BYTES as u64));
            let end_page = self.first_page + (done + bytes as u64) / self.page_bytes as u64;
            let place = self.at + done..self.at + done + bytes as u64;
            let has_pages = present.peek().is_some_and(|page| page.page < end_page);
            if has_pages || has_data(file, &place) {
                let piece = &mut buffer[..bytes];
                file.read_exact_at(piece, place.start).map_err(|error| self.failure(done, &error))?;
                self.look(piece, done, &mut present, damage);
            }
            done += bytes as u64;
        }
        Ok(())
    }

    /// Looks at each page of a piece that lies `done` bytes behind the task's start.
    fn look<'p>(
        &self,
        piece: &[u8],
        done: u64,
        present: &mut std::iter::Peekable<impl Iterator<Item = &'p PresentPage>>,
        damage: &mut Vec<(u64, ImageError)>,
    ) {
        let page_bytes = self.page_bytes as u64;
        for (at, bytes) in piece.chunks(self.page_bytes).enumerate() {
            let offset = done + at as u64 * page_bytes;
            let page = self.first_page + offset / page_bytes;
            let expected = match present.next_if(|present| present.page == page) {
                Some(present) => present.checksum,
                None if is_zero(bytes) => continue,
                None => Some(crc32c(&vec![0; bytes.len()])),
            };
            let found = crc32c(bytes);
            // Without checksums nothing can be mapped: then it is damage, too.
            if expected != Some(found) {
                let (block, offset) = (self.block.clone(), self.offset + offset);
                let expected = expected.unwrap_or_default();
                damage.push((page, ImageError::Page { block, offset, found, expected }));
            }
        }
    }

    fn failure(&self, done: u64, error: &io::Error) -> Failure {
        Failure::PageRead { block: self.block.clone(), offset: self.offset + done, source: io_error(error) }
    }
}

fn read_failure(error: &io::Error) -> Failure {
    Failure::Io { doing: snapshot_engine::Doing::ReadImage, source: io_error(error) }
}

/// Whether something may lie in this range of the file; a file system that cannot tell says yes.
fn has_data(file: &File, range: &Range<u64>) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(at) => at < range.end,
        // Nothing up to the end of the file.
        Err(Errno::NXIO) => false,
        Err(_) => true,
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
