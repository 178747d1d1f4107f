//! The third driver of the engine's machines: one thread, no clock but its own, everything from one seed.
//!
//! It keeps the rules of [`snapshot_engine::machine`] and holds the machines to them: a rule that a
//! machine breaks is a panic that names the event. Operations complete in an order of the seed's;
//! input comes and output goes in pieces of any size; and a [`Fault`] may strike at any action.

mod disk_actions;

use crate::checks::{Violation, no_eternal_wait};
use crate::destination::Destination;
use crate::disk::SimFile;
use crate::rng::Rng;
use crate::size::to_usize;
use crate::trace::Trace;
use migration_stream::protocol::IncomingState;
use snapshot_engine::{Action, Buffer, BufferId, Completed, Event, IoError, IoId, Lane, Machine, Pool};
use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;

/// What goes wrong, at the Nth disk operation of the run (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This disk operation fails, and has no effect.
    Error(u64),
    /// This disk operation fails after a part of it was done.
    Torn(u64),
    /// The disk is full from this action on: writes behind the end of the file fail. On a copy-on-write disk
    /// ([`World::copy_on_write`]) all writes fail that have no ballast.
    Full(u64),
    /// Every disk operation fails from this action on.
    Dead(u64),
    /// The power goes: the run ends here.
    PowerCut(u64),
    /// SIGTERM.
    Interrupt(u64),
    /// The peer takes no more output.
    PeerGone(u64),
    /// SIGKILL, at this event of the run.
    Killed(u64),
}

/// What a broken engine might do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Send the first page with another content.
    WrongPage,
    /// Send a page twice, and another one not at all.
    PageTwice,
    /// Leave out a page of a mapped block of which the destination has a copy of its own.
    CopyNotSent,
}

/// Disk and channel.
#[derive(Debug)]
pub struct World {
    seed: u64,
    rng: Rng,
    fault: Fault,
    /// The image, if there is one.
    pub image: Option<SimFile>,
    temporary: Option<SimFile>,
    /// The space of the disk was set when it became full.
    full_at: Option<u64>,
    /// What is written a second time needs space again.
    pub copy_on_write: bool,
    /// Bytes held behind the end of the file, and those that were given back when nothing else was free.
    ballast: u64,
    given_back: u64,
    /// The disk operation with which the new file got its name, or was found to be able to replace the image.
    pub claimed_at: Option<u64>,
    /// The disk operation with which the ballast was given back for good.
    pub given_back_at: Option<u64>,
    input: VecDeque<u8>,
    /// Input and output come and go in pieces of up to this size.
    piece_bytes: usize,
    /// Input bytes that the machine has not taken.
    input_ended: bool,
    /// Everything that was sent.
    pub output: Vec<u8>,
    /// Disk operations so far.
    pub actions: u64,
    /// The power went.
    pub lost_power: bool,
    /// The largest number of bytes in buffers at once.
    pub peak_buffer_bytes: usize,
    /// How much input was still to come when the writer was held back.
    pub held_with_input_left: Option<usize>,
    /// Loads what is sent, and answers.
    pub destination: Option<Destination>,
    /// A rule that was broken; the run ends there.
    pub violation: Option<Violation>,
    /// Number of the last event.
    pub event: u64,
    /// Everything that the machine asked for.
    pub trace: Trace,
    /// A fault of the engine's that is only pretended, to see whether it would be found.
    pub planted: Option<Planted>,
    answers_ended: bool,
    last_page: Option<Vec<u8>>,
    now_ms: u64,
    wake: Option<u64>,
}

/// What can happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// An operation of the disk ends.
    Complete,
    /// Output leaves.
    Leave(Lane),
    /// Input arrives, or ends.
    Input,
    /// The destination answers.
    Answer,
    /// The destination's guest or loader goes on.
    Destination,
    /// The time comes for which the machine waits.
    Clock,
}

/// Sent by the machine, not taken by the peer.
type Unsent = [VecDeque<u8>; 2];

struct Pending {
    id: IoId,
    buffer: Option<(BufferId, Buffer)>,
    result: Result<Completed, IoError>,
}

