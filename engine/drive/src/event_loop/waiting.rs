//! Waits until there is something to tell the machine.

use super::Run;
use super::input::INPUT_BYTES;
use crate::wait::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use snapshot_engine::Lane;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// For so long after an answer of the peer its next one is waited for without sleeping.
const BUSY_POLL: Duration = Duration::from_micros(200);

/// What can be done now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) disk: bool,
    pub(super) input: bool,
    pub(super) answers: bool,
    /// In each lane.
    pub(super) output: [bool; 2],
    pub(super) signal: bool,
    pub(super) another_peer: bool,
}

impl Ready {
    pub(super) fn anything(self) -> bool {
        self.disk
            || self.input
            || self.answers
            || self.output.contains(&true)
            || self.signal
            || self.another_peer
    }
}

impl Run<'_> {
    /// Waits until there is something to tell: as a rule one system call, which also says what it is.
    pub(super) fn wait(&mut self, at_the_latest: Instant) -> io::Result<Ready> {
        if !self.done.is_empty() || self.has_taken() {
            return self.poll(Duration::ZERO);
        }
        if let Some(time) = self.idle_delay
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
        while self.polls_busily() {
            // To be woken up takes longer than the next request.
            let ready = self.poll(Duration::ZERO)?;
            if ready.anything() {
                return Ok(ready);
            }
        }
        let time = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut ready = self.poll(time)?;
        // A signal that did not come, for whatever reason, must not be waited for without limit.
        ready.disk |= !ready.anything();
        Ok(ready)
    }

    /// What the machine wants to read has been taken already.
    pub(super) fn has_taken(&self) -> bool {
        self.reading.is_some() && !self.taken.is_empty()
    }

    /// The peer asked for something a moment ago: as a rule it will again.
    pub(super) fn polls_busily(&self) -> bool {
        self.driver.listens && self.heard.elapsed() < BUSY_POLL
    }

    /// Waits until something can be done, at most `time`.
    pub(super) fn poll(&mut self, time: Duration) -> io::Result<Ready> {
        self.limit_output();
        let channel = &self.driver.channel;
        // Without a flag it still shows that the peer has gone.
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
