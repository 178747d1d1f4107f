//! Reverts a guest from an image: writes the migration stream that its destination loads.
//!
//! # The way of a precopy revert
//!
//! 1. *Open*: the image is verified as far as that does not grow with RAM, and the leader is understood.
//! 2. *Leader*, as it was saved.
//! 3. *RAM*, in the order of the block list ([`precopy`]): slices are read ahead through the ring
//!    ([`ring`]), every page is verified before it leaves ([`emit`]).
//! 4. *Close*: the rest of the image's metadata is verified; third region and device tail follow,
//!    and with them the end mark.
//!
//! What the destination has mapped from the image is left out of step 3: [`mapped`].
//!
//! A postcopy revert goes another way behind its leader: [`postcopy`].
//!
//! The first error is sticky: nothing is sent after it, so the destination never sees an end mark.
//! If nothing has been sent yet, one byte that is no stream makes QEMU refuse at once; it would
//! wait without end otherwise.

mod config;
mod emit;
mod leader;
mod mapped;
mod metadata;
mod output;
mod phase;
mod plan;
pub(crate) mod postcopy;
mod precopy;
mod ring;

use crate::failure::{Doing, Failure, MappedError};
use crate::identity::IdentityError;
use crate::machine::{Action, Completed, Event, Header, IoError, IoId, Lane, Machine, Milestone};
use crate::pool::Pool;
use crate::progress::Progress;
pub use config::{RevertConfig, RevertSummary};
use leader::Leader;
pub use mapped::MappedBlock;
use mapped::Sent;
use metadata::{Image, MetadataReads, OpeningImage};
use output::Output;
use phase::{Done, Phase};
use postcopy::Postcopy;
use postcopy::hot_set::HotSet;
use precopy::Precopy;
use snapshot_image::{HostOffset, ImageError, Lookup, Opener, ReadOptions, Verification};

/// Blocks up to this size may be a device's or the firmware's, filled by the destination before it
/// loads: their zero pages are sent even to fresh RAM.
const FIRMWARE_BLOCK_BYTES: u64 = 32 << 20;
/// No migration stream begins with it: QEMU refuses at once.
const NOT_A_STREAM: &[u8] = b"X";

/// How long an interrupted revert waits for the destination to take [`NOT_A_STREAM`].
const REFUSAL_MS: u64 = 1000;

/// Reverts one guest from one image.
#[derive(Debug)]
pub struct RevertMachine {
    config: RevertConfig,
    phase: Phase,
    output: Output,
    /// Operations that the driver has not answered for yet.
    in_flight: usize,
    done: Done,
    hot_set: Option<HotSet>,
    failure: Option<Failure>,
    watch: crate::watch::Watch,
    /// The time that was asked for last.
    alarm: Option<u64>,
    /// When the wait for a destination that was to see a refusal is over.
    gives_up_ms: Option<u64>,
}

