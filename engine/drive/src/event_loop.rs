//! Runs a machine: starts what it wants done, waits, and tells it what happened.

use crate::channel::{Channel, HELD_BYTES};
use crate::disk::{DiskQueue, Finished, Work, io_error};
use crate::image_file::ImageFile;
use crate::last_resort::has_sent;
use crate::small_pipe::make_small;
use crate::wait::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::SeekFrom;
use snapshot_engine::machine::{Body, Header};
use snapshot_engine::{Action, BufferId, Completed, Event, IoError, IoId, Lane, Machine, Milestone, Pool};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Pieces that one write gathers; the kernel takes 1024.
const GATHERED_PIECES: usize = 512;
/// A source writes few pages at a time, and a wake-up costs more than moving them does: input is left alone for so long
/// that reads find about this many 64ths of what can pile up. A pipe of 64 KiB is full with ten pages and their headers,
/// 40 KiB: each second header takes a page of the pipe's.
const READ_AIM: Range<usize> = 12..28;
/// What can pile up as long as nothing else is known: what a pipe has from the beginning.
const INPUT_BYTES: usize = 64 << 10;
/// The shortest time that input is left alone, if at all, and the longest.
const LEAVE_ALONE: Range<Duration> = Duration::from_micros(50)..Duration::from_millis(1);
/// For so long after an answer of the peer its next one is waited for without sleeping.
const DIALOGUE: Duration = Duration::from_micros(200);
/// How often progress is shown, and how long nothing is looked at if nothing tells of itself.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What a machine works with.
///
/// The order of the fields is that of their end: operations are waited for, then the image is unlocked, and only then does
/// the peer see us go.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) disk: DiskQueue,
    pub(crate) image: Option<ImageFile>,
    pub(crate) channel: Channel,
    /// Becomes readable when the user wants it to end.
    pub(crate) signals: Option<UnixStream>,
    /// A revert reads what the destination answers.
    pub(crate) listens: bool,
}

/// Output of one lane.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<(Header, Option<Body>)>,
    /// Bytes of the first piece that have left.
    sent_of_first: usize,
}

struct Run<'a> {
    driver: &'a mut Driver,
    pool: Pool,
    /// What waits to leave, in each lane.
    output: [Queue; 2],
    reading: Option<(BufferId, Range<usize>)>,
    /// The machine wants to see at once what comes.
    held: bool,
    /// Taken out of the input pipe, so that it could become small, before the machine asked for it.
    taken: VecDeque<u8>,
    /// That was done.
    emptied: bool,
    /// What can pile up in the input.
    input_bytes: usize,
    /// The input pipe is still to be resized to this.
    limiting_input: Option<usize>,
    /// How long input is left alone before the next read.
    leave_alone: Option<Duration>,
    /// The output pipe is still to get this size.
    limiting: Option<usize>,
    wake: Option<u64>,
    done: VecDeque<(IoId, Result<Completed, IoError>)>,
    start: Instant,
    /// When the peer answered last.
    heard: Instant,
    answers_ended: bool,
    interrupted: bool,
}

