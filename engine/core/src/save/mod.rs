//! Saves a migration stream into an image.
//!
//! # The way of a save
//!
//! 1. *Inspect*: what does the image hold? ([`target`])
//! 2. *Stream*: leader and third region are kept ([`leader`]), pages gather in slabs and go to disk ([`store`],
//!    [`slabs`], [`stage`]). With the block list the layout is known, and the image is marked "save in progress".
//! 3. *Settle*, at the first device section: RAM is complete. The input stands still while every page is written, the
//!    VM state's space is reserved by writing it, and all is made durable. A full disk shows here at the latest, while
//!    the source still has bytes to send, so that it sees the failure. So does whatever is wrong with the name: a
//!    new file gets it now ([`commit`]), or it is found out whether it can replace the old one.
//! 4. *Tail*: device sections, EOF and vmdesc are taken in, and verified when the stream ends.
//! 5. *Seal*: tail, root, headers; the commit protocol is the image's. A new file then replaces the old snapshot, if there
//!    is one.
//! 6. *Answer*: SHUT on the return path, if the source opened one; then the end.
//!
//! # After an error
//!
//! QEMU never looks at an exit status, and 7.2 freezes the guest if the reader dies in the middle of a background
//! snapshot. So a live stream is *drained*: understood and dropped up to the first device section, where the end of
//! this machine makes the source's migration fail and does not hurt its guest.

mod broken;
mod commit;
mod coverage;
mod intake;
mod leader;
mod pile;
mod slabs;
mod stage;
mod store;
mod stream;
mod tail;
mod target;

use crate::failure::{Doing, Failure, Unsupported};
use crate::ids::Ids;
use crate::machine::{Action, Completed, Event, Header, IoError, IoId, Lane, Machine};
use crate::memory;
use crate::pool::Pool;
use crate::steps::StepRunner;
use crate::watch::Watch;
use commit::Left;
use coverage::Coverage;
use intake::Intake;
use leader::Leader;
pub(crate) use leader::RAM_IDSTR;
use migration_stream::Decoder;
use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};
use pile::Pile;
use snapshot_image::{Geometry, Identity, ImageError, RamLayout, Reserved, Sealed};
use std::collections::VecDeque;
use store::{PageUpdate, Store};
use tail::Tail;
use target::{Found, NewFile, Target, TargetFinder, Way};

/// How an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewImage {
    /// Like this.
    Of(Geometry),
    /// As it is best for the RAM that comes ([`Geometry::fitting`]).
    Fitting,
}

impl From<Geometry> for NewImage {
    fn from(geometry: Geometry) -> Self {
        Self::Of(geometry)
    }
}

/// What a save is told from outside.
#[derive(Debug, Clone)]
pub struct SaveConfig {
    /// Page size and limits.
    pub stream: migration_stream::Options,
    /// The stream may end after EOF (`suppress-vmdesc=on`).
    pub no_vmdesc: bool,
    /// Length in bytes of the image file, if there is one.
    pub existing_length_bytes: Option<u64>,
    /// How to create an image where there is none.
    pub create: Option<NewImage>,
    /// A snapshot in the image may be replaced.
    pub overwrite: bool,
    /// The input is a pipe or a socket with a source behind it, which must be drained after an error.
    pub live: bool,
    /// Something can be sent back to the source.
    pub can_answer: bool,
    /// UUID and time of the snapshot.
    pub identity: Identity,
    /// Memory for slabs, in bytes.
    pub memory_bytes: usize,
    /// The longest wait for the source, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveSummary {
    /// UUID of the snapshot.
    pub uuid: [u8; 16],
    /// Length of the stream in bytes.
    pub stream_bytes: u64,
    /// RAM, in bytes: all blocks together.
    pub ram_bytes: u64,
    /// Pages in the image; all others are zero.
    pub nonzero_pages: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// PAGE records, repeats counted.
    pub normal_pages: u64,
    /// The source could not have seen a failure: a socket without a return path.
    pub source_could_not_see: bool,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What the job is doing, as one word: `inspect`, `create`, `stream`, `settle`, `devices`, `seal`, `replace`, `answer`,
    /// `drain` (after a failure) and `end` in a save; `open`, `precopy`, `postcopy`, `verify`, `close` and `end` in a revert.
    pub phase: &'static str,
    /// Bytes of RAM done (zero pages too).
    pub done_bytes: u64,
    /// Bytes of RAM in all; 0 while that is not known.
    pub total_bytes: u64,
    /// Bytes that went through the channel.
    pub channel_bytes: u64,
}

