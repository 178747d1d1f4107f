//! Postcopy: the guest runs at once, and what it touches is sent first.
//!
//! # The way of a postcopy revert
//!
//! 1. *Advise*: the leader, page sizes, and the return path is opened.
//! 2. *Before*: the hot set and the chosen share of non-zero pages are sent. One host page is
//!    always held back; it is discarded first if there are only the scattered pages of a hot set.
//! 3. *Tables*: the rest of the image's metadata is verified, while a damage costs no running guest.
//! 4. *Discards*: third region, then every host page that was not sent is announced to come again
//!    ([`discards`]).
//! 5. *Package*: LISTEN, devices, PING, RUN, as one blob. The destination loads it while it already
//!    requests pages.
//! 6. *Serve*: requested pages first ([`requests`]), their neighbourhood next, the rest in order
//!    ([`serve`]), in pieces as large as the requests allow ([`pace`]). Zero pages are sent only
//!    when requested: what is missing at the end is zero at the destination. With preempt there are
//!    destinations to which all of them have to be sent ([`preempt`]).
//! 7. *End*: all pages are sent, and the PING behind the devices was answered. End mark; SHUT is waited for.
//!
//! A *recovery* begins by asking what the destination has ([`recovery`]), and goes on with step 6.
//!
//! # The way of a requested page
//!
//! ```text
//! Event::Answer           RevertMachine::handle -> Postcopy::answer
//!   Answers::next         cuts REQ_PAGES from the return path, checks it against the block list
//!   Serve::request        Requests::push, in the order of the requests; nothing is read yet
//! poll -> Serve::advance  runs until it has nothing to do:
//!   take_requests         Requests::pop. A page in a fetch under way is marked as wanted there
//!                         (Fetch::want); a zero page is sent at once; any other gets a fetch of
//!                         its own (fetch::look), an Action::Read
//! Event::Done             Serve::read_done: the fetch is read
//! poll -> Serve::advance
//!   send_wanted           Fetch::put verifies the page (emit::verify) and hands it out:
//!                         Emitter::page, Action::Send
//!   start_background      its neighbourhood is read next (`near`), then the walk goes on
//! Event::Sent             Output::sent: the buffers whose bytes have left are free again
//! ```
//!
//! No page is sent twice without a discard between (the destination would fail), and none is
//! forgotten (it would not notice): `claimed` has what was looked up with content, `sent` what was
//! handed out, and the end mark is sent only when every host page has been looked up and the two
//! are equal.

mod answers;
mod config;
mod context;
mod discards;
mod fetch;
mod host_pages;
pub(crate) mod hot_set;
mod pace;
mod preempt;
pub(crate) mod recovery;
mod requests;
mod serve;

use super::emit::Emitter;
use super::leader::Leader;
use super::metadata::Image;
use super::output::Output;
use super::{read_metadata, wrong};
use crate::bits::Bits;
use crate::failure::{Failure, ReturnPathErrorKind};
use crate::machine::{Action, Header, IoId, Lane, Milestone};
use crate::memory::OutOfMemory;
use crate::pool::Pool;
use answers::{Answer, Answers};
pub use config::{PostcopyConfig, PostcopySummary};
use context::Context;
use discards::Discards;
use host_pages::{HostPage, HostPages};
use hot_set::HotSet;
use migration_stream::{Command, PostcopyAdvise, QEMU_VM_EOF, put_command, put_end_of_section};
use preempt::PreemptEnd;
use recovery::Recovery;
use serve::Serve;
use snapshot_image::Lookup;

/// Value of the PING that follows the devices, as QEMU's is.
const PING_LOADED: u32 = 3;
/// The driver has no more than this of the discards.
const UNSENT_DISCARD_BYTES: u64 = 256 << 10;

#[derive(Debug)]
enum Stage {
    Recover(Recovery),
    Before,
    Tables,
    Discards,
    Serve,
    /// The end mark is out; the destination has not confirmed it.
    Ended,
    /// SHUT has come.
    Done,
}