/// Runs `machine` until it has finished; `progress` is called now and then, `announce` at milestones.
///
/// # Errors
///
/// Only what no machine could be told of: `poll(2)` itself fails.
pub(crate) fn run<M: Machine>(
    machine: &mut M,
    driver: &mut Driver,
    mut progress: impl FnMut(&M),
    mut announce: impl FnMut(Milestone),
) -> io::Result<()> {
    let mut run = Run {
        driver,
        pool: Pool::default(),
        output: Default::default(),
        reading: None,
        held: false,
        taken: VecDeque::new(),
        emptied: false,
        input_bytes: INPUT_BYTES,
        limiting_input: None,
        leave_alone: None,
        limiting: None,
        wake: None,
        done: VecDeque::new(),
        start: Instant::now(),
        heard: Instant::now(),
        answers_ended: false,
        interrupted: false,
    };
    machine.handle(Event::Tick { now_ms: 0 }, &mut run.pool);
    let mut shown = Instant::now();
    loop {
        let mut more = false;
        while !more && let Some(action) = machine.poll(&mut run.pool) {
            match action {
                Action::Finish => {
                    progress(machine);
                    return Ok(());
                }
                Action::Announce(milestone) => announce(milestone),
                action @ Action::Read { .. } if run.driver.listens => {
                    // From the page cache it is read before this returns. The peer may wait for what is ready to leave, and
                    // ask for more meanwhile.
                    run.write_outputs(machine, [run.limiting.is_none(), true]);
                    run.start(action);
                    more = true;
                }
                action => run.start(action),
            }
        }
        let ready = if more { run.poll(Duration::ZERO)? } else { run.wait(shown + PROGRESS_INTERVAL)? };
        run.tell(machine, &ready);
        if shown.elapsed() >= PROGRESS_INTERVAL {
            progress(machine);
            shown = Instant::now();
        }
    }
}