#[derive(Debug)]
enum Phase {
    Inspect(Box<TargetFinder>),
    CreateTemporary(IoId, NewFile),
    Stream,
    /// Pages are being written; then the reserve's steps.
    Settle {
        reserving: bool,
    },
    /// The new file gets the image's name, or it is found out whether it can replace the image.
    Claim(IoId),
    Tail,
    Seal,
    /// The new file replaces the old snapshot.
    Replace(IoId),
    /// The save has failed: the new file loses the image's name.
    Unlink(IoId),
    /// Everything is durable, or failed; answers are on their way.
    Answer,
    Finished,
}

/// Saves one migration stream into one image.
#[derive(Debug)]
pub struct SaveMachine {
    config: SaveConfig,
    phase: Phase,
    target: Option<Target>,
    way: Way,
    left: Left,
    decoder: Decoder,
    intake: Intake,
    leader: Leader,
    coverage: Option<(Coverage, RamLayout)>,
    /// While RAM arrives.
    store: Option<Store>,
    /// From when RAM is complete until the seal.
    reserved: Option<Reserved>,
    sealed: Option<Sealed>,
    /// PAGE records of the stream, repeats counted, once RAM is complete.
    normal_pages: u64,
    deferred: Option<PageUpdate>,
    tail: Tail,
    steps: StepRunner,
    ids: Ids,
    actions: VecDeque<Action>,
    /// Operations that the driver has not answered for yet.
    in_flight: usize,
    unsent_bytes: u64,
    return_path: bool,
    pile: Pile,
    nonzero_pages: u64,
    failure: Option<Failure>,
    /// The failure ends the job now: nothing is drained.
    ending: bool,
    /// After a panic: what comes is not understood any more, and what is under way not waited for.
    lost: bool,
    watch: Watch,
}

impl SaveMachine {
    /// A save as `config` says.
    #[must_use]
    pub fn new(config: SaveConfig) -> Self {
        let (phase, target) = match (config.existing_length_bytes, config.create) {
            (Some(length), _) => {
                let finder = TargetFinder::new(length, config.create, config.overwrite);
                (Phase::Inspect(Box::new(finder)), None::<Target>)
            }
            (None, Some(image)) => (Phase::CreateTemporary(IoId(0), NewFile { image, way: Way::Link }), None),
            (None, None) => (Phase::Stream, None),
        };
        Self {
            decoder: Decoder::new(config.stream.clone()),
            tail: Tail::new(config.no_vmdesc),
            phase,
            target,
            way: Way::InPlace,
            left: Left::Nothing,
            intake: Intake::default(),
            leader: Leader::new(),
            coverage: None,
            store: None,
            reserved: None,
            sealed: None,
            normal_pages: 0,
            deferred: None,
            steps: StepRunner::default(),
            ids: Ids::default(),
            actions: VecDeque::new(),
            in_flight: 0,
            unsent_bytes: 0,
            return_path: false,
            pile: Pile::default(),
            nonzero_pages: 0,
            failure: None,
            ending: false,
            lost: false,
            watch: Watch::new(config.timeout_ms),
            config,
        }
    }

    /// A save that has failed already, for an error found before it could begin: drains the source, so that it does
    /// not hurt the guest, and reports `failure`.
    #[must_use]
    pub fn refusing(config: SaveConfig, failure: Failure) -> Self {
        let mut machine = Self::new(config);
        machine.phase = Phase::Stream;
        machine.ending = !machine.config.live;
        machine.failure = Some(failure);
        machine
    }

