//! Understands the stream record by record.

use super::coverage::Coverage;
use super::intake::INPUT_BYTES;
use super::leader::Leader;
use super::store::{Content, PageUpdate, Store};
use super::tail::TAIL_READ_BYTES;
use super::target::Target;
use super::{NewImage, Phase, SaveMachine, could_not};
use crate::failure::{Failure, Region, Unsupported};
use crate::memory;
use crate::pool::{BufferId, Pool};
use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};
use migration_stream::{Command, Record, Step as Decoded};
use snapshot_image::{Geometry, ImageBlock, RamLayout, SnapshotWriter};

/// Memory that verifying a tail takes, for each of its bytes.
const PARSED_VMDESC: usize = 8;

/// What a record that is no page asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// The block list is known.
    Layout,
    /// RAM is in its last section.
    NearTheEnd,
    /// RAM travels on other channels.
    Multifd,
    OpenReturnPath,
    Ping(u32),
    /// RAM is complete.
    Settle,
}

/// Keeps what has to be kept of a record.
fn note(leader: &mut Leader, record: &Record<'_>, raw: &[u8], at: u64) -> Result<Then, Failure> {
    leader.record(record, raw)?;
    Ok(match record {
        Record::RamBlocks(_) => Then::Layout,
        Record::SectionEnd(_) => Then::NearTheEnd,
        Record::RamMultifdFlush => Then::Multifd,
        Record::DeviceTail => Then::Settle,
        // Most of RAM may not come at all: nothing tells when the end is near.
        Record::Configuration(configuration) if configuration.has_capability("x-ignore-shared") => {
            Then::NearTheEnd
        }
        // virtio-mem: what is not plugged never comes.
        Record::EarlyDevices(_) => Then::NearTheEnd,
        Record::Command(command) => match command {
            Command::OpenReturnPath => Then::OpenReturnPath,
            Command::Ping(value) => Then::Ping(*value),
            Command::PostcopyAdvise(_) | Command::SwitchoverStart => Then::Nothing,
            Command::EnableColo => return Err(Unsupported::Colo { offset: at }.into()),
            postcopy => return Err(Unsupported::Postcopy { offset: at, command: postcopy.name() }.into()),
        },
        _ => Then::Nothing,
    })
}

impl SaveMachine {
    /// Understands records until something has to be waited for; false when only an event can help.
    pub(super) fn advance_stream(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        if self.lost {
            return self.drop_all(pool);
        }
        if !self.steps.is_done() || self.intake.is_reading() {
            return Ok(false);
        }
        let Some((input, _)) = self.intake.held() else {
            return self.refill(pool, 1, if self.reads_exactly() { 1 } else { INPUT_BYTES });
        };
        if let (Some(update), Some(store)) = (&self.deferred, &mut self.store) {
            if !store.apply(update, input, pool)? {
                return Ok(false);
            }
            self.deferred = None;
        }
        loop {
            let Some((_, held)) = self.intake.held() else { return Ok(false) };
            let at = self.decoder.offset();
            let (len, record) = match self.decoder.step(&pool.bytes(input)[held.clone()])? {
                Decoded::Record { len, record } => (len, record),
                Decoded::Incomplete { .. } if self.intake.ended => {
                    self.decoder.finish(&pool.bytes(input)[held])?;
                    return Err(Unsupported::NoDevices.into());
                }
                Decoded::Incomplete { needed } => {
                    self.limit_writer();
                    let most =
                        if self.reads_exactly() { needed - held.len() } else { needed.max(INPUT_BYTES) };
                    return self.refill(pool, needed, most);
                }
            };
            let update = match record {
                Record::Page(page) => PageUpdate::new(&page, held.start + len, at),
                other => {
                    let raw = &pool.bytes(input)[held.start..held.start + len];
                    let then = note(&mut self.leader, &other, raw, at);
                    // Also a record that is refused has been understood: draining goes on behind it.
                    self.intake.consume(len);
                    self.carry_out(then?, at)?;
                    return Ok(true);
                }
            };
            self.intake.consume(len);
            if !self.take_page(update, input, pool)? {
                return Ok(true);
            }
        }
    }

    /// Asks for more input.
    pub(super) fn refill(&mut self, pool: &mut Pool, needed: usize, most: usize) -> Result<bool, Failure> {
        let refilled = match self.intake.refill(pool, needed, most) {
            // Not even to drain the source: there is nothing left to be done for it.
            Err(_) if self.failure.is_some() => {
                self.ending = true;
                return Ok(true);
            }
            refilled => refilled?,
        };
        let action = refilled.ok_or(Unsupported::TooLarge {
            region: Region::Record,
            limit_bytes: super::intake::RECORD_LIMIT_BYTES as u64,
        })?;
        self.actions.push_back(action);
        Ok(false)
    }

    /// Stores a page; false if it has to wait.
    fn take_page(&mut self, update: PageUpdate, input: BufferId, pool: &mut Pool) -> Result<bool, Failure> {
        if let Some((coverage, layout)) = &mut self.coverage {
            let page = layout.page(layout.guest(update.block, update.offset));
            coverage.insert(update.block, page)?;
        }
        if self.failure.is_some() {
            return Ok(true);
        }
        let Some(store) = &mut self.store else { return Ok(true) };
        store.normal_pages += u64::from(update.content != Content::Zero);
        let stored = store.apply(&update, input, pool)?;
        if !stored {
            self.deferred = Some(update);
        }
        Ok(stored)
    }

    fn hold_writer(&mut self) {
        if self.config.live {
            self.actions.extend(self.pile.hold());
        }
    }

