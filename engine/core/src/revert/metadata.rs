//! The image, and the reads that bring its metadata whenever the reader needs some.

use crate::ids::Ids;
use crate::machine::{Action, IoId, Piece};
use crate::memory::OutOfMemory;
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use snapshot_image::{HostOffset, Opener, SnapshotReader};

/// What is being read.
#[derive(Debug)]
struct Reading {
    id: IoId,
    buffer: BufferId,
    at: HostOffset,
    length: usize,
}

/// Reads of metadata. One at a time: what is asked for depends on what came before.
#[derive(Debug, Default)]
pub(crate) struct MetadataReads {
    pub(crate) ids: Ids,
    reading: Option<Reading>,
}

impl MetadataReads {
    /// Starts a read of `length` bytes at `at`, unless one is under way.
    pub(crate) fn read(
        &mut self,
        at: HostOffset,
        length: usize,
        pool: &mut Pool,
    ) -> Result<Option<Action>, OutOfMemory> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let buffer = pool.take(length)?;
        let id = self.ids.next();
        self.reading = Some(Reading { id, buffer, at, length });
        let range = 0..length.next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        Ok(Some(Action::Read { id, buffer, pieces: vec![Piece { at, range }] }))
    }

    /// Records a completion, gives what arrived to `supply`, and returns the place; none if it is
    /// not a metadata read's.
    pub(crate) fn done(
        &mut self,
        id: IoId,
        arrived: bool,
        pool: &mut Pool,
        supply: impl FnOnce(HostOffset, &[u8]),
    ) -> Option<HostOffset> {
        let Reading { buffer, at, length, .. } = self.reading.take_if(|reading| reading.id == id)?;
        if arrived {
            supply(at, &pool.bytes(buffer)[..length]);
        }
        pool.release(buffer);
        Some(at)
    }
}

/// An image that is being opened.
#[derive(Debug)]
pub(crate) struct OpeningImage {
    pub(crate) opener: Opener,
    pub(crate) reads: MetadataReads,
}

impl OpeningImage {
    pub(crate) fn new(opener: Opener) -> Self {
        Self { opener, reads: MetadataReads::default() }
    }

    /// As [`MetadataReads::done`].
    pub(crate) fn done(&mut self, id: IoId, arrived: bool, pool: &mut Pool) -> Option<HostOffset> {
        self.reads.done(id, arrived, pool, |at, bytes| self.opener.supply(at, bytes))
    }
}

/// An open image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) reader: SnapshotReader,
    /// The device tail of a clone; none where it is sent as it was saved.
    pub(crate) clone_tail: Option<Vec<u8>>,
    pub(crate) reads: MetadataReads,
}

impl Image {
    /// The device tail that is sent.
    pub(crate) fn tail(&self) -> &[u8] {
        self.clone_tail.as_ref().unwrap_or(&self.reader.snapshot().tail)
    }

    /// As [`MetadataReads::read`].
    pub(crate) fn read(
        &mut self,
        at: HostOffset,
        length: usize,
        pool: &mut Pool,
    ) -> Result<Option<Action>, OutOfMemory> {
        self.reads.read(at, length, pool)
    }

    /// As [`MetadataReads::done`].
    pub(crate) fn done(&mut self, id: IoId, arrived: bool, pool: &mut Pool) -> Option<HostOffset> {
        self.reads.done(id, arrived, pool, |at, bytes| self.reader.supply(at, bytes))
    }
}