    /// How it ended, after [`Action::Finish`].
    ///
    /// # Errors
    ///
    /// Why nothing was saved.
    pub fn outcome(&self) -> Result<SaveSummary, Failure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let page_bytes = u64::from(self.decoder.page_size());
        Ok(SaveSummary {
            uuid: self.config.identity.uuid,
            stream_bytes: self.intake.received_bytes,
            ram_bytes: self.coverage.as_ref().map_or(0, |(coverage, _)| coverage.total_pages()) * page_bytes,
            nonzero_pages: self.nonzero_pages,
            page_bytes,
            normal_pages: self.normal_pages,
            source_could_not_see: self.config.can_answer && !self.return_path,
        })
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let page_bytes = u64::from(self.decoder.page_size());
        let coverage = self.coverage.as_ref();
        Progress {
            phase: self.phase_name(),
            done_bytes: coverage.map_or(0, |(coverage, _)| coverage.seen_pages()) * page_bytes,
            total_bytes: coverage.map_or(0, |(coverage, _)| coverage.total_pages()) * page_bytes,
            channel_bytes: self.intake.received_bytes,
        }
    }

    fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Finished => "end",
            _ if self.failure.is_some() => "drain",
            Phase::Inspect(_) => "inspect",
            Phase::CreateTemporary(..) => "create",
            Phase::Stream => "stream",
            Phase::Settle { .. } | Phase::Claim(_) => "settle",
            Phase::Tail => "devices",
            Phase::Seal => "seal",
            Phase::Replace(_) => "replace",
            Phase::Unlink(_) => "drain",
            Phase::Answer => "answer",
        }
    }

    /// Something went wrong: nothing more is stored. The first failure is the one that is reported.
    fn fail(&mut self, failure: Failure, pool: &mut Pool) {
        let cannot_drain = !self.config.live
            || matches!(failure, Failure::Stream(_) | Failure::Interrupted | Failure::Silent { .. })
            || matches!(&failure, Failure::Unsupported(what) if what.rules_out_background_snapshot())
            || self.intake.ended
            || matches!(
                self.phase,
                Phase::Settle { .. }
                    | Phase::Claim(_)
                    | Phase::Tail
                    | Phase::Seal
                    | Phase::Replace(_)
                    | Phase::Unlink(_)
                    | Phase::Answer
            );
        self.failure.get_or_insert(failure);
        self.steps.abandon();
        self.deferred = None;
        if let Some(store) = &mut self.store {
            store.abandon(pool);
        }
        // Draining, and reporting, need some memory, too.
        pool.shrink();
        if cannot_drain {
            self.ending = true;
        } else if matches!(self.phase, Phase::Inspect(_) | Phase::CreateTemporary(..)) {
            self.phase = Phase::Stream;
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.unsent_bytes += bytes.len() as u64;
        self.actions.push_back(Action::Send { lane: Lane::Main, header: Header::from(bytes), body: None });
    }

    /// Goes on as far as possible without waiting; false when only an event can help.
    fn advance(&mut self, pool: &mut Pool) -> Result<bool, Failure> {
        match &mut self.phase {
            Phase::Inspect(finder) => match finder.poll(pool, &mut self.ids)? {
                Some(Found::Action(action)) => self.actions.push_back(action),
                Some(Found::Target(Target::NewFile(new))) => {
                    self.phase = Phase::CreateTemporary(IoId(0), new);
                }
                Some(Found::Target(target)) => {
                    self.target = Some(target);
                    self.phase = Phase::Stream;
                }
                None => return Ok(false),
            },
            Phase::CreateTemporary(id, _) if *id == IoId(0) => {
                *id = self.ids.next();
                self.actions.push_back(Action::CreateTemporary { id: *id });
            }
            Phase::CreateTemporary(..)
            | Phase::Claim(_)
            | Phase::Replace(_)
            | Phase::Unlink(_)
            | Phase::Finished => return Ok(false),
            Phase::Stream => return self.advance_stream(pool),
            Phase::Settle { reserving: false } => {
                let Some(mut store) = self.store.take_if(|store| store.is_idle()) else {
                    return Ok(false);
                };
                store.abandon(pool);
                memory::probe(store.reserve_bytes(&self.leader), "the VM state and its tables")?;
                self.nonzero_pages = store.index.nonzero_pages();
                self.normal_pages = store.normal_pages;
                let vm_state = self.leader.vm_state(&self.decoder, store.normal_pages);
                let (reserved, steps) = store.reserve(vm_state).map_err(could_not)?;
                self.reserved = Some(reserved);
                self.steps.start(steps);
                self.phase = Phase::Settle { reserving: true };
            }
            Phase::Settle { reserving: true } => {
                if !self.steps.is_done() {
                    return Ok(false);
                }
                self.claim_name();
            }
            Phase::Tail => return self.advance_tail(pool),
            Phase::Seal => {
                if !self.steps.is_done() {
                    return Ok(false);
                }
                self.sealed();
            }
            Phase::Answer => {
                if self.unsent_bytes > 0 {
                    return Ok(false);
                }
                self.phase = Phase::Finished;
                self.actions.push_back(Action::Finish);
            }
        }
        Ok(true)
    }

    /// Tells the source how it ended, where it listens.
    fn answer(&mut self, status: u32) {
        if self.return_path && self.config.can_answer {
            let mut bytes = Vec::new();
            put_return_path_message(&mut bytes, &ReturnPathMessage::Shut(status));
            self.send(&bytes);
        }
        self.phase = Phase::Answer;
    }
}

