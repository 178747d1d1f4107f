//! Saves a migration stream into an image.
//!
//! # The states of a save
//!
//! Each has a struct with what belongs to it only, and goes on by itself ([`state`]); what all
//! share is the [`job`].
//!
//! ```text
//! Inspecting -> Creating -> Preamble -> Ram -> Settling -> Reserving -> Claiming
//!                                                                          |
//!            Finished <- Answering <- Replacing <- Sealing <- TakingTail <-'
//!
//! a failure up to Ram:   -> Draining -> Undoing -> Answering -> Finished
//! a failure behind Ram:  -> Undoing -> Answering -> Finished
//! a panic:               -> Dropping -> Undoing -> Answering -> Finished
//! ```
//!
//! 1. [`state::begin`]: what does the image hold? ([`target`]) A new file is created, unless the
//!    image is empty.
//! 2. [`state::ram`]: leader and third region are kept ([`leader`]), pages gather in slabs and go to disk
//!    ([`store`], [`slabs`], [`stage`]). With the block list the layout is known, and the image is
//!    marked "save in progress".
//! 3. [`state::settle`], at the first device section: RAM is complete. The input is not read while every
//!    page is written, the VM state's space is reserved by writing it, and all is made durable. A
//!    full disk shows here at the latest, while the source still has bytes to send, so that it sees
//!    the failure. So does whatever is wrong with the name: a new file gets it now, or it is found
//!    out whether it can replace the old one.
//! 4. [`state::taking_tail`]: device sections, EOF and vmdesc arrive, and are verified when the stream
//!    ends ([`tail`]).
//! 5. [`state::commit`]: tail, root, headers; the commit protocol is the image's. A new file then replaces
//!    the old snapshot, if there is one.
//! 6. SHUT is sent on the return path, if the source opened one; then the job ends.
//!
//! After a failure a live source is drained, and what was begun is taken back ([`state::drain`]).
//!
//! # The way of a page
//!
//! ```text
//! Event::Input            handle: Intake::arrived counts the bytes; they are in the input buffer
//! poll -> next_action     State::advance
//!   Ram::advance          Ram::read
//!     Job::read_records   Decoder::step cuts a record from the buffer; a page becomes a PageUpdate
//!       Store::apply      is it zero? else Slabs::place finds room in a slab or the Stage, and it goes there
//!                         no room: the page is `deferred`, and nothing more is read until a write has ended
//!   State::poll_disk      Slabs::poll: full slabs, and those whose room is needed, become Action::Write
//! Event::Done             State::page_done: the slab's buffer is free again
//! ```

mod config;
mod coverage;
mod intake;
mod job;
mod leader;
mod pile;
mod slabs;
mod stage;
mod state;
mod store;
mod stream;
mod tail;
mod target;

use crate::failure::{Doing, Failure, Unsupported};
use crate::machine::{Action, Completed, Event, IoError, IoId, Machine};
use crate::pool::Pool;
use crate::progress::Progress;
pub use config::{NewImage, SaveConfig, SaveSummary};
use job::Job;
use snapshot_image::ImageError;
use state::begin::{Creating, Inspecting};
use state::drain::Left;
use state::{Advance, Answering, State};
use target::{NewFile, TargetFinder, Way};

/// Saves one migration stream into one image.
#[derive(Debug)]
pub struct SaveMachine {
    job: Job,
    state: State,
}

impl SaveMachine {
    /// A save as `config` says.
    #[must_use]
    pub fn new(config: SaveConfig) -> Self {
        let state = match (config.existing_length_bytes, config.create) {
            (Some(length), _) => State::Inspecting(Inspecting::new(TargetFinder::new(length, &config))),
            (None, Some(image)) => {
                let layout = config.layout;
                State::Creating(Creating::new(NewFile { image, layout, way: Way::Link }))
            }
            (None, None) => return Self::refusing(config, Failure::NoImage),
        };
        Self { job: Job::new(config), state }
    }

    /// A save that has failed already, for an error found before it could begin: drains the source,
    /// so that it does not hurt the guest, and reports `failure`.
    #[must_use]
    pub fn refusing(config: SaveConfig, failure: Failure) -> Self {
        let state = match config.live {
            true => Advance::fail_without(failure).state,
            false => Advance::fail_leaving(failure, Left::Nothing).state,
        };
        Self { job: Job::new(config), state }
    }

    /// How it ended, after [`Action::Finish`].
    ///
    /// # Errors
    ///
    /// Why nothing was saved; before the end [`Failure::Unfinished`].
    pub fn outcome(&self) -> Result<SaveSummary, Failure> {
        let counts = match &self.state {
            State::Finished(result) => result.clone()?,
            other => return Err(other.failure().cloned().unwrap_or(Failure::Unfinished)),
        };
        let page_bytes = u64::from(self.job.decoder.page_size());
        Ok(SaveSummary {
            uuid: self.job.config.identity.uuid,
            stream_bytes: self.job.intake.received_bytes,
            ram_bytes: self.job.pages().1 * page_bytes,
            nonzero_pages: counts.nonzero_pages,
            page_bytes,
            normal_pages: counts.normal_pages,
            layout: counts.layout,
            source_could_not_see: self.job.config.can_answer && !self.job.return_path,
            untouched_blocks: self.job.untouched_blocks(),
        })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let page_bytes = u64::from(self.job.decoder.page_size());
        let (seen, total) = self.job.pages();
        Progress {
            phase: self.state.name(),
            done_bytes: seen * page_bytes,
            total_bytes: total * page_bytes,
            channel_bytes: self.job.intake.received_bytes,
        }
    }

