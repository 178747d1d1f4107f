//! Finds out what the image holds before a byte of it is changed.

use super::NewImage;
use crate::failure::{Class, Failure};
use crate::ids::Ids;
use crate::machine::{Action, Completed, IoId, Piece};
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use snapshot_image::{Container, HostOffset, Inspect, Inspection, Inspector};

/// Where the snapshot goes.
#[derive(Debug)]
pub(crate) enum Target {
    /// Into the image as it is: it is empty.
    InPlace(Box<Container>),
    /// Into a new file, renamed over the image at the commit point.
    NewFile(NewImage),
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
                Found::Target(Target::NewFile(geometry.into()))
            }
            Inspect::Done(Inspection::Interrupted(geometry)) => {
                if !self.overwrite {
                    return Err(Failure::InterruptedSave);
                }
                Found::Target(Target::NewFile(geometry.into()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_image::{Geometry, Identity, SnapshotWriter, Step};

    const UUID: [u8; 16] = [7; 16];

    /// What an interrupted save leaves of a new image.
    fn interrupted() -> Vec<u8> {
        let geometry = Geometry::with_cluster_size(64 << 10).unwrap();
        let mut writer = SnapshotWriter::create(geometry, 1 << 20).unwrap();
        let mut file = Vec::new();
        for step in writer.begin(Identity { uuid: UUID, created_unix_s: 0 }) {
            match step {
                Step::Write { at, bytes } => {
                    let at = usize::try_from(at.0).unwrap();
                    file.resize(file.len().max(at + bytes.len()), 0);
                    file[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Step::SetLength(length) => file.resize(usize::try_from(length).unwrap(), 0),
                Step::Flush => {}
            }
        }
        file
    }

    /// The image without our header extension, as another program makes it.
    fn empty() -> Vec<u8> {
        let mut file = interrupted();
        file[312..4096].fill(0);
        file
    }

    fn find(file: &[u8], overwrite: bool) -> Result<Target, Failure> {
        let mut finder = TargetFinder::new(file.len() as u64, overwrite);
        let (mut pool, mut ids) = (Pool::default(), Ids::default());
        for _ in 0..100 {
            match finder.poll(&mut pool, &mut ids)?.expect("nothing is under way") {
                Found::Target(target) => {
                    assert_eq!(pool.taken_bytes(), 0, "buffers were not given back");
                    return Ok(target);
                }
                Found::Action(Action::Read { id, buffer, pieces }) => {
                    assert!(finder.poll(&mut pool, &mut ids).unwrap().is_none(), "one operation at a time");
                    let [Piece { at, range }] = &pieces[..] else { panic!("{pieces:?}") };
                    let from = usize::try_from(at.0).unwrap().min(file.len());
                    let part = &file[from..file.len().min(from + range.len())];
                    pool.bytes_mut(buffer)[..part.len()].copy_from_slice(part);
                    assert!(!finder.done(IoId(u64::MAX), Some(Completed::Plain), &mut pool), "of another");
                    assert!(finder.done(id, Some(Completed::Plain), &mut pool));
                }
                Found::Action(Action::NextData { id, from }) => {
                    let data = (from.0 < file.len() as u64).then_some(from.0..file.len() as u64);
                    assert!(finder.done(id, Some(Completed::Data(data)), &mut pool));
                }
                Found::Action(other) => panic!("{other:?}"),
            }
        }
        panic!("the search does not end");
    }

    #[test]
    fn an_empty_image_is_used_as_it_is() {
        for overwrite in [false, true] {
            assert!(matches!(find(&empty(), overwrite), Ok(Target::InPlace(_))));
        }
    }

    #[test]
    fn what_a_save_left_is_replaced_only_if_that_was_asked_for() {
        assert!(matches!(find(&interrupted(), false), Err(Failure::InterruptedSave)));
        assert!(
            matches!(find(&interrupted(), true), Ok(Target::NewFile(NewImage::Of(geometry))) if geometry.cluster_bits == 16)
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let error = find(&[0; 8192], true).unwrap_err();
        assert!(matches!(error, Failure::Image { class: Class::CouldNot, .. }), "{error}");
    }

    #[test]
    fn a_read_that_failed_gives_its_buffer_back() {
        let mut finder = TargetFinder::new(8192, false);
        let (mut pool, mut ids) = (Pool::default(), Ids::default());
        let Ok(Some(Found::Action(Action::Read { id, .. }))) = finder.poll(&mut pool, &mut ids) else {
            panic!("the header is read first");
        };
        assert!(finder.done(id, None, &mut pool));
        assert_eq!(pool.taken_bytes(), 0);
    }
}