impl Run<'_> {
    fn now_ms(&self) -> u64 {
        let time = self.start.elapsed();
        time.as_secs() * 1000 + u64::from(time.subsec_millis())
    }

    fn start(&mut self, action: Action) {
        let plain =
            |result: io::Result<()>| result.map(|()| Completed::Plain).map_err(|error| io_error(&error));
        let no_file = || IoError::new("there is no image file");
        match action {
            Action::ReadInput { buffer, range } => {
                if range.len() < INPUT_BYTES {
                    self.empty_input();
                }
                self.reading = Some((buffer, range));
            }
            Action::LimitInput { bytes } => {
                self.held = bytes <= HELD_BYTES;
                self.limiting_input = Some(bytes);
                self.limit_input();
            }
            Action::CreateTemporary { id } => self.with_image(id, ImageFile::create_temporary),
            Action::Ballast { id, bytes } => self.with_image(id, |image| image.hold_ballast(bytes)),
            Action::Link { id } => self.with_image(id, ImageFile::link),
            Action::Unlink { id } => self.with_image(id, ImageFile::unlink),
            Action::ProbeReplace { id } => self.with_image(id, ImageFile::probe_replace),
            Action::Replace { id } => self.with_image(id, ImageFile::replace),
            Action::SetLength { id, length_bytes } => {
                let result = self.driver.file().map(|file| plain(file.set_len(length_bytes)));
                self.done.push_back((id, result.unwrap_or_else(|| Err(no_file()))));
            }
            Action::NextData { id, from } => {
                let result =
                    self.driver.file().map(|file| next_data(&file, from.0).map_err(|error| io_error(&error)));
                self.done.push_back((id, result.unwrap_or_else(|| Err(no_file()))));
            }
            Action::Read { id, buffer, pieces } => {
                let lent = self.pool.lend(buffer);
                self.submit(id, Work::Read(buffer, lent, pieces));
            }
            Action::Write { id, buffer, pieces } => {
                let lent = self.pool.lend(buffer);
                self.submit(id, Work::Write(buffer, lent, pieces));
            }
            Action::Flush { id } => self.submit(id, Work::Flush),
            Action::Send { lane, header, body } => {
                // Nothing to send would leave the channel ready for ever.
                if !header.bytes().is_empty() || body.as_ref().is_some_and(|body| !body.range.is_empty()) {
                    self.output[lane as usize].pieces.push_back((header, body));
                }
            }
            Action::LimitOutput { bytes } => {
                self.limiting = Some(bytes);
                self.limit_output();
            }
            Action::WakeAt { tick_ms } => self.wake = tick_ms,
            Action::Announce(_) | Action::Finish => {}
        }
    }

    /// Does something with the image that is over at once; an error names it.
    fn with_image(&mut self, id: IoId, work: impl FnOnce(&mut ImageFile) -> io::Result<()>) {
        let result = match &mut self.driver.image {
            Some(image) => work(image).map_err(|error| image.named(&error)),
            None => Err(IoError::new("there is no image file")),
        };
        self.done.push_back((id, result.map(|()| Completed::Plain)));
    }

    /// A pipe cannot get smaller than what is in it, and would not be emptier while it is kept full: until then nothing
    /// is written. The peer has more to read than it would have otherwise.
    fn limit_output(&mut self) {
        self.limiting = self.limiting.filter(|bytes| !self.driver.channel.limit_output(*bytes));
    }

    fn submit(&mut self, id: IoId, work: Work) {
        match self.driver.file() {
            Some(file) => self.driver.disk.submit(&file, id, work),
            None => {
                if let Work::Read(name, buffer, _) | Work::Write(name, buffer, _) = work {
                    self.pool.give_back(name, buffer);
                }
                self.done.push_back((id, Err(IoError::new("there is no image file"))));
            }
        }
    }

    /// Tells the machine what has happened.
    fn tell<M: Machine>(&mut self, machine: &mut M, ready: &Ready) {
        let finished = if ready.disk { self.driver.disk.finished() } else { Vec::new() };
        for Finished { id, buffer, result } in finished {
            if let Some((name, buffer)) = buffer {
                self.pool.give_back(name, buffer);
            }
            self.done.push_back((id, result));
        }
        while let Some((id, result)) = self.done.pop_front() {
            machine.handle(Event::Done { id, result }, &mut self.pool);
        }
        if self.wake.is_some_and(|wake| wake <= self.now_ms()) {
            self.wake = None;
            machine.handle(Event::Tick { now_ms: self.now_ms() }, &mut self.pool);
        }
        if ready.signal && !self.interrupted {
            self.interrupted = true;
            machine.handle(Event::Interrupted, &mut self.pool);
        }
        if ready.another_peer {
            self.driver.channel.turn_away();
            machine.handle(Event::AnotherPeer, &mut self.pool);
        }
        if ready.answers {
            self.read_answers(machine);
        }
        if ready.input {
            self.read_input(machine);
        }
        self.write_outputs(machine, ready.output);
    }

    /// Writes what the chosen lanes take at once.
    fn write_outputs<M: Machine>(&mut self, machine: &mut M, lanes: [bool; 2]) {
        for lane in [Lane::Preempt, Lane::Main] {
            if lanes[lane as usize] && !self.output[lane as usize].pieces.is_empty() {
                self.write_output(machine, lane);
            }
        }
    }

    fn read_input<M: Machine>(&mut self, machine: &mut M) {
        let (Some((buffer, range)), Some(input)) = (self.reading.take(), self.driver.channel.input()) else {
            return;
        };
        let place = &mut self.pool.bytes_mut(buffer)[range.clone()];
        if !self.taken.is_empty() {
            let bytes = self.taken.read(place).unwrap_or(0);
            return machine.handle(Event::Input { bytes }, &mut self.pool);
        }
        let read = rustix::io::read(input, place);
        // Now it is empty: the writer is not awake yet.
        self.limit_input();
        match read {
            Ok(0) => machine.handle(Event::InputEnd, &mut self.pool),
            Ok(bytes) => {
                if range.len() >= INPUT_BYTES {
                    self.leave_alone = leave_alone(self.leave_alone, bytes, self.input_bytes);
                }
                machine.handle(Event::Input { bytes }, &mut self.pool);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                self.reading = Some((buffer, range));
            }
            Err(error) => machine.handle(Event::InputFailed(io_error(&error.into())), &mut self.pool),
        }
    }

    /// Empties the input pipe and makes it small at once: a machine that reads little at a time would always leave too much in
    /// it. What is in it has been written as far as the writer knows, so nothing is lost by taking it.
    fn empty_input(&mut self) {
        let Some(bytes) = self.limiting_input.filter(|_| !self.emptied) else { return };
        if let Some(input) = self.driver.channel.input()
            && self.driver.channel.input_limit().is_some()
        {
            // Once: what the machine reads until it is done with that may be the last that it is to see.
            self.limiting_input = (!make_small(input, bytes, &mut self.taken)).then_some(bytes);
            self.input_bytes = self.driver.channel.input_limit().unwrap_or(INPUT_BYTES);
            self.emptied = true;
        }
    }

    /// Resizes the input pipe, if that is still to be done.
    fn limit_input(&mut self) {
        let channel = &self.driver.channel;
        if self.limiting_input.take_if(|bytes| channel.limit_input(*bytes)).is_some() {
            self.input_bytes = channel.input_limit().unwrap_or(INPUT_BYTES);
        }
    }

    fn read_answers<M: Machine>(&mut self, machine: &mut M) {
        let Some(input) = self.driver.channel.input() else { return };
        let mut bytes = [0; 4096];
        match rustix::io::read(input, &mut bytes) {
            Ok(0) => {
                self.answers_ended = true;
                machine.handle(Event::AnswerEnd, &mut self.pool);
            }
            Ok(length) => {
                self.heard = Instant::now();
                machine.handle(Event::Tick { now_ms: self.now_ms() }, &mut self.pool);
                machine.handle(Event::Answer(&bytes[..length]), &mut self.pool);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => {
                self.answers_ended = true;
                machine.handle(Event::AnswerEnd, &mut self.pool);
            }
        }
    }

    /// Writes as much as the channel takes at once.
    fn write_output<M: Machine>(&mut self, machine: &mut M, lane: Lane) {
        let Some(output) = self.driver.channel.output(lane) else { return };
        let queue = &mut self.output[lane as usize];
        let mut slices = Vec::with_capacity(GATHERED_PIECES + 1);
        let mut skip = queue.sent_of_first;
        for (header, body) in &queue.pieces {
            let body =
                body.as_ref().map_or(&[][..], |body| &self.pool.bytes(body.buffer)[body.range.clone()]);
            for bytes in [header.bytes(), body] {
                let from = skip.min(bytes.len());
                skip -= from;
                if from < bytes.len() {
                    slices.push(IoSlice::new(&bytes[from..]));
                }
            }
            if slices.len() >= GATHERED_PIECES {
                break;
            }
        }
        let written = rustix::io::writev(output, &slices);
        drop(slices);
        match written {
            Ok(0) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(bytes) => {
                has_sent();
                queue.took(bytes);
                machine.handle(Event::Sent { lane, bytes: bytes as u64 }, &mut self.pool);
            }
            Err(error) => {
                self.output = Default::default();
                machine.handle(Event::OutputFailed(io_error(&error.into())), &mut self.pool);
            }
        }
    }

    /// Waits until there is something to tell: as a rule one system call, which also says what it is.
    fn wait(&mut self, at_the_latest: Instant) -> io::Result<Ready> {
        if !self.done.is_empty() || self.has_taken() {
            return self.poll(Duration::ZERO);
        }
        if let Some(time) = self.leave_alone
            && self.reading.as_ref().is_some_and(|(_, range)| range.len() >= INPUT_BYTES)
            && !self.held
        {
            // Short enough for everything else to wait, too.
            std::thread::sleep(time);
        }
        let mut until = at_the_latest;
        if let Some(wake) = self.wake {
            until = until.min(self.start + Duration::from_millis(wake));
        }
        if self.limiting.is_some() {
            until = Instant::now();
        }
        while self.is_in_dialogue() {
            // To be woken up takes longer than the next request.
            let ready = self.poll(Duration::ZERO)?;
            if ready.anything() {
                return Ok(ready);
            }
        }
        let time = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut ready = self.poll(time)?;
        // A signal that did not come, for whatever reason, must not be waited for for ever.
        ready.disk |= !ready.anything();
        Ok(ready)
    }

    /// What the machine wants to read has been taken already.
    fn has_taken(&self) -> bool {
        self.reading.is_some() && !self.taken.is_empty()
    }

    /// The peer asked for something a moment ago: as a rule it will again.
    fn is_in_dialogue(&self) -> bool {
        self.driver.listens && self.heard.elapsed() < DIALOGUE
    }

    /// Waits until something can be done, at most `time`.
    fn poll(&mut self, time: Duration) -> io::Result<Ready> {
        self.limit_output();
        let channel = &self.driver.channel;
        // Without a flag it still tells that the peer has gone.
        let main = if self.limiting.is_some() { PollFlags::empty() } else { PollFlags::OUT };
        let signal = self.driver.disk.signal();
        let signals = self.driver.signals.as_ref().map(AsFd::as_fd);
        let wanted = [
            (Some(signal), true, PollFlags::IN),
            (channel.input(), self.reading.is_some(), PollFlags::IN),
            (channel.input(), self.driver.listens && !self.answers_ended, PollFlags::IN),
            (channel.output(Lane::Main), !self.output[0].pieces.is_empty(), main),
            (channel.output(Lane::Preempt), !self.output[1].pieces.is_empty(), PollFlags::OUT),
            (signals, !self.interrupted, PollFlags::IN),
            (channel.listener(), true, PollFlags::IN),
        ];
        let mut fds = Vec::with_capacity(wanted.len());
        let places = wanted.map(|(fd, wanted, flags)| {
            fds.push(PollFd::from_borrowed_fd(fd.filter(|_| wanted)?, flags));
            Some(fds.len() - 1)
        });
        match poll(&mut fds, Some(&timespec(time))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !fds[at].revents().is_empty());
        let [disk, mut input, answers, main, preempt, signal, another_peer] = places.map(is_ready);
        input |= self.has_taken();
        Ok(Ready { disk, input, answers, output: [main, preempt], signal, another_peer })
    }
}

