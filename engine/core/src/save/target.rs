//! Finds out what the image holds before a byte of it is changed.

use crate::failure::{Class, Failure};
use crate::ids::Ids;
use crate::machine::{Action, Completed, IoId, Piece};
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use snapshot_image::{Container, Geometry, HostOffset, Inspect, Inspection, Inspector};

/// Where the snapshot goes.
#[derive(Debug)]
pub(crate) enum Target {
    /// Into the image as it is: it is empty.
    InPlace(Box<Container>),
    /// Into a new file, renamed over the image at the commit point.
    NewFile(Geometry),
}

/// Asks for the parts of the image that decide.
#[derive(Debug)]
pub(crate) struct TargetFinder {
    inspector: Inspector,
    overwrite: bool,
    reading: Option<(IoId, Asked)>,
}

/// What was asked for.
#[derive(Debug)]
enum Asked {
    Part(BufferId, HostOffset, usize),
    Data,
}

impl TargetFinder {
    pub(crate) fn new(file_length_bytes: u64, overwrite: bool) -> Self {
        Self { inspector: Inspector::new(file_length_bytes), overwrite, reading: None }
    }

    /// The next disk operation, or the answer; neither while one is under way.
    pub(crate) fn poll(&mut self, pool: &mut Pool, ids: &mut Ids) -> Result<Option<Found>, Failure> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let could_not = |error| Failure::Image { error, class: Class::CouldNot };
        Ok(Some(match self.inspector.poll().map_err(could_not)? {
            Inspect::Need(at, length) => {
                let id = ids.next();
                let buffer = pool.take(length);
                self.reading = Some((id, Asked::Part(buffer, at, length)));
                let range = 0..length.next_multiple_of(BUFFER_ALIGNMENT_BYTES);
                Found::Action(Action::Read { id, buffer, pieces: vec![Piece { at, range }] })
            }
            Inspect::NextData(from) => {
                let id = ids.next();
                self.reading = Some((id, Asked::Data));
                Found::Action(Action::NextData { id, from })
            }
            Inspect::Done(Inspection::Empty(container)) => Found::Target(Target::InPlace(container)),
            Inspect::Done(Inspection::Snapshot(geometry, uuid)) => {
                if !self.overwrite {
                    return Err(Failure::SnapshotExists { uuid });
                }
                Found::Target(Target::NewFile(geometry))
            }
            Inspect::Done(Inspection::Interrupted(geometry)) => {
                if !self.overwrite {
                    return Err(Failure::InterruptedSave);
                }
                Found::Target(Target::NewFile(geometry))
            }
        }))
    }

    /// Takes note of a completion; false if the operation is not this one. `what` is `None` after an error.
    pub(crate) fn done(&mut self, id: IoId, what: Option<Completed>, pool: &mut Pool) -> bool {
        let Some((_, asked)) = self.reading.take_if(|(reading, _)| *reading == id) else { return false };
        match (asked, what) {
            (Asked::Part(buffer, at, length), what) => {
                if what.is_some() {
                    self.inspector.supply(at, &pool.bytes(buffer)[..length]);
                }
                pool.release(buffer);
            }
            (Asked::Data, Some(Completed::Data(data))) => self.inspector.supply_data(data),
            (Asked::Data, _) => {}
        }
        true
    }
}

/// What [`TargetFinder::poll`] brings.
#[derive(Debug)]
pub(crate) enum Found {
    /// Do this first.
    Action(Action),
    /// This is where the snapshot goes.
    Target(Target),
}