impl World {
    /// A world of this seed with a disk that holds `image`, where `input` comes in.
    #[must_use]
    pub fn new(seed: u64, image: Option<SimFile>, input: Vec<u8>, fault: Fault) -> Self {
        // Tiny pieces only where they do not mean millions of events.
        let tiny = if input.len() < 100_000 { 9 } else { 4099 };
        let piece_bytes = [tiny, 70_000, 1 << 20][to_usize(seed % 3)];
        Self {
            piece_bytes,
            seed,
            rng: Rng::new(seed),
            fault,
            image,
            temporary: None,
            full_at: None,
            copy_on_write: seed / 3 % 2 == 1,
            ballast: 0,
            given_back: 0,
            claimed_at: None,
            given_back_at: None,
            input: input.into(),
            input_ended: false,
            output: Vec::new(),
            actions: 0,
            lost_power: false,
            peak_buffer_bytes: 0,
            held_with_input_left: None,
            destination: None,
            violation: None,
            event: 0,
            trace: Trace::default(),
            planted: None,
            answers_ended: false,
            last_page: None,
            now_ms: 0,
            wake: None,
        }
    }

    /// The same world with a destination at the other end.
    #[must_use]
    pub fn with_destination(mut self, destination: Destination) -> Self {
        self.destination = Some(destination);
        self
    }

    /// Runs a machine until it has finished, or the power goes.
    ///
    /// # Panics
    ///
    /// When the machine breaks a rule, or waits for something that cannot come.
    pub fn run(&mut self, machine: &mut impl Machine) {
        let mut pool = Pool::default();
        let mut pending: Vec<Pending> = Vec::new();
        let mut unsent = Unsent::default();
        let mut reading: Option<(BufferId, Range<usize>)> = None;
        machine.handle(Event::Tick { now_ms: 0 }, &mut pool);
        for event in 0u64.. {
            self.event = event;
            if self.fault == Fault::Killed(event) || self.violation.is_some() {
                return;
            }
            while let Some(action) = machine.poll(&mut pool) {
                self.trace.action(&action, &pool);
                if action.id().is_some() {
                    if self.fault == Fault::PowerCut(self.actions) {
                        self.cut_power();
                        return;
                    }
                    self.actions += 1;
                }
                self.peak_buffer_bytes = self.peak_buffer_bytes.max(pool.taken_bytes());
                match action {
                    Action::Finish => {
                        assert!(pending.is_empty(), "event {event}: finished with operations under way");
                        // It has no name, or the driver removes it.
                        self.temporary = None;
                        return;
                    }
                    Action::ReadInput { buffer, range } => {
                        assert!(reading.is_none(), "event {event}: a second read of the input");
                        assert!(!range.is_empty(), "event {event}: a read of nothing");
                        reading = Some((buffer, range));
                    }
                    Action::Send { lane, header, body } => {
                        let mut bytes = header.bytes().to_vec();
                        if let Some(body) = &body {
                            bytes.extend_from_slice(&pool.bytes(body.buffer)[body.range.clone()]);
                        }
                        self.plant(&mut bytes, body.is_some());
                        unsent[lane as usize].extend(bytes);
                    }
                    Action::LimitInput { bytes } if bytes <= 4096 => {
                        self.held_with_input_left = Some(self.input.len());
                    }
                    Action::LimitInput { .. } | Action::LimitOutput { .. } | Action::Announce(_) => {}
                    Action::WakeAt { tick_ms } => self.wake = tick_ms,
                    other => pending.push(self.disk_action(other, &mut pool)),
                }
                if self.fault == Fault::Interrupt(self.actions) {
                    machine.handle(Event::Interrupted, &mut pool);
                }
                let gone = matches!(self.fault, Fault::PeerGone(at) if at <= self.actions)
                    || self.destination.as_ref().is_some_and(Destination::is_done);
                if gone && unsent.iter().any(|unsent| !unsent.is_empty()) {
                    unsent = Unsent::default();
                    machine.handle(Event::OutputFailed(IoError::from_raw_os_error(32)), &mut pool);
                }
            }
            self.next_event(machine, &mut pool, &mut pending, &mut unsent, &mut reading, event);
        }
    }

