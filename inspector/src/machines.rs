//! Runs the engine's machines on files, one operation after the other.

use snapshot_engine::machine::{Action, Completed, Event, IoError, IoId, Lane, Machine};
use snapshot_engine::{Failure, Pool, RevertConfig, RevertMachine, SaveConfig, SaveMachine, SaveSummary};
use snapshot_image::{HostOffset, ImageError, ReadOptions, SnapshotReader};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::error::Error;
use crate::input::{OpenOptions, RandomAccess, Source, SourceError};

/// Why the snapshot of an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageReadError {
    /// The image was read, and is wrong.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// It could not be read, which says nothing about the image.
    #[error("offset {at:#x}: {error}")]
    Io {
        /// Byte offset in the file.
        at: u64,
        /// Why.
        error: io::Error,
    },
}

impl ImageReadError {
    /// Names what could not be read at an offset.
    pub(crate) fn at(at: u64) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { at, error }
    }

    /// As an error of a command on the file with this name.
    pub(crate) fn of_file(self, name: &str) -> Error {
        match self {
            Self::Image(error) => Error::Wrong(format!("{name}: {error}")),
            Self::Io { at, error } => Error::io(format_args!("{name}: offset {at:#x}"))(error),
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
    options: &OpenOptions,
) -> Result<SnapshotReader, ImageReadError> {
    let read = ReadOptions { allow_unverified: options.allow_unverified };
    SnapshotReader::open_with(file.size_bytes(), read, |at, length| read_part(file, at, length))
}

/// Sends the snapshot of an image as the stream that a destination would load: read, and verified, as a revert does.
pub(crate) struct ImageStream {
    machine: RevertMachine,
    pool: Pool,
    file: Box<dyn RandomAccess>,
    pending: Vec<u8>,
    taken: usize,
    finished: bool,
    /// The end of what it sends, where that could be had beforehand.
    tail: Option<Vec<u8>>,
}

impl ImageStream {
    /// # Errors
    ///
    /// The image could not be read. What is wrong with it shows when the stream is read.
    pub(crate) fn new(
        file: Box<dyn RandomAccess>,
        mut config: RevertConfig,
        options: &OpenOptions,
    ) -> Result<Self, ImageReadError> {
        let tail = match open_snapshot(&*file, options) {
            Ok(reader) => Some(reader.snapshot().tail.clone()),
            Err(ImageReadError::Image(_)) => None,
            Err(error) => return Err(error),
        };
        config.image_length_bytes = file.size_bytes();
        let mut machine = RevertMachine::new(config);
        let mut pool = Pool::default();
        machine.handle(Event::Tick { now_ms: 0 }, &mut pool);
        Ok(Self { machine, pool, file, pending: Vec::new(), taken: 0, finished: false, tail })
    }

    /// Runs the machine until there is output, or it has ended.
    fn run(&mut self) -> Result<(), Failure> {
        self.pending.clear();
        self.taken = 0;
        while self.pending.is_empty() && !self.finished {
            let Some(action) = self.machine.poll(&mut self.pool) else { break };
            match action {
                Action::Read { id, buffer, pieces } => {
                    let mut lent = self.pool.lend(buffer);
                    let result = pieces
                        .iter()
                        .try_for_each(|piece| {
                            self.file.read_at(piece.at.0, &mut lent.bytes_mut()[piece.range.clone()])
                        })
                        .map(|()| Completed::Plain);
                    self.pool.give_back(buffer, lent);
                    self.done(id, result);
                }
                Action::Send { header, body, .. } => {
                    self.pending.extend_from_slice(header.bytes());
                    if let Some(body) = body {
                        self.pending.extend_from_slice(&self.pool.bytes(body.buffer)[body.range]);
                    }
                    let bytes = self.pending.len() as u64;
                    self.machine.handle(Event::Sent { lane: Lane::Main, bytes }, &mut self.pool);
                }
                Action::Finish => {
                    self.finished = true;
                    self.machine.outcome()?;
                }
                other => {
                    if let Some(id) = other.id() {
                        let unsupported = io::Error::other("not an operation of a revert");
                        self.done(id, Err(unsupported));
                    }
                }
            }
        }
        Ok(())
    }

    fn done(&mut self, id: IoId, result: io::Result<Completed>) {
        let result = result.map_err(|error| IoError::from(&error));
        self.machine.handle(Event::Done { id, result }, &mut self.pool);
    }
}

impl Source for ImageStream {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while filled < out.len() {
            if self.taken == self.pending.len() {
                self.run().map_err(|failure| SourceError::Revert(failure.into()))?;
                // The byte that makes a QEMU refuse a stream is not for us.
                if self.pending.is_empty() {
                    break;
                }
            }
            let bytes = (self.pending.len() - self.taken).min(out.len() - filled);
            out[filled..filled + bytes].copy_from_slice(&self.pending[self.taken..self.taken + bytes]);
            self.taken += bytes;
            filled += bytes;
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> Result<u64, SourceError> {
        let mut waste = vec![0; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(waste.len());
            match self.read(&mut waste[..most])? {
                0 => break,
                read => left -= read as u64,
            }
        }
        Ok(bytes - left)
    }

    fn last(&mut self, most: u64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.tail.as_ref().map(|tail| {
            let from = tail.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
            tail[from..].to_vec()
        }))
    }

    fn length(&self) -> Option<u64> {
        None
    }
}

/// Saves a stream into a new, empty file.
///
/// # Errors
///
/// Why nothing was saved.
pub(crate) fn save(input: &mut dyn Read, image: &File, config: SaveConfig) -> Result<SaveSummary, Failure> {
    let mut machine = SaveMachine::new(config);
    let mut pool = Pool::default();
    machine.handle(Event::Tick { now_ms: 0 }, &mut pool);
    while let Some(action) = machine.poll(&mut pool) {
        let (id, result) = match action {
            Action::ReadInput { buffer, range } => {
                match input.read(&mut pool.bytes_mut(buffer)[range]) {
                    Ok(0) => machine.handle(Event::InputEnd, &mut pool),
                    Ok(bytes) => machine.handle(Event::Input { bytes }, &mut pool),
                    Err(error) => machine.handle(Event::InputFailed(IoError::from(&error)), &mut pool),
                }
                continue;
            }
            Action::Write { id, buffer, pieces } => {
                let lent = pool.lend(buffer);
                let result = pieces
                    .iter()
                    .try_for_each(|piece| image.write_all_at(&lent.bytes()[piece.range.clone()], piece.at.0));
                pool.give_back(buffer, lent);
                (id, result)
            }
            Action::Read { id, buffer, pieces } => {
                let mut lent = pool.lend(buffer);
                let result = pieces.iter().try_for_each(|piece| {
                    image.read_exact_at(&mut lent.bytes_mut()[piece.range.clone()], piece.at.0)
                });
                pool.give_back(buffer, lent);
                (id, result)
            }
            Action::SetLength { id, length_bytes } => (id, image.set_len(length_bytes)),
            Action::Flush { id } => (id, image.sync_data()),
            // The caller gives the file its name, or removes it.
            Action::CreateTemporary { id }
            | Action::Ballast { id, .. }
            | Action::Link { id }
            | Action::Unlink { id }
            | Action::ProbeReplace { id }
            | Action::Replace { id } => (id, Ok(())),
            Action::NextData { id, from } => {
                let length = image.metadata().map(|metadata| metadata.len());
                let result = length
                    .map(|length| Completed::Data((from.0 < length).then_some(from.0..length)))
                    .map_err(|error| IoError::from(&error));
                machine.handle(Event::Done { id, result }, &mut pool);
                continue;
            }
            Action::Send { header, body, .. } => {
                let bytes = header.bytes().len() + body.map_or(0, |body| body.range.len());
                machine.handle(Event::Sent { lane: Lane::Main, bytes: bytes as u64 }, &mut pool);
                continue;
            }
            Action::LimitInput { .. }
            | Action::LimitOutput { .. }
            | Action::Announce(_)
            | Action::WakeAt { .. } => continue,
            Action::Finish => break,
        };
        let result = result.map(|()| Completed::Plain).map_err(|error| IoError::from(&error));
        machine.handle(Event::Done { id, result }, &mut pool);
    }
    machine.outcome()
}
