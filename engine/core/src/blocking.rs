//! Runs a machine where each operation is over when its call returns: files on which nothing waits
//! for anything else.
//!
//! The loop of [`machine`](crate::machine) for programs that save or revert once, from a file to a
//! file. The trait [`Io`] is all that they have to say; what an [`Action`] means is decided here.

use crate::machine::{Action, Completed, Event, IoError, Lane, Machine, Piece};
use crate::pool::Pool;
use std::io;
use std::ops::Range;

/// What a machine works on: one image file, which has its name already, and a stream.
///
/// A revert needs [`read_at`](Self::read_at) and [`send`](Self::send), a save all others. What is
/// not there fails the job with [`io::ErrorKind::Unsupported`].
pub trait Io {
    /// Reads some bytes of the image from byte `at` on; 0 only at the end of the file.
    ///
    /// # Errors
    ///
    /// The operating system's; the machine names the place.
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` to the image at byte `at`.
    ///
    /// # Errors
    ///
    /// The operating system's. Any part may have been written.
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let _ = (at, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Length of the image in bytes.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn length(&mut self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets the length of the image in bytes.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        let _ = bytes;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Reads some bytes of the stream that is saved; 0 only at its end.
    ///
    /// # Errors
    ///
    /// The operating system's.
    fn read_input(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let _ = bytes;
        Ok(0)
    }

    /// Takes the next bytes of the stream that a revert makes, or of what a save answers.
    ///
    /// # Errors
    ///
    /// The operating system's: nothing more is sent then.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _ = bytes;
        Ok(())
    }
}

/// A machine that has not finished wants nothing more: it waits for a peer, and there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job waits for a peer, and there is none")]
pub struct Stalled;

/// Runs a machine to its end; then its outcome is there.
///
/// ```
/// # use snapshot_engine::{Failure, RevertConfig, RevertMachine, blocking};
/// # use std::io::{self, Write};
/// use std::fs::File;
/// use std::os::unix::fs::FileExt;
///
/// struct ToStdout(File);
///
/// impl blocking::Io for ToStdout {
///     fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
///         self.0.read_at(bytes, at)
///     }
///
///     fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
///         io::stdout().write_all(bytes)
///     }
/// }
///
/// fn revert(image: File, config: RevertConfig) -> Result<(), Failure> {
///     let mut machine = RevertMachine::new(config);
///     blocking::run(&mut machine, &mut ToStdout(image)).map_err(Failure::refused)?;
///     machine.outcome().map(drop)
/// }
/// ```
///
/// # Errors
///
/// The machine waits for something that cannot happen here: an answer of a destination.
pub fn run(machine: &mut impl Machine, io: &mut impl Io) -> Result<(), Stalled> {
    let mut runner = Runner::new(machine);
    while runner.step(io)? {}
    Ok(())
}

/// Runs a machine step by step, for a caller that takes what it sends as it needs it.
#[derive(Debug)]
pub struct Runner<M> {
    machine: M,
    pool: Pool,
    /// Time passes only when nothing else happens.
    wake_ms: Option<u64>,
    finished: bool,
    output_failed: bool,
}

impl<M: Machine> Runner<M> {
    /// Before the machine's first event.
    pub fn new(mut machine: M) -> Self {
        let mut pool = Pool::default();
        machine.handle(Event::Tick { now_ms: 0 }, &mut pool);
        Self { machine, pool, wake_ms: None, finished: false, output_failed: false }
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Carries out the next action; false when the machine has finished.
    ///
    /// # Errors
    ///
    /// As for [`run`].
    pub fn step(&mut self, io: &mut impl Io) -> Result<bool, Stalled> {
        if self.finished {
            return Ok(false);
        }
        match self.machine.poll(&mut self.pool) {
            Some(action) => self.carry_out(action, io),
            None => {
                let now_ms = self.wake_ms.take().ok_or(Stalled)?;
                self.machine.handle(Event::Tick { now_ms }, &mut self.pool);
            }
        }
        Ok(!self.finished)
    }

    fn carry_out(&mut self, action: Action, io: &mut impl Io) {
        let plain = |result: io::Result<()>| result.map(|()| Completed::Plain);
        let (id, result) = match action {
            Action::ReadInput { buffer, range } => {
                let read = io.read_input(&mut self.pool.bytes_mut(buffer)[range]);
                let event = match read {
                    Ok(0) => Event::InputEnd,
                    Ok(bytes) => Event::Input { bytes },
                    Err(error) => Event::InputFailed(IoError::from(&error)),
                };
                return self.machine.handle(event, &mut self.pool);
            }
            Action::Read { id, buffer, pieces } => {
                let bytes = self.pool.bytes_mut(buffer);
                (id, plain(pieces.iter().try_for_each(|piece| fill(io, piece, bytes))))
            }
            Action::Write { id, buffer, pieces } => {
                let bytes = self.pool.bytes(buffer);
                let write = |piece: &Piece| io.write_at(piece.at.0, &bytes[piece.range.clone()]);
                (id, plain(pieces.iter().try_for_each(write)))
            }
            Action::NextData { id, from } => {
                let data = io.length().map(|length| next_data(from.0, length));
                (id, data.map(Completed::Data))
            }
            Action::SetLength { id, length_bytes } => (id, plain(io.set_length(length_bytes))),
            Action::Flush { id } => (id, plain(io.flush())),
            // The file is the new one, and has its name.
            Action::CreateTemporary { id }
            | Action::Ballast { id, .. }
            | Action::Link { id }
            | Action::Unlink { id }
            | Action::ProbeReplace { id }
            | Action::Replace { id } => (id, Ok(Completed::Plain)),
            Action::Send { lane, header, body } => {
                let body = body.map(|body| &self.pool.bytes(body.buffer)[body.range]).unwrap_or_default();
                let sent = [header.bytes(), body].into_iter().try_for_each(|bytes| io.send(bytes));
                let bytes = (header.bytes().len() + body.len()) as u64;
                return self.sent(lane, bytes, sent);
            }
            Action::WakeAt { tick_ms } => {
                self.wake_ms = tick_ms;
                return;
            }
            Action::LimitInput { .. } | Action::LimitOutput { .. } | Action::Announce(_) => return,
            Action::Finish => {
                self.finished = true;
                return;
            }
        };
        let result = result.map_err(|error| IoError::from(&error));
        self.machine.handle(Event::Done { id, result }, &mut self.pool);
    }

    fn sent(&mut self, lane: Lane, bytes: u64, result: io::Result<()>) {
        match result {
            Ok(()) if bytes == 0 => {}
            Ok(()) => self.machine.handle(Event::Sent { lane, bytes }, &mut self.pool),
            Err(_) if self.output_failed => {}
            Err(error) => {
                self.output_failed = true;
                self.machine.handle(Event::OutputFailed(IoError::from(&error)), &mut self.pool);
            }
        }
    }
}

/// Reads a piece. What is behind the end of the file is zeros, as in a hole.
fn fill(io: &mut impl Io, piece: &Piece, bytes: &mut [u8]) -> io::Result<()> {
    let (mut at, mut rest) = (piece.at.0, &mut bytes[piece.range.clone()]);
    while !rest.is_empty() {
        match io.read_at(at, rest) {
            Ok(0) => {
                rest.fill(0);
                return Ok(());
            }
            Ok(read) => (at, rest) = (at + read as u64, &mut rest[read..]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where data is in a file of this length, of which nothing else is known.
fn next_data(from: u64, length: u64) -> Option<Range<u64>> {
    (from < length).then_some(from..length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_image::HostOffset;

    /// Reads up to three bytes at a time, and is interrupted before each.
    struct Short {
        file: Vec<u8>,
        interrupted: bool,
    }

    impl Io for Short {
        fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if at > 100 {
                return Err(io::Error::from_raw_os_error(5));
            }
            let at = usize::try_from(at).unwrap().min(self.file.len());
            let read = (self.file.len() - at).min(bytes.len()).min(3);
            bytes[..read].copy_from_slice(&self.file[at..at + read]);
            Ok(read)
        }
    }

    #[test]
    fn a_read_behind_the_end_of_the_file_brings_zeros_and_any_other_failure_is_one() {
        let mut io = Short { file: (1..=10).collect(), interrupted: false };
        let mut bytes = [0xff; 12];
        fill(&mut io, &Piece { at: HostOffset(2), range: 1..11 }, &mut bytes).unwrap();
        assert_eq!(bytes, [0xff, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0xff]);
        fill(&mut io, &Piece { at: HostOffset(50), range: 0..2 }, &mut bytes).unwrap();
        assert_eq!(bytes[..3], [0, 0, 4]);
        let error = fill(&mut io, &Piece { at: HostOffset(101), range: 0..1 }, &mut bytes).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5));
    }

    #[test]
    fn data_ends_where_the_file_does() {
        assert_eq!((next_data(3, 10), next_data(10, 10)), (Some(3..10), None));
    }

    /// Finishes at its second tick.
    #[derive(Default)]
    struct Clock {
        ticks: Vec<u64>,
        sets_an_alarm: bool,
    }

    impl Machine for Clock {
        fn handle(&mut self, event: Event<'_>, _: &mut Pool) {
            let Event::Tick { now_ms } = event else { panic!("{event:?}") };
            self.ticks.push(now_ms);
        }

        fn poll(&mut self, _: &mut Pool) -> Option<Action> {
            match self.ticks.len() {
                1 if std::mem::take(&mut self.sets_an_alarm) => Some(Action::WakeAt { tick_ms: Some(70) }),
                1 => None,
                _ => Some(Action::Finish),
            }
        }
    }

    #[test]
    fn time_passes_when_nothing_else_happens_and_a_wait_for_no_one_is_an_error() {
        let mut io = Short { file: Vec::new(), interrupted: false };
        let mut clock = Clock { sets_an_alarm: true, ..Clock::default() };
        assert_eq!(run(&mut clock, &mut io), Ok(()));
        assert_eq!(clock.ticks, [0, 70]);
        assert_eq!(run(&mut Clock::default(), &mut io), Err(Stalled));
    }
}