    /// One of the things that can happen now, as the seed has it.
    fn next_event(
        &mut self,
        machine: &mut impl Machine,
        pool: &mut Pool,
        pending: &mut Vec<Pending>,
        unsent: &mut Unsent,
        reading: &mut Option<(BufferId, Range<usize>)>,
        event: u64,
    ) {
        let answering = !self.answers_ended
            && self.destination.as_mut().is_some_and(|it| !it.answers().is_empty() || it.is_done());
        // Seeds mean what they mean by this order.
        let choices = [
            (!pending.is_empty(), Choice::Complete),
            (!unsent[0].is_empty(), Choice::Leave(Lane::Main)),
            (reading.is_some(), Choice::Input),
            (!unsent[1].is_empty(), Choice::Leave(Lane::Preempt)),
            (answering, Choice::Answer),
            (self.destination.as_ref().is_some_and(Destination::can_step), Choice::Destination),
        ];
        let mut possible: Vec<Choice> =
            choices.into_iter().filter(|(possible, _)| *possible).map(|(_, choice)| choice).collect();
        // Time passes when nothing else happens.
        if possible.is_empty() && self.wake.is_some() {
            possible.push(Choice::Clock);
        }
        let who = || {
            let destination = self.destination.as_ref().map(Destination::describe);
            format!("seed {}, event {event}, destination: {destination:?}", self.seed)
        };
        if let Err(violation) = no_eternal_wait(possible.len(), event, who) {
            self.violation = Some(violation);
            return;
        }
        match possible[self.rng.index(possible.len())] {
            Choice::Complete => {
                let Pending { id, buffer, result } = pending.swap_remove(self.rng.index(pending.len()));
                if let Some((name, buffer)) = buffer {
                    pool.give_back(name, buffer);
                }
                machine.handle(Event::Done { id, result }, pool);
            }
            Choice::Leave(lane) => self.output_leaves(lane, machine, pool, unsent),
            Choice::Answer => self.answer(machine, pool),
            Choice::Clock => {
                self.now_ms = self.wake.take().unwrap_or(0).max(self.now_ms);
                machine.handle(Event::Tick { now_ms: self.now_ms }, pool);
            }
            Choice::Destination => {
                let stepped = self.destination.as_mut().map_or(Ok(()), Destination::step);
                self.violation = stepped.err();
            }
            Choice::Input => {
                let Some((buffer, range)) = reading.take() else { return };
                if self.input.is_empty() {
                    assert!(!self.input_ended, "event {event}: read behind the end of the input");
                    self.input_ended = true;
                    machine.handle(Event::InputEnd, pool);
                    return;
                }
                let most = self.piece_bytes.min(range.len()).min(self.input.len());
                let length = 1 + self.rng.index(most);
                take(&mut self.input, &mut pool.bytes_mut(buffer)[range][..length]);
                machine.handle(Event::Input { bytes: length }, pool);
            }
        }
    }

    /// Pretends the fault that was planted, once, with a page behind the package: what is sent is
    /// as long as before.
    fn plant(&mut self, bytes: &mut [u8], is_page: bool) {
        let serving = self.destination.as_ref().is_some_and(|it| it.state() >= IncomingState::Listening);
        if !is_page || !serving {
            return;
        }
        match self.planted {
            Some(Planted::WrongPage) => {
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 1;
                }
                self.planted = None;
            }
            Some(Planted::CopyNotSent) => {}
            Some(Planted::PageTwice) => match &self.last_page {
                None => self.last_page = Some(bytes.to_vec()),
                Some(last) if last.len() == bytes.len() => {
                    bytes.copy_from_slice(last);
                    self.planted = None;
                }
                Some(_) => {}
            },
            None => {}
        }
    }

    fn output_leaves(
        &mut self,
        lane: Lane,
        machine: &mut impl Machine,
        pool: &mut Pool,
        unsent: &mut Unsent,
    ) {
        let unsent = &mut unsent[lane as usize];
        let length = 1 + self.rng.index(unsent.len().min(self.piece_bytes.max(5000)));
        let mut bytes = vec![0; length];
        take(unsent, &mut bytes);
        if let Some(destination) = &mut self.destination {
            self.violation = destination.receive(lane, &bytes).err();
        }
        self.output.extend(bytes);
        machine.handle(Event::Sent { lane, bytes: length as u64 }, pool);
    }

    /// The destination says something, or has hung up.
    fn answer(&mut self, machine: &mut impl Machine, pool: &mut Pool) {
        let Some(destination) = &mut self.destination else { return };
        let answers = destination.answers();
        if answers.is_empty() {
            self.answers_ended = true;
            machine.handle(Event::AnswerEnd, pool);
            return;
        }
        let length = 1 + self.rng.index(answers.len().min(self.piece_bytes));
        let mut bytes = vec![0; length];
        take(answers, &mut bytes);
        machine.handle(Event::Tick { now_ms: self.now_ms }, pool);
        machine.handle(Event::Answer(&bytes), pool);
    }

    fn cut_power(&mut self) {
        self.lost_power = true;
        // A file without its name is nothing.
        self.temporary = None;
        if let Some(image) = &mut self.image {
            image.lose_power(&mut self.rng);
        }
    }
}

/// Moves what is at the front of a queue, which holds as much.
fn take(queue: &mut VecDeque<u8>, to: &mut [u8]) {
    queue.read_exact(to).expect("taken no more than there is");
}