impl RevertMachine {
    /// A revert as `config` says.
    #[must_use]
    pub fn new(config: RevertConfig) -> Self {
        let options = ReadOptions { allow_unverified: config.allow_unverified };
        let opening = OpeningImage::new(Opener::new(config.image_length_bytes, options));
        Self {
            watch: crate::watch::Watch::new(config.timeout_ms.or(config.loading_timeout_ms)),
            phase: Phase::Open(Box::new(opening)),
            output: Output::default(),
            in_flight: 0,
            done: Done::default(),
            hot_set: None,
            failure: None,
            alarm: None,
            gives_up_ms: None,
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
    /// Why the destination did not get everything; before the end [`Failure::Unfinished`].
    pub fn outcome(&self) -> Result<RevertSummary, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if !matches!(self.phase, Phase::Finished) {
            return Err(Failure::Unfinished);
        }
        let done = self.phase.so_far(&self.done);
        Ok(RevertSummary {
            uuid: done.uuid,
            verification: done.verification.unwrap_or(Verification::Unverified("the image is not open yet")),
            normal_pages: done.normal_pages,
            zero_pages: done.zero_pages,
            mapped_bytes: done.mapped_bytes,
            sent_bytes: self.output.sent_bytes(),
            postcopy: done.postcopy,
        })
    }

    /// What the guest touched first, if that was to be recorded and it came to run.
    #[must_use]
    pub fn hot_set(&self) -> Option<&HotSet> {
        self.hot_set.as_ref()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let done = self.phase.so_far(&self.done);
        Progress {
            phase: self.phase.name(),
            done_bytes: done.done_bytes,
            total_bytes: done.total_bytes,
            channel_bytes: self.output.sent_bytes(),
        }
    }

    /// Leaves the present phase for one in which nothing new is sent.
    fn drain(&mut self) {
        self.done = self.phase.so_far(&self.done);
        if let Phase::Postcopy(_, postcopy) = &self.phase {
            self.hot_set = postcopy.recorded().cloned();
        }
        let reads = std::mem::replace(&mut self.phase, Phase::Finished).into_reads();
        self.phase = Phase::Drain(reads);
    }

    fn fail(&mut self, failure: Failure) {
        if let Some(first) = &self.failure {
            // A destination that does not take what would make it refuse is not waited for any longer.
            let interrupted = |failure: &Failure| matches!(failure, Failure::Interrupted);
            self.output.gone |= interrupted(&failure) && !interrupted(first) || failure.is_silence();
            return;
        }
        self.output.gone |= failure.is_silence();
        self.failure = Some(failure);
        self.output.take_back();
        if self.output.is_untouched() && !self.output.gone && !self.recovers() {
            self.output.send(Lane::Main, Header::from(NOT_A_STREAM), None);
        }
        self.drain();
        if matches!(self.failure, Some(Failure::Interrupted)) {
            // The clock is asked for the time now.
            self.output.actions.push_back(Action::WakeAt { tick_ms: Some(0) });
        }
    }

    /// A destination that is being recovered knows what to do if nothing comes.
    fn recovers(&self) -> bool {
        self.config.postcopy.as_ref().is_some_and(|postcopy| postcopy.recover.is_some())
    }

    /// Goes on as far as possible without waiting; false when only an event can help.
    fn advance(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        let output = &mut self.output;
        match &mut self.phase {
            Phase::Open(opening) => match opening.opener.poll().map_err(wrong)? {
                Lookup::Need(at, length) => read_metadata(&mut opening.reads, at, length, output, pool),
                Lookup::Ready(reader) => {
                    let reads = std::mem::take(&mut opening.reads);
                    self.begin(Image { reader, clone_tail: None, reads }).map(|()| true)
                }
            },
            Phase::Precopy(image, precopy) => {
                if precopy.advance(self.config.fresh_ram, image, output, pool)? {
                    return Ok(true);
                }
                if !precopy.is_over() || !output.holds_nothing() {
                    return Ok(false);
                }
                if let Phase::Precopy(image, precopy) = std::mem::replace(&mut self.phase, Phase::Finished) {
                    self.phase = Phase::Close(image, precopy);
                }
                Ok(true)
            }
            Phase::Close(image, _) => match image.reader.finish().map_err(wrong)? {
                Lookup::Need(at, length) => read_metadata(&mut image.reads, at, length, output, pool),
                Lookup::Ready(()) => {
                    let snapshot = image.reader.snapshot();
                    output.send(Lane::Main, Header::Long(snapshot.third.clone()), None);
                    output.send(Lane::Main, Header::Long(image.tail().to_vec()), None);
                    self.drain();
                    Ok(true)
                }
            },
            Phase::Postcopy(_, postcopy) if postcopy.is_done() => {
                self.drain();
                Ok(true)
            }
            Phase::Postcopy(image, postcopy) => postcopy.advance(image, output, pool),
            Phase::Drain(_) => {
                let failed = self.failure.is_some();
                // A destination that has seen nothing would wait without end.
                let noticed = self.output.sent_bytes() > 0 || self.output.gone || self.recovers();
                let all_sent = self.output.is_all_sent() || self.output.gone;
                if self.in_flight > 0 || (!failed && !all_sent) || (failed && !noticed) {
                    return Ok(false);
                }
                self.phase = Phase::Finished;
                self.output.actions.push_back(Action::Finish);
                Ok(true)
            }
            Phase::Finished => Ok(false),
        }
    }

    /// Gives a clone the addresses that it is to have.
    fn give_identity(&mut self, leader: &Leader, image: &mut Image) -> Result<(), Failure> {
        let Some(identity) = &self.config.identity else { return Ok(()) };
        if self.recovers() {
            return Err(IdentityError::Recovery.into());
        }
        let (tail, assigned) = leader.clone_tail(image.reader.snapshot(), identity)?;
        image.clone_tail = Some(tail);
        self.output.actions.push_back(Action::Announce(Milestone::Identity { assigned: assigned.into() }));
        Ok(())
    }

    /// The image is open: sends the leader.
    fn begin(&mut self, mut image: Image) -> Result<(), Failure> {
        let leader = Leader::walk(&image.reader, &self.config.stream)?;
        self.give_identity(&leader, &mut image)?;
        if self.config.postcopy.is_some() && !self.config.mapped.is_empty() {
            return Err(MappedError::Postcopy.into());
        }
        self.phase = if let Some(postcopy) = self.config.postcopy.clone() {
            let postcopy = Postcopy::start(postcopy, leader, &image, &mut self.output)?;
            Phase::Postcopy(Box::new(image), Box::new(postcopy))
        } else {
            let sent = Sent::new(&self.config.mapped, &image.reader)?;
            let bytes = image.reader.snapshot().leader.clone();
            self.output.send(Lane::Main, Header::Long(bytes), None);
            Phase::Precopy(Box::new(image), Precopy::new(leader.emitter(), sent))
        };
        Ok(())
    }
}

/// Starts a metadata read; false while one is under way.
fn read_metadata(
    reads: &mut MetadataReads,
    at: HostOffset,
    length: usize,
    output: &mut Output,
    pool: &mut Pool,
) -> Result<bool, Failure> {
    let action = reads.read(at, length, pool)?;
    let started = action.is_some();
    output.actions.extend(action);
    Ok(started)
}

impl Machine for RevertMachine {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        let result = match event {
            Event::Tick { now_ms } => self.tick(now_ms),
            Event::Done { id, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.operation_done(id, result, pool)
            }
            Event::Sent { lane, bytes } => {
                self.watch.heard();
                self.output.sent(lane, bytes, pool);
                Ok(())
            }
            Event::OutputFailed(error) => {
                self.output.gone = true;
                match &self.phase {
                    // It had everything; whether all is well, its SHUT says.
                    Phase::Postcopy(_, postcopy) if postcopy.has_ended() => Ok(()),
                    _ => Err(Failure::PeerClosed { sent: self.output.sent_bytes(), source: error }),
                }
            }
            Event::Interrupted => Err(Failure::Interrupted),
            Event::Broken => {
                // What it was told then is lost, maybe a completion: the driver waits for what is under way.
                self.in_flight = 0;
                Err(Failure::Panicked)
            }
            Event::Answer(bytes) => {
                self.watch.heard();
                let result = match &mut self.phase {
                    Phase::Postcopy(image, postcopy) => postcopy.answer(bytes, image, &mut self.output),
                    _ => Ok(()),
                };
                self.set_alarm();
                result
            }
            Event::AnswerEnd => match &self.phase {
                Phase::Postcopy(image, postcopy) if !postcopy.is_done() => Err(Failure::DestinationGone {
                    running: postcopy.is_running(),
                    recoverable: postcopy.is_recoverable(image),
                }),
                _ => Ok(()),
            },
            Event::AnotherPeer | Event::Input { .. } | Event::InputEnd | Event::InputFailed(_) => Ok(()),
        };
        if let Err(failure) = result {
            self.fail(failure);
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
            if let Some(action) = self.output.actions.pop_front() {
                return Some(action);
            }
            match self.advance(pool) {
                Ok(true) => {}
                // Something may have been prepared on the way to where it could not go on.
                Ok(false) if !self.output.actions.is_empty() => {}
                Ok(false) => return None,
                Err(failure) => self.fail(failure),
            }
        }
    }