impl Machine for SaveMachine {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        match event {
            // How it ended is decided: whether the source reads that changes nothing.
            Event::Tick { now_ms } if matches!(self.phase, Phase::Answer) => {
                match self.watch.tick(now_ms, self.unsent_bytes > 0) {
                    Ok(wake) => self.actions.extend(wake),
                    Err(_) => self.unsent_bytes = 0,
                }
            }
            Event::Tick { now_ms } => match self.watch.tick(now_ms, self.intake.is_reading()) {
                Ok(wake) => self.actions.extend(wake),
                Err(seconds) => self.fail(Failure::Silent { seconds }, pool),
            },
            Event::Input { bytes } => {
                self.watch.heard();
                self.intake.arrived(bytes);
            }
            Event::InputEnd => self.intake.stopped(),
            Event::InputFailed(error) => {
                self.intake.stopped();
                self.fail(Failure::Io { doing: Doing::ReadStream, source: error }, pool);
            }
            Event::Done { id, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.done(id, result, pool);
            }
            Event::Sent { bytes, .. } => self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes),
            // A source that does not listen any more cannot be told; whether it is durable does not depend on it.
            Event::OutputFailed(_) => {
                self.unsent_bytes = 0;
                self.config.can_answer = false;
            }
            // Only the channels of multifd come after the main one: a preempt channel waits for an answer first.
            Event::AnotherPeer => self.fail(Unsupported::Multifd.into(), pool),
            Event::Answer(_) | Event::AnswerEnd => {}
            Event::Broken => self.broken(),
            Event::Interrupted if matches!(self.phase, Phase::Answer) => self.unsent_bytes = 0,
            // What has begun to commit cannot be called back: how it ends is how it is reported.
            Event::Interrupted if self.is_committing() => {}
            Event::Interrupted => self.fail(Failure::Interrupted, pool),
        }
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        let action = self.next_action(pool);
        self.in_flight += usize::from(action.as_ref().is_some_and(|action| action.id().is_some()));
        action
    }
}

impl SaveMachine {
    fn next_action(&mut self, pool: &mut Pool) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if matches!(self.phase, Phase::Finished) {
                return None;
            }
            let result = if self.ending && !matches!(self.phase, Phase::Answer) {
                if let Some(action) = self.steps.poll(pool, &mut self.ids).ok().flatten() {
                    return Some(action);
                }
                if self.in_flight > 0 {
                    return None;
                }
                self.undo();
                Ok(true)
            } else {
                self.advance(pool)
            };
            match result.and_then(|advanced| Ok((advanced, self.poll_disk(pool)?))) {
                Ok((_, Some(action))) => return Some(action),
                Ok((true, None)) => {}
                Ok((false, None)) => return self.actions.pop_front(),
                Err(failure) => self.fail(failure, pool),
            }
        }
    }

    fn poll_disk(&mut self, pool: &mut Pool) -> Result<Option<Action>, Failure> {
        if self.failure.is_some() {
            return Ok(None);
        }
        if let Some(store) = &mut self.store
            && let Some(action) = store.poll(pool, &mut self.ids)?
        {
            return Ok(Some(action));
        }
        Ok(self.steps.poll(pool, &mut self.ids)?)
    }

    fn done(&mut self, id: IoId, result: Result<Completed, IoError>, pool: &mut Pool) {
        if self.lost && !matches!(self.phase, Phase::Unlink(_)) {
            self.steps.done(id, result.as_ref().map(|_| ()), pool);
            return;
        }
        let doing = match &mut self.phase {
            Phase::Inspect(finder) => {
                finder.done(id, result.as_ref().ok().cloned(), pool);
                Doing::ReadImage
            }
            Phase::CreateTemporary(creating, new) if *creating == id => {
                (self.way, self.target) = (new.way, Some(Target::NewFile(*new)));
                self.phase = Phase::Stream;
                Doing::CreateFile
            }
            Phase::Claim(claiming) if *claiming == id => self.claimed(result.is_ok()),
            Phase::Replace(replacing) if *replacing == id => {
                if result.is_ok() {
                    self.answer(0);
                } else {
                    self.phase = Phase::Seal;
                }
                Doing::Replace
            }
            Phase::Unlink(unlinking) if *unlinking == id => {
                if result.is_err() {
                    // Then at least nothing may take the file for a snapshot.
                    self.left = Left::Seal;
                }
                Doing::RemoveFile
            }
            _ => {
                let of_store = self.store.as_mut().is_some_and(|store| store.done(id, pool));
                if !of_store {
                    self.steps.done(id, result.as_ref().map(|_| ()), pool);
                }
                Doing::WriteImage
            }
        };
        if let Err(source) = result {
            self.fail(Failure::Io { doing, source }, pool);
        }
    }
}

fn could_not(error: ImageError) -> Failure {
    Failure::UnfitImage(error)
}
