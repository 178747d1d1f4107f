//! Finds out what the image holds before a byte of it is changed.

use super::{NewImage, SaveConfig};
use crate::failure::Failure;
use crate::ids::Ids;
use crate::machine::{Action, Completed, IoId, Piece};
use crate::pool::{BUFFER_ALIGNMENT_BYTES, BufferId, Pool};
use snapshot_image::{Container, Geometry, HostOffset, Inspect, Inspection, Inspector, Layout};

/// Where the snapshot goes.
#[derive(Debug)]
pub(crate) enum Target {
    /// Into the image as it is: it is empty.
    InPlace(Box<Container>),
    /// Into a new file.
    NewFile(NewFile),
}

/// A new file, and how it gets the image's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewFile {
    pub(crate) image: NewImage,
    /// `None`: what is best.
    pub(crate) layout: Option<Layout>,
    pub(crate) way: Way,
}

/// How what was written becomes the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// It was written into the image.
    InPlace,
    /// The new file gets the image's name while the source still has bytes to send: nothing of
    /// value lies there.
    Link,
    /// The new file replaces a snapshot, once it is sealed.
    Replace,
}

/// Asks for the parts of the image that decide.
#[derive(Debug)]
pub(crate) struct TargetFinder {
    inspector: Inspector,
    create: Option<NewImage>,
    layout: Option<Layout>,
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
    /// An inspection of a file of this many bytes for a save that is configured like this.
    pub(crate) fn new(file_length_bytes: u64, config: &SaveConfig) -> Self {
        let (create, layout, overwrite) = (config.create, config.layout, config.overwrite);
        Self { inspector: Inspector::new(file_length_bytes), create, layout, overwrite, reading: None }
    }

    /// A new file in the place of an image of this kind, like it unless something else was said.
    fn replacement(&self, geometry: Geometry, layout: Layout) -> Found {
        let layout = Some(self.layout.unwrap_or(layout));
        Found::Target(Target::NewFile(NewFile { image: geometry.into(), layout, way: Way::Replace }))
    }

    /// The next disk operation, or the answer; neither while one is under way.
    pub(crate) fn poll(&mut self, pool: &mut Pool, ids: &mut Ids) -> Result<Option<Found>, Failure> {
        if self.reading.is_some() {
            return Ok(None);
        }
        Ok(Some(match self.inspector.poll().map_err(Failure::UnfitImage)? {
            Inspect::Need(at, length) => {
                let buffer = pool.take(length)?;
                let id = ids.next();
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
            Inspect::Done(Inspection::Snapshot(geometry, layout, uuid)) => {
                if !self.overwrite {
                    return Err(Failure::SnapshotExists { uuid });
                }
                self.replacement(geometry, layout)
            }
            Inspect::Done(Inspection::InterruptedThenWritten(geometry, layout)) => {
                if !self.overwrite {
                    return Err(Failure::InterruptedThenWritten);
                }
                self.replacement(geometry, layout)
            }
            // What it holds is of no use to anyone: nothing is lost if it is replaced before this
            // save is whole.
            Inspect::Done(Inspection::Interrupted(geometry, layout)) => {
                let (image, layout) = match self.create {
                    Some(image) => (image, self.layout),
                    None => (geometry.into(), Some(layout)),
                };
                Found::Target(Target::NewFile(NewFile { image, layout, way: Way::Link }))
            }
        }))
    }

    /// Records a completion; false if the operation is not this one. `what` is `None` after an error.
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
    use snapshot_image::{Identity, ImageBlock, RamLayout, SnapshotWriter, Step};

    const IDENTITY: Identity = Identity { uuid: [7; 16], created_unix_s: 0 };

    fn config(change: impl FnOnce(&mut SaveConfig)) -> SaveConfig {
        SaveConfig::new(IDENTITY).with(change)
    }

    /// What an interrupted save leaves of a new image.
    fn interrupted() -> Vec<u8> {
        interrupted_in(Layout::Dense)
    }

    fn interrupted_in(layout: Layout) -> Vec<u8> {
        let geometry = Geometry::with_cluster_size(64 << 10).unwrap();
        let block = ImageBlock { name: b"pc.ram".to_vec(), used_length: 1 << 20, host_page_size: None };
        let ram = RamLayout::new(vec![block], 4096).unwrap();
        let steps = match layout {
            Layout::Dense => SnapshotWriter::create(geometry, 1 << 20, IDENTITY).unwrap().1,
            Layout::Linear => SnapshotWriter::create_linear(geometry, &ram, IDENTITY).unwrap().1,
        };
        let mut file = Vec::new();
        for step in steps {
            match step {
                Step::Write { at, bytes } => {
                    let at = usize::try_from(at.0).unwrap();
                    file.resize(file.len().max(at + bytes.len()), 0);
                    file[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                Step::SetLength(length) => file.resize(usize::try_from(length).unwrap(), 0),
                Step::Ballast(_) | Step::Flush => {}
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
        find_by(file, &config(|config| config.overwrite = overwrite))
    }

    fn find_by(file: &[u8], config: &SaveConfig) -> Result<Target, Failure> {
        let mut finder = TargetFinder::new(file.len() as u64, config);
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
    fn what_a_save_left_is_replaced_without_being_asked_for() {
        for overwrite in [false, true] {
            let Ok(Target::NewFile(new)) = find(&interrupted(), overwrite) else { panic!("no new file") };
            assert!(
                matches!(new.image, NewImage::Of(geometry) if geometry.cluster_bytes() == 1 << 16),
                "{new:?}"
            );
            assert_eq!(new.way, Way::Link);
        }
    }

    /// The layout of what is replaced is that of what replaces it, unless another one was asked for.
    #[test]
    fn what_replaces_a_file_has_its_layout() {
        for old in [Layout::Dense, Layout::Linear] {
            let mut file = interrupted_in(old);
            for written_since in [false, true] {
                for (create, layout) in
                    [(None, None), (Some(NewImage::Fitting), None), (None, Some(Layout::Dense))]
                {
                    let config = config(|config| {
                        (config.create, config.layout, config.overwrite) = (create, layout, true);
                    });
                    let Ok(Target::NewFile(new)) = find_by(&file, &config) else { panic!("no new file") };
                    let expected = match (written_since, create) {
                        // Of no use to anyone: it is as if it was not there.
                        (false, Some(_)) => layout,
                        (false, None) => Some(old),
                        (true, _) => Some(layout.unwrap_or(old)),
                    };
                    assert_eq!(new.layout, expected, "{old:?}, {written_since}, {create:?}, {layout:?}");
                }
                // Another program has cleared the bit that it does not know.
                file[88..96].fill(0);
            }
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let error = find(&[0; 8192], true).unwrap_err();
        assert!(matches!(error, Failure::UnfitImage(_)), "{error}");
    }

    #[test]
    fn a_read_that_failed_gives_its_buffer_back() {
        let mut finder = TargetFinder::new(8192, &config(|_| ()));
        let (mut pool, mut ids) = (Pool::default(), Ids::default());
        let Ok(Some(Found::Action(Action::Read { id, .. }))) = finder.poll(&mut pool, &mut ids) else {
            panic!("the header is read first");
        };
        assert!(finder.done(id, None, &mut pool));
        assert_eq!(pool.taken_bytes(), 0);
    }
}