    /// Something went wrong: nothing more is stored.
    fn fail(&mut self, failure: Failure, pool: &mut Pool) {
        self.job.steps.abandon();
        self.state = self.state.take().failed(failure, &self.job, pool);
        // Draining, and reporting, need some memory, too.
        pool.shrink();
    }

    /// Fails, unless how the save ends is decided.
    fn fail_if_undecided(&mut self, failure: Failure, pool: &mut Pool) {
        if !self.state.is_committing(&self.job) {
            self.fail(failure, pool);
        }
    }

    fn tick(&mut self, now_ms: u64, pool: &mut Pool) {
        let answering = matches!(self.state, State::Answering(_));
        let waits = if answering { self.job.unsent_bytes > 0 } else { self.job.intake.is_reading() };
        match self.job.watch.tick(now_ms, waits) {
            Ok(wake) => self.job.actions.extend(wake),
            // How it ended is decided: whether the source reads that changes nothing.
            Err(_) if answering => self.job.unsent_bytes = 0,
            Err(seconds) => self.fail(Failure::Silent { seconds }, pool),
        }
    }

    fn done(&mut self, id: IoId, result: Result<Completed, IoError>, pool: &mut Pool) {
        let well = result.is_ok();
        let (doing, next) = match self.state.take() {
            State::Inspecting(mut state) => {
                state.done(id, result.as_ref().ok().cloned(), pool);
                (Doing::ReadImage, State::Inspecting(state))
            }
            State::Creating(state) if state.id == Some(id) && well => (Doing::CreateFile, state.created()),
            State::Claiming(state) if state.id == id && well => (state.doing(), state.claimed(&self.job)),
            State::Replacing(state) if state.id == id && well => {
                (Doing::Replace, State::Answering(Answering::new(Ok(state.counts), &mut self.job)))
            }
            // The operation is over: it is not waited for.
            State::Claiming(state) if state.id == id => (state.doing(), state.unclaimed()),
            State::Undoing(mut state) => {
                state.done(id, well, &mut self.job, pool);
                (Doing::WriteImage, State::Undoing(state))
            }
            mut other => {
                let doing = match &other {
                    State::Creating(_) => Doing::CreateFile,
                    State::Replacing(_) => Doing::Replace,
                    _ => Doing::WriteImage,
                };
                let is_page = !matches!(other, State::Dropping(_)) && other.page_done(id, pool);
                if !is_page {
                    self.job.steps.done(id, well, pool);
                }
                (doing, other)
            }
        };
        self.state = next;
        match result {
            Err(source) if !matches!(self.state, State::Dropping(_)) => {
                self.fail(Failure::Io { doing, source }, pool);
            }
            _ => {}
        }
    }

    fn next_action(&mut self, pool: &mut Pool) -> Option<Action> {
        loop {
            if let Some(action) = self.job.actions.pop_front() {
                return Some(action);
            }
            if matches!(self.state, State::Finished(_)) {
                return None;
            }
            let Advance { state, result } = self.state.take().advance(&mut self.job, pool);
            self.state = state;
            let disk = |advanced| Ok((advanced, self.state.poll_disk(&mut self.job, pool)?));
            match result.and_then(disk) {
                Ok((_, Some(action))) => return Some(action),
                Ok((true, None)) => {}
                Ok((false, None)) => return self.job.actions.pop_front(),
                Err(failure) => self.fail(failure, pool),
            }
        }
    }
}

impl Machine for SaveMachine {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        match event {
            Event::Tick { now_ms } => self.tick(now_ms, pool),
            Event::Input { bytes } => {
                self.job.watch.heard();
                self.job.intake.arrived(bytes);
            }
            Event::InputEnd => self.job.intake.stopped(),
            Event::InputFailed(source) => {
                self.job.intake.stopped();
                self.fail(Failure::Io { doing: Doing::ReadStream, source }, pool);
            }
            Event::Done { id, result } => {
                self.job.in_flight = self.job.in_flight.saturating_sub(1);
                self.done(id, result, pool);
            }
            Event::Sent { bytes, .. } => {
                self.job.unsent_bytes = self.job.unsent_bytes.saturating_sub(bytes);
            }
            // A source that no longer listens cannot be told; whether it is durable does not depend on it.
            Event::OutputFailed(_) => {
                self.job.unsent_bytes = 0;
                self.job.config.can_answer = false;
            }
            // Only the channels of multifd follow the main one: a preempt channel waits for an answer first.
            Event::AnotherPeer => self.fail_if_undecided(Unsupported::Multifd.into(), pool),
            Event::Answer(_) | Event::AnswerEnd => {}
            Event::Broken => self.state = self.state.take().broken(&mut self.job),
            Event::Interrupted if matches!(self.state, State::Answering(_)) => self.job.unsent_bytes = 0,
            Event::Interrupted => self.fail_if_undecided(Failure::Interrupted, pool),
        }
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        let action = self.next_action(pool);
        self.job.in_flight += usize::from(action.as_ref().is_some_and(|action| action.id().is_some()));
        action
    }
}

fn could_not(error: ImageError) -> Failure {
    Failure::UnfitImage(error)
}
