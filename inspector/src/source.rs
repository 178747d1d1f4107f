//! Where bytes come from: files, pipes, and what is unpacked from them.

use crate::advice::Advice;
use crate::image_text::failure_text;
use crate::size::to_usize;
use snapshot_engine::{Class, Failure};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Why bytes of an input cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// They cannot be read, or not be unpacked.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The snapshot of an image cannot be reverted to.
    #[error("{}", failure_text(.0))]
    Revert(Box<Failure>),
    /// The tables of a QCOW2 image say something that QEMU never writes.
    #[error("{0}")]
    Damaged(String),
    /// More belongs together than is held in memory.
    #[error("more than {limit_bytes} bytes belong together")]
    TooLong {
        /// The limit, in bytes.
        limit_bytes: usize,
    },
}

/// More bytes come out of a packed input than may be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unpacks to more than {bytes} bytes")]
pub(crate) struct UnpackLimit {
    /// The limit.
    pub(crate) bytes: u64,
}

impl SourceError {
    /// What can be done about it, where that is known.
    pub(crate) fn advice(&self) -> Option<Advice> {
        match self {
            Self::Revert(failure) => Advice::of_failure(failure),
            _ => None,
        }
    }

    /// The input was read and is wrong; anything else says nothing about the input.
    pub(crate) fn is_wrong_input(&self) -> bool {
        match self {
            Self::Revert(failure) => failure.class() == Class::InputWrong,
            Self::Damaged(_) => true,
            Self::Io(_) | Self::TooLong { .. } => false,
        }
    }
}

impl From<SourceError> for io::Error {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Io(error) => error,
            error => Self::other(error),
        }
    }
}

/// Bytes in order.
pub trait Source {
    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    ///
    /// Why not.
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError>;

    /// Passes over bytes without reading them where that is possible; returns how many there were.
    ///
    /// # Errors
    ///
    /// Why not.
    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError>;

    /// The last bytes, up to `most` of them, where they can be had before what comes first.
    ///
    /// # Errors
    ///
    /// Why not.
    fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError>;

    /// How many bytes there are in all, where that is known.
    fn length(&self) -> Option<u64>;

    /// How many bytes are still to be read or skipped, where there may be far more than anybody wrote.
    fn left(&self) -> Option<u64> {
        None
    }

    /// The file that they are a range of, where they are just that.
    fn as_file(&self) -> Option<&FileRange> {
        None
    }
}

/// Bytes at any place.
pub trait RandomAccess {
    /// Fills `out` from `offset`; what lies behind the end reads as zeros.
    ///
    /// # Errors
    ///
    /// As [`FileExt::read_at`].
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// How many bytes there are.
    fn size_bytes(&self) -> u64;
}

/// A range of a file.
#[derive(Debug, Clone)]
pub struct FileRange {
    file: Arc<File>,
    start: u64,
    end: u64,
    at: u64,
}

impl FileRange {
    /// The whole file.
    ///
    /// # Errors
    ///
    /// When its length cannot be had.
    pub fn whole(file: File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), start: 0, end, at: 0 })
    }

    /// The file, and the place of this range in it.
    pub(crate) fn place(&self) -> (&File, std::ops::Range<u64>) {
        (&self.file, self.start..self.end)
    }

    /// From `offset` on.
    #[must_use]
    pub fn from(&self, offset: u64) -> Self {
        let start = (self.start + offset).min(self.end);
        Self { file: Arc::clone(&self.file), start, end: self.end, at: start }
    }
}

/// Fills `out` from `offset` as far as the file reaches.
pub(crate) fn read_full(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<usize> {
    let wanted = out.len();
    while !out.is_empty() {
        match file.read_at(out, offset) {
            Ok(0) => break,
            Ok(bytes) => {
                out = &mut out[bytes..];
                offset += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted - out.len())
}

impl Source for FileRange {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        let most = to_usize(self.end - self.at).min(out.len());
        let bytes = read_full(&self.file, self.at, &mut out[..most])?;
        self.at += bytes as u64;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        let bytes = bytes.min(self.end - self.at);
        self.at += bytes;
        Ok(bytes)
    }

    fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError> {
        let length = most.min(self.end - self.start);
        let mut bytes = vec![0; to_usize(length)];
        read_full(&self.file, self.end - length, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn length(&self) -> Option<u64> {
        Some(self.end - self.start)
    }

    fn as_file(&self) -> Option<&FileRange> {
        Some(self)
    }
}

impl RandomAccess for FileRange {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = self.start.saturating_add(offset);
        let there = to_usize(self.end.saturating_sub(at)).min(out.len());
        let read = read_full(&self.file, at, &mut out[..there])?;
        out[read..].fill(0);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// Anything that can be read, behind bytes that were read already.
pub(crate) struct Piped<R> {
    head: io::Cursor<Vec<u8>>,
    rest: R,
}

impl<R: Read> Piped<R> {
    /// `head` and then `rest`.
    pub(crate) fn new(head: Vec<u8>, rest: R) -> Self {
        Self { head: io::Cursor::new(head), rest }
    }
}

impl<R: Read> Read for Piped<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.head.read(out)? {
            0 => self.rest.read(out),
            bytes => Ok(bytes),
        }
    }
}

impl<R: Read> Source for Piped<R> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            match Read::read(self, out) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other?),
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        Ok(io::copy(&mut Read::take(self, bytes), &mut io::sink())?)
    }

    fn last(&mut self, _: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(None)
    }

    fn length(&self) -> Option<u64> {
        None
    }
}

/// A source as a reader.
#[derive(Debug)]
pub(crate) struct SourceReader<S>(pub(crate) S);

impl<S: Source> Read for SourceReader<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read(out)?)
    }
}

impl Source for Box<dyn Source> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        (**self).read(out)
    }
    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        (**self).skip(bytes)
    }
    fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError> {
        (**self).last(most)
    }
    fn length(&self) -> Option<u64> {
        (**self).length()
    }
    fn left(&self) -> Option<u64> {
        (**self).left()
    }
    fn as_file(&self) -> Option<&FileRange> {
        (**self).as_file()
    }
}
