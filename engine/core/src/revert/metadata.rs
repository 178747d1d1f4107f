//! Reads the image's metadata whenever the reader needs some.

use crate::ids::Ids;
use crate::machine::{Action, IoId, Piece};
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use snapshot_image::{HostOffset, SnapshotReader};

/// One metadata read at a time: what is asked for depends on what came before.
#[derive(Debug, Default)]
pub(crate) struct MetadataReads {
    reading: Option<(IoId, BufferId, HostOffset, usize)>,
}

impl MetadataReads {
    /// Starts a read of `length` bytes at `at`, unless one is under way.
    pub(crate) fn start(
        &mut self,
        at: HostOffset,
        length: usize,
        pool: &mut Pool,
        ids: &mut Ids,
    ) -> Option<Action> {
        if self.reading.is_some() {
            return None;
        }
        let id = ids.next();
        let buffer = pool.take(length);
        self.reading = Some((id, buffer, at, length));
        let range = 0..length.next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        Some(Action::Read { id, buffer, pieces: vec![Piece { at, range }] })
    }

    /// Takes note of a completion; false if it is not this read's.
    pub(crate) fn done(
        &mut self,
        id: IoId,
        arrived: bool,
        reader: &mut SnapshotReader,
        pool: &mut Pool,
    ) -> bool {
        let Some((_, buffer, at, length)) = self.reading.take_if(|(reading, ..)| *reading == id) else {
            return false;
        };
        if arrived {
            reader.supply(at, &pool.bytes(buffer)[..length]);
        }
        pool.release(buffer);
        true
    }
}