/// A postcopy revert behind its leader.
#[derive(Debug)]
pub(crate) struct Postcopy {
    config: PostcopyConfig,
    stage: Stage,
    leader: Leader,
    pub(crate) emitter: Emitter,
    pages: HostPages,
    discards: Discards,
    serve: Serve,
    answers: Answers,
    /// The devices are loaded.
    running: bool,
    /// The package is on its way: from here on the destination may go on without us.
    packaged: bool,
    /// How the preempt channel ends, if there is one.
    preempt_end: Option<PreemptEnd>,
    /// Its mark has been handed out.
    preempt_ended: bool,
    record: Option<Record>,
    now_ms: u64,
}

/// A hot set in the making.
#[derive(Debug)]
struct Record {
    hot: HotSet,
    seen: Bits,
    until_ms: Option<u64>,
}

impl Postcopy {
    /// Sends the leader and ADVISE, and opens the return path; or asks what the destination already has.
    pub(crate) fn start(
        config: PostcopyConfig,
        leader: Leader,
        image: &Image,
        output: &mut Output,
    ) -> Result<Self, Failure> {
        if !config.can_answer {
            return Err(Failure::NoReturnPath);
        }
        let (snapshot, layout) = (image.reader.snapshot(), image.reader.layout());
        let pages = HostPages::new(layout, config.host_page_bytes, &config.host_pages)?;
        let mut out = Vec::new();
        let stage = if let Some(uuid) = config.recover {
            Stage::Recover(Recovery::start(uuid, snapshot, layout, &mut out)?)
        } else {
            out.extend_from_slice(&snapshot.leader);
            let advise = PostcopyAdvise {
                page_size_summary: pages.summary(),
                target_page_size: u64::from(layout.page_size()),
            };
            put_command(&mut out, &Command::PostcopyAdvise(Some(advise)));
            put_command(&mut out, &Command::OpenReturnPath);
            Stage::Before
        };
        // A profile of another snapshot says nothing of this one; and a new one has to have all
        // that was in an old one.
        let fits = |hot: &&HotSet| Some(hot.uuid()) == snapshot.uuid && config.record_ms.is_none();
        let hot = config.hot_set.as_ref().filter(fits).filter(|_| config.recover.is_none());
        let mut discards = Discards::new(&pages);
        if hot.is_some() && config.percent == 0 {
            discards.put_last(&pages, layout, &mut out);
        }
        output.send(Lane::Main, Header::Long(out), None);
        let lane = if config.preempt { Lane::Preempt } else { Lane::Main };
        let mut serve = Serve::new(&pages, lane)?;
        let preempt_end = config.preempt.then(|| PreemptEnd::of(leader.machine()));
        serve.sends_every_page = preempt_end == Some(PreemptEnd::EveryPageThenMark);
        if config.recover.is_none() {
            serve.plan_before(config.percent, hot, snapshot, layout, &pages)?;
        }
        // What the guest touches can be recorded only if it has to ask for it.
        serve.waits_for_requests = config.record_ms.is_some() && snapshot.uuid.is_some();
        let record = config.record_ms.and(snapshot.uuid).map(|uuid| {
            let seen = Bits::new(pages.total())?;
            Ok::<_, OutOfMemory>(Record { hot: HotSet::new(uuid), seen, until_ms: None })
        });
        Ok(Self {
            preempt_end,
            emitter: leader.emitter(),
            stage,
            preempt_ended: false,
            leader,
            pages,
            discards,
            serve,
            answers: Answers::default(),
            running: config.recover.is_some(),
            packaged: config.recover.is_some(),
            record: record.transpose()?,
            now_ms: 0,
            config,
        })
    }

    /// What happened so far.
    pub(crate) fn summary(&self) -> PostcopySummary {
        self.serve.summary
    }

    /// What was recorded.
    pub(crate) fn recorded(&self) -> Option<&HotSet> {
        self.record.as_ref().map(|record| &record.hot).filter(|_| self.packaged)
    }

    /// The guest may be running.
    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// The guest may be running, and go on with another server. Behind the end mark QEMU waits for none.
    pub(crate) fn is_recoverable(&self, image: &Image) -> bool {
        self.running && !self.has_ended() && image.reader.snapshot().uuid.is_some()
    }

