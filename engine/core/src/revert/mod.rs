//! Reverts a guest from an image: writes the migration stream that its destination loads.
//!
//! # The way of a precopy revert
//!
//! 1. *Open*: the image is verified as far as that does not grow with RAM, and the leader is understood.
//! 2. *Leader*, as it was saved.
//! 3. *RAM*, in the order of the block list: slices are read ahead through the ring ([`ring`]), every page is verified
//!    before it leaves ([`emit`]).
//! 4. *Close*: the rest of the image's metadata is verified; third region and device tail follow, and with them the
//!    end mark.
//!
//! The first error is sticky: nothing is sent after it, so the destination never sees an end mark. If nothing has been
//! sent yet, one byte that is no stream makes QEMU refuse at once; it would wait for ever otherwise (ms 17).

mod emit;
mod metadata;
mod plan;
mod ring;

use crate::failure::{Class, Failure};
use crate::ids::Ids;
use crate::machine::{Action, Body, Completed, Event, Header, IoError, IoId, Machine};
use crate::pool::Pool;
use crate::save::Progress;
use emit::Emitter;
use metadata::MetadataReads;
use migration_stream::{Decoder, Record, SectionId, Step as Decoded};
use plan::{Plan, Planned};
use ring::Ring;
use snapshot_image::{HostOffset, ImageError, Open, ReadOptions, SnapshotReader, Verification};
use std::collections::VecDeque;

/// Slices are read ahead while they hold less than this.
const READ_AHEAD_BYTES: usize = 16 << 20;
/// And while they are fewer than this: runs of zero pages hold nothing.
const READ_AHEAD_SLICES: usize = 64;
/// Output is handed out while less than this has not left: more would only wait in the driver.
const UNSENT_BYTES: u64 = 2 << 20;
/// Blocks up to this size may be a device's or the firmware's, filled by the destination before it loads: their zero
/// pages are sent even to fresh RAM.
const FIRMWARE_BLOCK_BYTES: u64 = 32 << 20;
/// No migration stream begins with it: QEMU refuses at once.
const NOT_A_STREAM: &[u8] = b"X";

/// What a revert is told from outside.
#[derive(Debug, Clone)]
pub struct RevertConfig {
    /// Length in bytes of the image file.
    pub image_length_bytes: u64,
    /// Limits for what the leader holds.
    pub stream: migration_stream::Options,
    /// Go on without checksums, or against them being gone.
    pub allow_unverified: bool,
    /// The destination's RAM is private and new: zero pages need not be sent.
    pub fresh_ram: bool,
    /// The longest wait for the destination, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevertSummary {
    /// UUID of the snapshot, where it has one.
    pub uuid: Option<[u8; 16]>,
    /// Whether the image was verified.
    pub verification: Verification,
    /// Pages sent with their content.
    pub normal_pages: u64,
    /// Pages sent as zero.
    pub zero_pages: u64,
    /// Bytes of output.
    pub sent_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Ram,
    Close,
    /// Everything has been handed out.
    Drain,
    Finished,
}

/// Reverts one guest from one image.
#[derive(Debug)]
pub struct RevertMachine {
    config: RevertConfig,
    phase: Phase,
    reader: SnapshotReader,
    metadata: MetadataReads,
    plan: Plan,
    planned_all: bool,
    ring: Ring,
    emitter: Option<Emitter>,
    ids: Ids,
    actions: VecDeque<Action>,
    /// Operations that the driver has not answered for yet.
    in_flight: usize,
    /// Output that the driver has.
    handed_out_bytes: u64,
    sent_bytes: u64,
    output_gone: bool,
    done_pages: u64,
    failure: Option<Failure>,
    watch: crate::watch::Watch,
}

