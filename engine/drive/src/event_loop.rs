//! Runs a machine: starts what it wants done, waits, and reports what happened.

mod input;
mod output;
mod waiting;

use crate::channel::{Channel, HELD_BYTES};
use crate::disk::{DiskQueue, Finished, Work, io_error};
use crate::image_file::ImageFile;
use input::INPUT_BYTES;
use output::Queue;
use rustix::fs::SeekFrom;
use snapshot_engine::{Action, BufferId, Completed, Event, IoError, IoId, Machine, Milestone, Pool};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use waiting::Ready;

/// How often progress is shown, and how long nothing is looked at if no descriptor is ready.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// What a machine works with.
///
/// The order of the fields is that of their end: operations are waited for, then the image is
/// unlocked, and only then does the peer see us go.
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
    idle_delay: Option<Duration>,
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
        idle_delay: None,
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
                    // From the page cache it is read before this returns. The peer may wait for
                    // what is ready to leave, and ask for more meanwhile.
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
                // Nothing to send would leave the channel ready all the time.
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
            unknown => {
                let refused = |id| (id, Err(IoError::new("this program does not know the operation")));
                self.done.extend(unknown.id().map(refused));
            }
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

    /// A pipe cannot get smaller than what is in it, and would not be emptier while it is kept
    /// full: until then nothing is written. The peer has more to read than it would have otherwise.
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

    /// Reports to the machine what has happened.
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