    /// The end mark has been handed out.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended | Stage::Done)
    }

    /// The destination has confirmed the end.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// It is the destination's turn to say something.
    pub(crate) fn waits(&self) -> bool {
        match self.stage {
            Stage::Recover(_) | Stage::Ended => true,
            Stage::Serve => !self.running,
            Stage::Before | Stage::Tables | Stage::Discards | Stage::Done => false,
        }
    }

    /// Target pages that are not zero, as far as that is known.
    pub(crate) fn nonzero_pages(&self) -> u64 {
        self.serve.nonzero_pages
    }

    /// The clock.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if let Some(Record { until_ms: Some(until), .. }) = self.record
            && until <= now_ms
        {
            self.serve.waits_for_requests = false;
        }
    }

    /// When the recording of the hot set is over.
    pub(crate) fn recording_ends_ms(&self) -> Option<u64> {
        self.record.as_ref()?.until_ms.filter(|_| self.serve.waits_for_requests)
    }

    /// Goes on as far as possible without waiting; false when only an event can help.
    pub(crate) fn advance(
        &mut self,
        image: &mut Image,
        output: &mut Output,
        pool: &mut Pool,
    ) -> Result<bool, Failure> {
        let with = &mut Context { pages: &self.pages, emitter: &mut self.emitter, image, output, pool };
        match &mut self.stage {
            Stage::Recover(_) | Stage::Done => Ok(false),
            // Requests that crossed the end mark.
            Stage::Ended if self.preempt_end == Some(PreemptEnd::AnswerBehindEnd) && !with.output.gone => {
                self.serve.advance(with)
            }
            Stage::Ended => Ok(false),
            Stage::Before => {
                let advanced = self.serve.before(with)?;
                if !advanced && self.serve.is_before_over() {
                    self.stage = Stage::Tables;
                    return Ok(true);
                }
                Ok(advanced)
            }
            Stage::Tables => match with.image.reader.finish().map_err(wrong)? {
                Lookup::Need(at, length) => {
                    read_metadata(&mut with.image.reads, at, length, with.output, with.pool)
                }
                Lookup::Ready(()) => {
                    // Third region: dirty bitmaps are complete before the switch.
                    let third = with.image.reader.snapshot().third.clone();
                    with.output.send(Lane::Main, Header::Long(third), None);
                    self.stage = Stage::Discards;
                    Ok(true)
                }
            },
            Stage::Discards => {
                if with.output.unsent_bytes(Lane::Main) >= UNSENT_DISCARD_BYTES {
                    return Ok(false);
                }
                let mut out = Vec::new();
                if self.discards.put_next(&self.serve.sent, &self.pages, with.image.reader.layout(), &mut out)
                {
                    with.output.send(Lane::Main, Header::Long(out), None);
                    return Ok(true);
                }
                self.send_package(image, output)?;
                Ok(true)
            }
            // Everything has been sent: what is requested now is on its way.
            Stage::Serve if self.preempt_ended => Ok(self.send_end(output)),
            Stage::Serve => {
                let advanced = self.serve.advance(with)?;
                if !advanced && self.running && self.serve.is_complete()? {
                    return Ok(self.send_end(output));
                }
                Ok(advanced)
            }
        }
    }

    fn send_package(&mut self, image: &Image, output: &mut Output) -> Result<(), Failure> {
        let snapshot = image.reader.snapshot();
        let mut package = Vec::new();
        put_command(&mut package, &Command::PostcopyListen);
        package.extend_from_slice(self.leader.devices(image.tail())?);
        put_command(&mut package, &Command::Ping(PING_LOADED));
        put_command(&mut package, &Command::PostcopyRun);
        let mut out = Vec::new();
        put_command(&mut out, &Command::Packaged(&package));
        // Reported before it is needed: from the package on the guest can come to run.
        output.actions.push_back(Action::Announce(Milestone::Serving { uuid: snapshot.uuid }));
        output.send(Lane::Main, Header::Long(out), None);
        output.actions.push_back(Action::LimitOutput { bytes: self.serve.pace.pile_bytes() });
        self.packaged = true;
        self.stage = Stage::Serve;
        Ok(())
    }

    /// Sends the end mark; false while it has to wait. The destination takes it for complete, even
    /// if the preempt channel then breaks: so nothing may be on its way there.
    fn send_end(&mut self, output: &mut Output) -> bool {
        if self.preempt_end == Some(PreemptEnd::EveryPageThenMark) && !self.preempt_ended {
            if output.unsent_bytes(Lane::Main) > 0 {
                return false;
            }
            let mut mark = Vec::new();
            put_end_of_section(&mut mark);
            output.send(Lane::Preempt, Header::Long(mark), None);
            self.preempt_ended = true;
            return true;
        }
        if output.unsent_bytes(Lane::Preempt) > 0 {
            return false;
        }
        output.send(Lane::Main, Header::from(&[QEMU_VM_EOF][..]), None);
        self.stage = Stage::Ended;
        true
    }

    /// The destination said this.
    pub(crate) fn answer(&mut self, bytes: &[u8], image: &Image, output: &mut Output) -> Result<(), Failure> {
        self.answers.push(bytes);
        while let Some(answer) = self.answers.next(image.reader.layout(), &self.pages)? {
            match answer {
                Answer::Wants(range) => {
                    self.record(&range)?;
                    self.serve.request(range)?;
                }
                Answer::Pong(PING_LOADED) if matches!(self.stage, Stage::Serve) => {
                    self.running = true;
                    let until = self.config.record_ms.map(|time| self.now_ms.saturating_add(time));
                    if let Some(record) = &mut self.record {
                        record.until_ms = until;
                    }
                    let uuid = image.reader.snapshot().uuid;
                    output.actions.push_back(Action::Announce(Milestone::Running { uuid }));
                }
                Answer::Shut(0) if matches!(self.stage, Stage::Ended) => self.stage = Stage::Done,
                Answer::Shut(_) => {
                    return Err(Failure::DestinationFailed { recoverable: self.is_recoverable(image) });
                }
                Answer::Received(block, bitmap) => {
                    let Stage::Recover(recovery) = &mut self.stage else {
                        return Err(unasked("RECV_BITMAP"));
                    };
                    self.serve.has_already(block, &bitmap, &self.pages, image.reader.layout())?;
                    recovery.received(block, output)?;
                }
                Answer::ResumeAck => {
                    if !matches!(&self.stage, Stage::Recover(recovery) if recovery.may_resume()) {
                        return Err(unasked("RESUME_ACK"));
                    }
                    output.actions.push_back(Action::LimitOutput { bytes: self.serve.pace.pile_bytes() });
                    let uuid = image.reader.snapshot().uuid;
                    output.actions.push_back(Action::Announce(Milestone::Resumed { uuid }));
                    self.stage = Stage::Serve;
                }
                Answer::Pong(_) | Answer::Other => {}
            }
        }
        Ok(())
    }

    fn record(&mut self, range: &std::ops::Range<u64>) -> Result<(), OutOfMemory> {
        let Some(record) = &mut self.record else { return Ok(()) };
        if record.until_ms.is_some_and(|until| self.now_ms >= until) {
            return Ok(());
        }
        let mut at = range.start;
        while let Some(page) = record.seen.next_missing(at).filter(|&page| page < range.end) {
            record.seen.insert(page)?;
            let (block, offset) = self.pages.locate(HostPage(page));
            let length = self.pages.of_block(block).bytes;
            // A block list has far fewer.
            let Ok(block) = u32::try_from(block) else { return Ok(()) };
            record.hot.add(block, offset, length);
            at = page + 1;
        }
        Ok(())
    }

    /// A read of pages has ended: of which block, and from which offset.
    pub(crate) fn read_done(&mut self, id: IoId) -> Option<(usize, u64)> {
        self.serve.read_done(id)
    }
}

fn unasked(message: &'static str) -> Failure {
    ReturnPathErrorKind::Unasked { message }.into()
}