impl RevertMachine {
    /// A revert as `config` says.
    #[must_use]
    pub fn new(config: RevertConfig) -> Self {
        let options = ReadOptions { allow_unverified: config.allow_unverified };
        Self {
            reader: SnapshotReader::new(config.image_length_bytes, options),
            watch: crate::watch::Watch::new(config.timeout_ms),
            phase: Phase::Open,
            metadata: MetadataReads::default(),
            plan: Plan::default(),
            planned_all: false,
            ring: Ring::default(),
            emitter: None,
            ids: Ids::default(),
            actions: VecDeque::new(),
            in_flight: 0,
            handed_out_bytes: 0,
            sent_bytes: 0,
            output_gone: false,
            done_pages: 0,
            failure: None,
            config,
        }
    }

    /// A revert that has failed already: makes the destination refuse at once, and reports `failure`.
    #[must_use]
    pub fn refusing(config: RevertConfig, failure: Failure) -> Self {
        let mut machine = Self::new(config);
        machine.fail(failure);
        machine
    }

    /// How it ended, after [`Action::Finish`].
    ///
    /// # Errors
    ///
    /// Why the destination did not get everything.
    pub fn outcome(&self) -> Result<RevertSummary, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let (normal_pages, zero_pages) = self.emitter.as_ref().map_or((0, 0), Emitter::counts);
        Ok(RevertSummary {
            uuid: self.reader.snapshot().uuid,
            verification: self.reader.snapshot().verification.clone(),
            normal_pages,
            zero_pages,
            sent_bytes: self.sent_bytes,
        })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        if self.emitter.is_none() {
            return Progress::default();
        }
        let layout = self.reader.layout();
        let page_bytes = u64::from(layout.page_size());
        Progress {
            done_bytes: self.done_pages * page_bytes,
            total_bytes: layout.blocks().iter().map(|block| block.used_length).sum(),
            channel_bytes: self.sent_bytes,
        }
    }

    fn fail(&mut self, failure: Failure) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(failure);
        for action in self.actions.drain(..) {
            if let Action::Send { header, body } = action {
                self.handed_out_bytes -= output_bytes(&header, body.as_ref());
            }
        }
        if self.handed_out_bytes == 0 && !self.output_gone {
            self.send(Header::from(NOT_A_STREAM), None);
        }
        self.phase = Phase::Drain;
    }

    fn send(&mut self, header: Header, body: Option<Body>) {
        self.handed_out_bytes +=
            (header.bytes().len() + body.as_ref().map_or(0, |body| body.range.len())) as u64;
        self.actions.push_back(Action::Send { header, body });
    }

    /// Goes on as far as possible without waiting; false when only an event can help.
    fn advance(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        match self.phase {
            Phase::Open => match self.reader.poll().map_err(wrong)? {
                Open::Need(at, length) => Ok(self.read_metadata(at, length, pool)),
                Open::Ready => self.send_leader().map(|()| true),
            },
            Phase::Ram => self.advance_ram(pool),
            Phase::Close => match self.reader.finish().map_err(wrong)? {
                Open::Need(at, length) => Ok(self.read_metadata(at, length, pool)),
                Open::Ready => {
                    let snapshot = self.reader.snapshot();
                    let (third, tail) = (snapshot.third.clone(), snapshot.tail.clone());
                    self.send(Header::Long(third), None);
                    self.send(Header::Long(tail), None);
                    self.phase = Phase::Drain;
                    Ok(true)
                }
            },
            Phase::Drain => {
                let failed = self.failure.is_some();
                let all_sent = self.sent_bytes == self.handed_out_bytes;
                // A destination that has seen nothing would wait for ever.
                let noticed = self.sent_bytes > 0 || self.output_gone;
                if self.in_flight > 0 || (!failed && !all_sent) || (failed && !noticed) {
                    return Ok(false);
                }
                self.phase = Phase::Finished;
                self.actions.push_back(Action::Finish);
                Ok(true)
            }
            Phase::Finished => Ok(false),
        }
    }

    /// Starts a metadata read; false while one is under way.
    fn read_metadata(&mut self, at: HostOffset, length: usize, pool: &mut Pool) -> bool {
        match self.metadata.start(at, length, pool, &mut self.ids) {
            Some(action) => {
                self.actions.push_back(action);
                true
            }
            None => false,
        }
    }

    /// Understands the leader and sends it.
    fn send_leader(&mut self) -> Result<(), Failure> {
        let snapshot = self.reader.snapshot();
        let leader = snapshot.leader.clone();
        let mut options = self.config.stream.clone();
        options.page_size = Some(self.reader.layout().page_size());
        let mut decoder = Decoder::new(options);
        let mut rest = &leader[..];
        let mut ram = None;
        while !rest.is_empty() {
            match decoder.step(rest)? {
                Decoded::Record { len, record } => {
                    if let Record::SectionStart(header) = record
                        && header.idstr == crate::save::RAM_IDSTR
                    {
                        ram = Some(header.section_id);
                    }
                    rest = &rest[len..];
                }
                // Without footers the last section may leave the decoder waiting for one.
                Decoded::Incomplete { .. } => break,
            }
        }
        let footers = decoder.has_footers().unwrap_or(false);
        self.emitter =
            Some(Emitter::new(ram.unwrap_or(SectionId(0)), footers, self.reader.layout().page_size()));
        self.send(Header::Long(leader), None);
        self.phase = Phase::Ram;
        Ok(())
    }

    /// Reads ahead, and hands out the next slice if it is there and the channel can take it.
    fn advance_ram(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        let mut advanced = false;
        if !self.planned_all
            && self.ring.held_bytes() < READ_AHEAD_BYTES
            && self.ring.len() < READ_AHEAD_SLICES
        {
            match self.plan.next(&mut self.reader, pool, &mut self.ids).map_err(wrong)? {
                Planned::Slice(slice, read, buffer_bytes) => {
                    let (id, action) = read.unzip();
                    self.ring.push(slice, id, buffer_bytes);
                    self.actions.extend(action);
                    advanced = true;
                }
                Planned::Need(at, length) => advanced = self.read_metadata(at, length, pool),
                Planned::End => self.planned_all = true,
            }
        }
        if self.handed_out_bytes - self.sent_bytes < UNSENT_BYTES
            && let Some(slice) = self.ring.pop_ready()
        {
            self.emit(slice, pool)?;
            advanced = true;
        }
        if self.planned_all && self.ring.is_empty() {
            self.phase = Phase::Close;
            advanced = true;
        }
        Ok(advanced)
    }
}

