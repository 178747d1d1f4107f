//! A snapshot that is read with positioned reads, by whoever needs no event loop for it.

use crate::block_options::ImageSpec;
use crate::disk::io_error;
use crate::image_file::ImageFile;
use snapshot_engine::{Doing, Failure, IoError};
use snapshot_image::{HostOffset, ImageError, Lookup, ReadOptions, SnapshotReader};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// An image, locked as for a revert, and the reader of its snapshot.
#[derive(Debug)]
pub(crate) struct OpenSnapshot {
    /// Kept for its lock, where no one else has it.
    _image: Option<ImageFile>,
    file: Arc<File>,
    reader: SnapshotReader,
}

/// Why a question to the reader has no answer.
enum AskError {
    Image(ImageError),
    Read(u64, io::Error),
}

impl From<ImageError> for AskError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Image(error) => Self::WrongImage(error),
            AskError::Read(offset, error) => Self::MetadataRead { offset, source: io_error(&error) },
        }
    }
}

impl OpenSnapshot {
    /// Opens the image, and verifies everything but RAM.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or what is wrong with it.
    pub(crate) fn open(spec: &ImageSpec, options: ReadOptions) -> Result<Self, Failure> {
        // Through the page cache: what is asked for here is little, and lies in memory anywhere.
        let spec = ImageSpec { direct: false, ..spec.clone() };
        let image = ImageFile::open_for_revert(&spec).map_err(Failure::refused)?;
        let file = image.file.clone().ok_or(Failure::NoImage)?;
        Ok(Self { _image: Some(image), ..Self::of_file(file, options)? })
    }

    /// Opens the image in a file that is locked already, and verifies everything but RAM.
    ///
    /// # Errors
    ///
    /// It cannot be read, or what is wrong with it.
    pub(crate) fn of_file(file: Arc<File>, options: ReadOptions) -> Result<Self, Failure> {
        let read_image = |source: IoError| Failure::Io { doing: Doing::ReadImage, source };
        let length = file.metadata().map_err(|error| read_image(IoError::from(&error)))?.len();
        let reader = SnapshotReader::open_with(length, options, |at, length| read(&file, at, length))?;
        Ok(Self { _image: None, file, reader })
    }

    /// The image's file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What the reader knows without reading.
    pub(crate) fn reader(&self) -> &SnapshotReader {
        &self.reader
    }

    /// Asks the reader something.
    ///
    /// # Errors
    ///
    /// The image is wrong, or cannot be read.
    pub(crate) fn ask<T>(
        &mut self,
        question: impl FnMut(&mut SnapshotReader) -> Result<Lookup<T>, ImageError>,
    ) -> Result<T, Failure> {
        let Self { file, reader, .. } = self;
        Ok(reader.ask_with(|at, length| read(file, at, length), question)?)
    }
}

fn read(file: &File, HostOffset(at): HostOffset, length: usize) -> Result<Vec<u8>, AskError> {
    let mut bytes = vec![0; length];
    read_at_most(file, &mut bytes, at).map_err(|error| AskError::Read(at, error))?;
    Ok(bytes)
}

/// Fills `bytes` from `at` on; what lies behind the end of the file stays as it is.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn read_at_most(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.read_at(bytes, at) {
            Ok(0) => return Ok(()),
            Ok(length) => (bytes, at) = (&mut bytes[length..], at + length as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
