//! The states in which the stream is read: up to the block list, and RAM behind it.

use super::Advance;
use super::State;
use super::settle::Settling;
use crate::failure::{Failure, Unsupported};
use crate::ids::Ids;
use crate::machine::{Action, IoId};
use crate::pool::Pool;
use crate::save::config::NewImage;
use crate::save::could_not;
use crate::save::job::Job;
use crate::save::store::{Content, PageUpdate, Store};
use crate::save::stream::Read;
use crate::save::target::{Target, Way};
use migration_stream::{Error, ErrorKind};
use snapshot_image::{Geometry, Layout, RamLayout, SnapshotWriter};

/// Header, configuration, early devices and START sections are read, up to the block list.
#[derive(Debug)]
pub(in crate::save) struct Preamble {
    target: Target,
}

impl Preamble {
    pub(in crate::save) fn new(target: Target) -> Self {
        Self { target }
    }

    pub(in crate::save) fn advance(self, job: &mut Job, pool: &mut Pool) -> Advance {
        let page = |update: PageUpdate, _, _: &mut Pool| {
            // The decoder has refused it.
            let kind = ErrorKind::PageBeforeBlocks;
            Err(Error { offset: update.at, path: "page record".to_owned(), kind }.into())
        };
        match job.read_records(pool, false, page) {
            Ok(Read::Wait | Read::NoMemory) => Advance::wait(State::Preamble(self)),
            Ok(Read::On) => Advance::on(State::Preamble(self)),
            Ok(Read::Blocks(layout)) => self.lay_out(layout, job),
            // The decoder takes no device section for one before RAM has ended, and no RAM for one
            // without blocks.
            Ok(Read::DeviceSections { .. }) => {
                Advance::fail(State::Preamble(self), Unsupported::NoRam.into())
            }
            Err(failure) => Advance::fail(State::Preamble(self), failure),
        }
    }

    /// The block list is known: where every page goes, and whether the image is large enough.
    fn lay_out(self, layout: RamLayout, job: &mut Job) -> Advance {
        let (ram_bytes, identity) = (layout.total_bytes(), job.config.identity);
        let (way, written) = match self.target {
            Target::InPlace(container) => {
                (Way::InPlace, SnapshotWriter::reuse(container, ram_bytes, identity))
            }
            Target::NewFile(new) => {
                let geometry = match new.image {
                    NewImage::Of(geometry) => geometry,
                    NewImage::Fitting => Geometry::fitting(ram_bytes),
                };
                let written = match new.layout.unwrap_or_default() {
                    Layout::Dense => SnapshotWriter::create(geometry, ram_bytes, identity),
                    Layout::Linear => SnapshotWriter::create_linear(geometry, &layout, identity),
                };
                (new.way, written)
            }
        };
        match written {
            Ok((writer, steps)) => {
                job.steps.start(steps);
                let store = Box::new(Store::new(writer, layout, job.config.memory_bytes));
                Advance::on(State::Ram(Ram { store, way, deferred: None }))
            }
            Err(error) => Advance::fail_without(could_not(error)),
        }
    }
}

/// Pages are stored as they arrive.
#[derive(Debug)]
pub(in crate::save) struct Ram {
    store: Box<Store>,
    way: Way,
    /// The last page that was read waits for room.
    deferred: Option<PageUpdate>,
}

impl Ram {
    pub(in crate::save) fn advance(mut self, job: &mut Job, pool: &mut Pool) -> Advance {
        match self.read(job, pool) {
            Ok(Read::Wait | Read::NoMemory) => Advance::wait(State::Ram(self)),
            Ok(Read::On | Read::Blocks(_)) => Advance::on(State::Ram(self)),
            Ok(Read::DeviceSections { at }) => {
                if let Err(failure) = self.check_ram_is_here(job) {
                    return Advance::fail(State::Settling(Settling::new(self.store, self.way, at)), failure);
                }
                self.store.flush();
                Advance::on(State::Settling(Settling::new(self.store, self.way, at)))
            }
            Err(failure) => Advance::fail(State::Ram(self), failure),
        }
    }

    fn read(&mut self, job: &mut Job, pool: &mut Pool) -> Result<Read, Failure> {
        let Self { store, deferred, .. } = self;
        if let (Some(update), Some(input)) = (&*deferred, job.readable()) {
            if !store.apply(update, input, pool)? {
                return Ok(Read::Wait);
            }
            *deferred = None;
        }
        job.read_records(pool, false, |update, input, pool| {
            store.normal_pages += u64::from(update.content != Content::Zero);
            let stored = store.apply(&update, input, pool)?;
            if !stored {
                *deferred = Some(update);
            }
            Ok(stored)
        })
    }

    /// RAM that travels elsewhere must not be stored as zeros.
    fn check_ram_is_here(&self, job: &Job) -> Result<(), Failure> {
        let Some((coverage, _)) = &job.coverage else { return Err(Unsupported::NoRam.into()) };
        // First: a machine all of whose RAM is shared sends none either.
        if let Some(block) = coverage.untouched_block().filter(|_| job.ignores_shared()) {
            return Err(Unsupported::IgnoreShared { block: job.decoder.blocks()[block].idstr.clone() }.into());
        }
        // Multifd of QEMU before 8.1 sends zero pages here, and later ones say FLUSH.
        if coverage.seen_pages() == 0 {
            return Err(Unsupported::Cpr.into());
        }
        if self.store.normal_pages == 0 && coverage.missing_pages() > 0 {
            return Err(Unsupported::Multifd.into());
        }
        Ok(())
    }

    pub(in crate::save) fn poll(
        &mut self,
        pool: &mut Pool,
        ids: &mut Ids,
    ) -> Result<Option<Action>, Failure> {
        self.store.poll(pool, ids)
    }

    /// A completion, good or bad; false if the operation is no page's.
    pub(in crate::save) fn done(&mut self, id: IoId, pool: &mut Pool) -> bool {
        self.store.done(id, pool)
    }

    pub(in crate::save) fn into_store(self) -> Box<Store> {
        self.store
    }
}
