//! Understands the stream record by record.

use super::could_not;
use super::coverage::Coverage;
use super::intake::INPUT_BYTES;
use super::job::Job;
use super::leader::Leader;
use super::store::PageUpdate;
use crate::failure::{Failure, Unsupported};
use crate::pool::{BufferId, Pool};
use migration_stream::return_path::ReturnPathMessage;
use migration_stream::{Command, Record, Step as Decoded};
use snapshot_image::{ImageBlock, RamLayout};

/// What came of reading.
#[derive(Debug)]
pub(super) enum Read {
    /// Only an event can help.
    Wait,
    /// There may be more.
    On,
    /// The block list is known, and with it the layout.
    Blocks(RamLayout),
    /// RAM is complete: the first device section is at this offset of the stream.
    DeviceSections { at: u64 },
    /// There is no memory for more, not even to drain the source.
    NoMemory,
}

/// What follows from a record that is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FollowUp {
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
fn keep(leader: &mut Leader, record: &Record<'_>, raw: &[u8], at: u64) -> Result<FollowUp, Failure> {
    leader.record(record, raw)?;
    Ok(match record {
        Record::RamBlocks(_) => FollowUp::Layout,
        Record::SectionEnd(_) => FollowUp::NearTheEnd,
        Record::RamMultifdFlush => FollowUp::Multifd,
        Record::DeviceTail => FollowUp::Settle,
        // Most of RAM may not come at all: nothing shows when the end is near.
        Record::Configuration(configuration) if configuration.has_capability("x-ignore-shared") => {
            FollowUp::NearTheEnd
        }
        // virtio-mem: what is not plugged never comes.
        Record::EarlyDevices(_) => FollowUp::NearTheEnd,
        Record::Command(command) => match command {
            Command::OpenReturnPath => FollowUp::OpenReturnPath,
            Command::Ping(value) => FollowUp::Ping(*value),
            Command::PostcopyAdvise(_) | Command::SwitchoverStart => FollowUp::Nothing,
            Command::EnableColo => return Err(Unsupported::Colo { offset: at }.into()),
            postcopy => return Err(Unsupported::Postcopy { offset: at, command: postcopy.name() }.into()),
        },
        _ => FollowUp::Nothing,
    })
}

impl Job {
    /// The buffer with the next bytes of the stream, if they can be understood now.
    pub(super) fn readable(&self) -> Option<BufferId> {
        if !self.steps.is_done() || self.intake.is_reading() {
            return None;
        }
        self.intake.held().map(|(input, _)| input)
    }

    /// Understands records until something has to be waited for. `page` stores a page, or returns
    /// false if that has to wait; the save has `failed` if the source is only drained.
    pub(super) fn read_records(
        &mut self,
        pool: &mut Pool,
        failed: bool,
        mut page: impl FnMut(PageUpdate, BufferId, &mut Pool) -> Result<bool, Failure>,
    ) -> Result<Read, Failure> {
        if !self.steps.is_done() || self.intake.is_reading() {
            return Ok(Read::Wait);
        }
        loop {
            let Some((input, held)) = self.intake.held() else {
                return self.more(pool, 1, if self.reads_exactly(failed) { 1 } else { INPUT_BYTES }, failed);
            };
            let at = self.decoder.offset();
            let (len, record) = match self.decoder.step(&pool.bytes(input)[held.clone()])? {
                Decoded::Record { len, record } => (len, record),
                Decoded::Incomplete { .. } if self.intake.ended => {
                    self.decoder.finish(&pool.bytes(input)[held])?;
                    return Err(Unsupported::NoDevices.into());
                }
                Decoded::Incomplete { needed } => {
                    self.limit_writer();
                    let exactly = self.reads_exactly(failed);
                    let most = if exactly { needed - held.len() } else { needed.max(INPUT_BYTES) };
                    return self.more(pool, needed, most, failed);
                }
            };
            let update = match record {
                Record::Page(page) => PageUpdate::new(&page, held.start + len, at),
                other => {
                    let raw = &pool.bytes(input)[held.start..held.start + len];
                    let then = keep(&mut self.leader, &other, raw, at);
                    // Also a record that is refused has been understood: draining goes on behind it.
                    self.intake.consume(len);
                    return self.follow_up(then?, at);
                }
            };
            self.intake.consume(len);
            if let Some((coverage, layout)) = &mut self.coverage {
                let page = layout.page(layout.guest(update.block, update.offset));
                coverage.insert(update.block, page)?;
            }
            if !page(update, input, pool)? {
                return Ok(Read::On);
            }
        }
    }

    fn more(&mut self, pool: &mut Pool, needed: usize, most: usize, failed: bool) -> Result<Read, Failure> {
        match self.refill(pool, needed, most) {
            Err(Failure::OutOfMemory(_)) if failed => Ok(Read::NoMemory),
            refilled => refilled.map(|()| Read::Wait),
        }
    }

    /// Reads no further than to the end of the next record: the save fails at the first device
    /// section, or may, and nothing of what follows may have been taken then. What QEMU has left
    /// for its end must not fit into the pipe. Before the block list no one knows how much will
    /// arrive.
    fn reads_exactly(&self, failed: bool) -> bool {
        let may_fail = failed || self.ignores_shared();
        self.config.live && (self.coverage.is_none() || self.pile.is_at_its_least() && may_fail)
    }

    fn follow_up(&mut self, then: FollowUp, at: u64) -> Result<Read, Failure> {
        match then {
            FollowUp::Nothing => {}
            FollowUp::Layout => return self.lay_out().map(Read::Blocks),
            FollowUp::NearTheEnd => self.hold_writer(),
            FollowUp::Multifd => return Err(Unsupported::Multifd.into()),
            FollowUp::OpenReturnPath => self.return_path = true,
            FollowUp::Ping(value) => self.tell(&ReturnPathMessage::Pong(value)),
            FollowUp::Settle => return Ok(Read::DeviceSections { at }),
        }
        Ok(Read::On)
    }

    /// The block list is known: where every page goes.
    fn lay_out(&mut self) -> Result<RamLayout, Failure> {
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
        Ok(layout)
    }
}