    /// Reads no further than to the end of the next record: the save fails at the first device section, or may, and nothing
    /// of what follows may have been taken then. What QEMU has left for its end must not fit into the pipe. Before the block
    /// list no one knows how much will come.
    fn reads_exactly(&self) -> bool {
        let may_fail = self.failure.is_some() || self.ignores_shared();
        self.config.live && (self.coverage.is_none() || self.pile.is_at_its_least() && may_fail)
    }

    fn ignores_shared(&self) -> bool {
        self.decoder.configuration().is_some_and(|c| c.has_capability("x-ignore-shared"))
    }

    /// The writer may be so far ahead of us as the end is still away.
    fn limit_writer(&mut self) {
        let ahead = self.coverage.as_ref().and_then(|(coverage, _)| coverage.pages_ahead());
        if let Some(ahead) = ahead.filter(|_| self.config.live) {
            self.actions.extend(self.pile.before(ahead));
        }
    }

    fn carry_out(&mut self, then: Then, at: u64) -> Result<(), Failure> {
        match then {
            Then::Nothing => {}
            Then::Layout => return self.lay_out(),
            Then::NearTheEnd => self.hold_writer(),
            Then::Multifd => return Err(Unsupported::Multifd.into()),
            Then::OpenReturnPath => self.return_path = true,
            Then::Ping(value) => {
                if self.return_path && self.config.can_answer {
                    let mut bytes = Vec::new();
                    put_return_path_message(&mut bytes, &ReturnPathMessage::Pong(value));
                    self.send(&bytes);
                }
            }
            Then::Settle => {
                if self.failure.is_some() {
                    self.ending = true;
                    return Ok(());
                }
                self.tail.offset = at;
                self.phase = Phase::Settle { reserving: false };
                self.check_ram_is_here()?;
                if let Some(store) = &mut self.store {
                    store.flush();
                }
            }
        }
        Ok(())
    }

    /// The block list is known: where every page goes, and whether the image is large enough.
    fn lay_out(&mut self) -> Result<(), Failure> {
        let blocks = self.decoder.blocks().iter().map(|block| ImageBlock {
            name: block.idstr.clone(),
            used_length: block.used_length,
            host_page_size: block.host_page_size,
        });
        let layout = RamLayout::new(blocks.collect(), self.decoder.page_size().bytes()).map_err(could_not);
        if layout.is_err() {
            // Without a layout no one knows when the end is near.
            self.hold_writer();
        }
        let layout = layout?;
        self.coverage = Some((Coverage::new(&layout)?, layout.clone()));
        if self.failure.is_some() {
            return Ok(());
        }
        let (ram_bytes, identity) = (layout.total_bytes(), self.config.identity);
        let (writer, steps) = match self.target.take() {
            Some(Target::InPlace(container)) => SnapshotWriter::reuse(container, ram_bytes, identity),
            Some(Target::NewFile(new)) => {
                let geometry = match new.image {
                    NewImage::Of(geometry) => geometry,
                    NewImage::Fitting => Geometry::fitting(ram_bytes),
                };
                SnapshotWriter::create(geometry, ram_bytes, identity)
            }
            None => return Ok(()),
        }
        .map_err(could_not)?;
        self.steps.start(steps);
        self.store = Some(Store::new(writer, layout, self.config.memory_bytes));
        Ok(())
    }

    /// RAM that travels elsewhere must not be stored as zeros.
    fn check_ram_is_here(&self) -> Result<(), Failure> {
        let (Some((coverage, _)), Some(store)) = (&self.coverage, &self.store) else { return Ok(()) };
        // First: a machine all of whose RAM is shared sends none either.
        if let Some(block) = coverage.untouched_block().filter(|_| self.ignores_shared()) {
            return Err(
                Unsupported::IgnoreShared { block: self.decoder.blocks()[block].idstr.clone() }.into()
            );
        }
        // Multifd of QEMU before 8.1 sends zero pages here, and later ones say FLUSH.
        if coverage.seen_pages() == 0 {
            return Err(Unsupported::Cpr.into());
        }
        if store.normal_pages == 0 && coverage.missing_pages() > 0 {
            return Err(Unsupported::Multifd.into());
        }
        Ok(())
    }

    /// Takes in the device tail, and verifies it when it has ended.
    pub(super) fn advance_tail(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        if !self.steps.is_done() || self.intake.is_reading() {
            return Ok(false);
        }
        if let Some((input, held)) = self.intake.held() {
            self.tail.push(&pool.bytes(input)[held.clone()])?;
            self.intake.consume(held.len());
        }
        if self.intake.ended || (self.return_path && self.tail.looks_whole()) {
            // The vmdesc as a tree takes about so many times its length.
            memory::probe(self.tail.bytes.len() * PARSED_VMDESC, "the vmdesc")?;
            self.tail.verify(&self.decoder)?;
            memory::probe(self.tail.bytes.len() * 2, "the device sections on their way to the image")?;
            if let Some(reserved) = self.reserved.take() {
                let (sealed, steps) = reserved.seal(&self.tail.bytes).map_err(could_not)?;
                self.sealed = Some(sealed);
                self.steps.start(steps);
            }
            self.begin_seal();
            return Ok(true);
        }
        if let (Some(capacity), Some(reserved)) = (self.tail.missing_capacity(), &mut self.reserved) {
            memory::probe(usize::try_from(capacity).unwrap_or(usize::MAX), "room for the device sections")?;
            self.tail.capacity = capacity;
            self.steps.start(reserved.grow_tail(capacity).map_err(could_not)?);
            return Ok(true);
        }
        self.refill(pool, 1, TAIL_READ_BYTES)
    }
}