impl Machine for RevertMachine {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        match event {
            Event::Tick { now_ms } => {
                match self.watch.tick(now_ms, self.sent_bytes < self.handed_out_bytes) {
                    Ok(wake) => self.actions.extend(wake),
                    Err(failure) => self.fail(failure),
                }
            }
            Event::Done { id, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.done(id, result, pool);
            }
            Event::Sent { bytes } => {
                self.sent_bytes += bytes;
                self.watch.heard();
                self.ring.sent(self.sent_bytes, pool);
            }
            Event::OutputFailed(error) => {
                self.output_gone = true;
                self.fail(Failure::PeerClosed { sent: self.sent_bytes, error });
            }
            Event::Interrupted => self.fail(Failure::Interrupted),
            Event::AnotherPeer
            | Event::Input { .. }
            | Event::InputEnd
            | Event::InputFailed(_)
            | Event::Answer(_)
            | Event::AnswerEnd => {}
        }
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        let action = self.next_action(pool);
        self.in_flight += usize::from(action.as_ref().is_some_and(|action| action.id().is_some()));
        action
    }
}

impl RevertMachine {
    fn next_action(&mut self, pool: &mut Pool) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            match self.advance(pool) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(failure) => self.fail(failure),
            }
        }
    }

    fn done(&mut self, id: IoId, result: Result<Completed, IoError>, pool: &mut Pool) {
        if !self.metadata.done(id, result.is_ok(), &mut self.reader, pool) {
            self.ring.done(id);
        }
        if let Err(error) = result {
            self.fail(Failure::Io { doing: "read the image", error });
        }
    }
}

fn output_bytes(header: &Header, body: Option<&Body>) -> u64 {
    (header.bytes().len() + body.map_or(0, |body| body.range.len())) as u64
}

fn wrong(error: ImageError) -> Failure {
    Failure::Image { error, class: Class::InputWrong }
}