    fn tick(&mut self, now_ms: u64) -> Result<(), Failure> {
        if matches!(self.failure, Some(Failure::Interrupted)) {
            // A signal ends the wait for a destination that has seen nothing yet, too, but not at once.
            let until = *self.gives_up_ms.get_or_insert(now_ms.saturating_add(REFUSAL_MS));
            self.output.gone |= now_ms >= until;
            self.output.actions.push_back(Action::WakeAt { tick_ms: Some(until) });
            return Ok(());
        }
        let mut waiting = !self.output.is_all_sent();
        if let Phase::Postcopy(_, postcopy) = &mut self.phase {
            postcopy.tick(now_ms);
            waiting |= postcopy.waits();
        }
        if self.is_watched() {
            self.watch.tick(now_ms, waiting).map_err(|seconds| self.silence(seconds))?;
        }
        self.set_alarm();
        Ok(())
    }

    /// The destination's silence ends the revert.
    fn is_watched(&self) -> bool {
        self.config.timeout_ms.is_some() || !self.guest_runs()
    }

    /// The guest of a postcopy runs: it may be as quiet as it likes.
    fn guest_runs(&self) -> bool {
        matches!(&self.phase, Phase::Postcopy(_, postcopy) if postcopy.is_running())
    }

    fn silence(&self, seconds: u64) -> Failure {
        match self.guest_runs() || self.recovers() {
            true => Failure::Silent { seconds },
            false => Failure::SilentLoading { seconds },
        }
    }

    /// Asks to be told when the next moment comes that counts.
    fn set_alarm(&mut self) {
        let recording = match &self.phase {
            Phase::Postcopy(_, postcopy) => postcopy.recording_ends_ms(),
            _ => None,
        };
        let watch = self.watch.deadline_ms().filter(|_| self.is_watched());
        let alarm = watch.into_iter().chain(recording).min();
        if alarm != self.alarm {
            self.alarm = alarm;
            self.output.actions.push_back(Action::WakeAt { tick_ms: alarm });
        }
    }

    fn operation_done(
        &mut self,
        id: IoId,
        result: Result<Completed, IoError>,
        pool: &mut Pool,
    ) -> Result<(), Failure> {
        let (metadata, pages) = self.phase.done(id, result.is_ok(), pool);
        let Err(source) = result else { return Ok(()) };
        Err(match (metadata, pages) {
            (Some(HostOffset(offset)), _) => Failure::MetadataRead { offset, source },
            (None, Some((block, offset))) => {
                let name = |image: &Image| image.reader.layout().blocks()[block].name.clone();
                let block = self.phase.image().map(name).unwrap_or_default();
                Failure::PageRead { block, offset, source }
            }
            // An earlier failure has ended what it was read for.
            (None, None) => Failure::Io { doing: Doing::ReadImage, source },
        })
    }
}

fn wrong(error: ImageError) -> Failure {
    Failure::WrongImage(error)
}