#[derive(Debug, Clone, Copy)]
struct Ready {
    disk: bool,
    input: bool,
    answers: bool,
    /// In each lane.
    output: [bool; 2],
    signal: bool,
    another_peer: bool,
}

impl Queue {
    /// The channel took this many bytes.
    fn took(&mut self, bytes: usize) {
        let mut rest = bytes + self.sent_of_first;
        while let Some((header, body)) = self.pieces.front() {
            let length = header.bytes().len() + body.as_ref().map_or(0, |body| body.range.len());
            if rest < length {
                break;
            }
            rest -= length;
            self.pieces.pop_front();
        }
        self.sent_of_first = rest;
    }
}

impl Ready {
    fn anything(self) -> bool {
        self.disk
            || self.input
            || self.answers
            || self.output.contains(&true)
            || self.signal
            || self.another_peer
    }
}

/// How long input is to be left alone after a read that found `bytes`, of which `most` can pile up.
fn leave_alone(last: Option<Duration>, bytes: usize, most: usize) -> Option<Duration> {
    let (shortest, longest) = (LEAVE_ALONE.start, LEAVE_ALONE.end);
    let (little, much) = (most / 64 * READ_AIM.start, most / 64 * READ_AIM.end);
    match last {
        Some(time) if bytes > much => Some(time / 2).filter(|time| *time >= shortest),
        None if bytes > much => None,
        Some(time) if bytes < little => Some((time * 2).min(longest)),
        None => Some(shortest),
        same => same,
    }
}

/// Where the next data lies (lseek(2), SEEK_DATA). A file system that cannot tell has data everywhere.
fn next_data(file: &std::fs::File, from: u64) -> io::Result<Completed> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(Completed::Data(None)),
        Err(rustix::io::Errno::INVAL) => return Ok(Completed::Data(Some(from..file.metadata()?.len()))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Completed::Data(Some(start..end)))
}

impl Driver {
    fn file(&self) -> Option<std::sync::Arc<std::fs::File>> {
        self.image.as_ref().and_then(|image| image.file.clone())
    }
}

#[cfg(test)]
mod tests;
