//! The image, and the reads that bring its metadata whenever the reader needs some.

use crate::ids::Ids;
use crate::machine::{Action, IoId, Piece};
use crate::memory::OutOfMemory;
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use snapshot_image::{HostOffset, SnapshotReader};

/// What is being read.
#[derive(Debug)]
struct Reading {
    id: IoId,
    buffer: BufferId,
    at: HostOffset,
    length: usize,
}

/// The image. One metadata read at a time: what is asked for depends on what came before.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) reader: SnapshotReader,
    pub(crate) ids: Ids,
    reading: Option<Reading>,
}

impl Image {
    pub(crate) fn new(reader: SnapshotReader) -> Self {
        Self { reader, ids: Ids::default(), reading: None }
    }

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

    /// Takes note of a completion, and tells what was read; none if it is not a metadata read's.
    pub(crate) fn done(&mut self, id: IoId, arrived: bool, pool: &mut Pool) -> Option<HostOffset> {
        let Reading { buffer, at, length, .. } = self.reading.take_if(|reading| reading.id == id)?;
        if arrived {
            self.reader.supply(at, &pool.bytes(buffer)[..length]);
        }
        pool.release(buffer);
        Some(at)
    }
}
