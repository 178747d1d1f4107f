//! Runs the engine's machines on files, one operation after the other.

use snapshot_engine::blocking::{self, Io, Runner};
use snapshot_engine::{
    Failure, MappedBlock, RevertConfig, RevertMachine, SaveConfig, SaveMachine, SaveSummary,
};
use snapshot_image::{HostOffset, ImageError, ReadOptions, SnapshotReader};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::advice::Advice;
use crate::error::Error;
use crate::image_text::image_text;
use crate::size::to_usize;
use crate::source::{RandomAccess, Source, SourceError};

/// Why the snapshot of an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageReadError {
    /// The image was read, and is wrong.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It could not be read, which says nothing about the image.
    #[error("offset {at:#x}")]
    Io {
        /// Byte offset in the file.
        at: u64,
        /// What the operating system reports.
        source: io::Error,
    },
}

impl ImageReadError {
    /// Names what could not be read at an offset.
    pub(crate) fn at(at: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { at, source }
    }

    /// As an error of a command on the file with this name.
    pub(crate) fn of_file(self, name: &str) -> Error {
        match self {
            Self::Image(error) => {
                Error::Wrong(format!("{name}: {}", image_text(&error))).advised(Advice::of_image(&error))
            }
            Self::Io { at, source } => Error::io(format_args!("{name}: offset {at:#x}"))(source),
        }
    }
}

/// Reads a part of an image.
pub(crate) fn read_part(
    file: &dyn RandomAccess,
    at: HostOffset,
    length: usize,
) -> Result<Vec<u8>, ImageReadError> {
    let mut bytes = vec![0; length];
    file.read_at(at.0, &mut bytes).map_err(ImageReadError::at(at.0))?;
    Ok(bytes)
}

/// Opens the snapshot of an image.
pub(crate) fn open_snapshot(
    file: &dyn RandomAccess,
    options: ReadOptions,
) -> Result<SnapshotReader, ImageReadError> {
    SnapshotReader::open_with(file.size_bytes(), options, |at, length| read_part(file, at, length))
}

/// Sends the snapshot of an image as the stream that a destination would load: read, and verified,
/// as a revert does.
pub(crate) struct ImageStream {
    revert: Runner<RevertMachine>,
    io: FromImage,
    taken: usize,
    /// The end of what it sends, where that could be had beforehand.
    tail: Option<Vec<u8>>,
}

/// The blocks that a revert can leave out, as if its destination had mapped them, but this one.
fn all_but(reader: &SnapshotReader, only: &[u8]) -> Vec<MappedBlock> {
    let blocks = reader.layout().blocks().iter().enumerate();
    let others = blocks.filter(|(number, block)| block.name != only && reader.linear_base(*number).is_some());
    others.map(|(_, block)| MappedBlock { name: block.name.clone(), copied: Vec::new() }).collect()
}

/// The image, and what was sent and not taken yet.
struct FromImage {
    file: Box<dyn RandomAccess>,
    pending: Vec<u8>,
}

impl Io for FromImage {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        // It fills all of it, with zeros behind the end.
        self.file.read_at(at, bytes).map(|()| bytes.len())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        Ok(())
    }
}

impl ImageStream {
    /// `only`: of a linear image, which is verified then, the pages of this block alone.
    ///
    /// # Errors
    ///
    /// The image could not be read. What is wrong with it shows when the stream is read.
    pub(crate) fn new(
        file: Box<dyn RandomAccess>,
        mut config: RevertConfig,
        options: ReadOptions,
        only: Option<&[u8]>,
    ) -> Result<Self, ImageReadError> {
        let tail = match open_snapshot(&*file, options) {
            Ok(reader) => {
                config.mapped = only.map_or_else(Vec::new, |only| all_but(&reader, only));
                Some(reader.snapshot().tail.clone())
            }
            Err(ImageReadError::Image(_)) => None,
            Err(error) => return Err(error),
        };
        config.image_length_bytes = file.size_bytes();
        let revert = Runner::new(RevertMachine::new(config));
        Ok(Self { revert, io: FromImage { file, pending: Vec::new() }, taken: 0, tail })
    }

    /// Runs the machine until there is output, or it has ended.
    fn run(&mut self) -> Result<(), Failure> {
        self.io.pending.clear();
        self.taken = 0;
        while self.io.pending.is_empty() {
            if !self.revert.step(&mut self.io).map_err(Failure::refused)? {
                return self.revert.machine().outcome().map(drop);
            }
        }
        Ok(())
    }
}

impl Source for ImageStream {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < out.len() {
            if self.taken == self.io.pending.len() {
                self.run().map_err(|failure| SourceError::Revert(failure.into()))?;
                // The byte that makes a QEMU refuse a stream is not for us.
                if self.io.pending.is_empty() {
                    break;
                }
            }
            let bytes = (self.io.pending.len() - self.taken).min(out.len() - filled);
            out[filled..filled + bytes].copy_from_slice(&self.io.pending[self.taken..self.taken + bytes]);
            self.taken += bytes;
            filled += bytes;
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        let mut waste = vec![0; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            let most = to_usize(left).min(waste.len());
            match self.read(&mut waste[..most])? {
                0 => break,
                read => left -= read as u64,
            }
        }
        Ok(bytes - left)
    }

    fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.tail.as_ref().map(|tail| {
            let from = tail.len().saturating_sub(to_usize(most));
            tail[from..].to_vec()
        }))
    }

    fn length(&self) -> Option<u64> {
        None
    }
}

/// A stream, and the new, empty file that it is saved into.
struct IntoImage<'a> {
    input: &'a mut dyn Read,
    image: &'a File,
}

impl Io for IntoImage<'_> {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.image.read_at(bytes, at)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.image.write_all_at(bytes, at)
    }

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.image.metadata()?.len())
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        self.image.set_len(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.sync_data()
    }

    fn read_input(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.input.read(bytes)
    }
}

/// Saves a stream into a new, empty file. The caller gives the file its name, or removes it.
///
/// # Errors
///
/// Why nothing was saved.
pub(crate) fn save(input: &mut dyn Read, image: &File, config: SaveConfig) -> Result<SaveSummary, Failure> {
    let mut machine = SaveMachine::new(config);
    blocking::run(&mut machine, &mut IntoImage { input, image }).map_err(Failure::refused)?;
    machine.outcome()
}
