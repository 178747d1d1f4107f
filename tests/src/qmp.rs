//! QEMU's monitor protocol: JSON lines on a UNIX socket, as far as the tests use it.

use std::{
    io::{self, IoSlice, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// How long QEMU may take for one answer. Its main loop waits for some things that tests do to it:
/// a tool that syncs a whole image at the end of a save, for instance.
const ANSWER: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Why a command has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QmpError {
    /// QEMU refused the command: its `desc`.
    Refused(String),
    /// The monitor is closed: QEMU ended, or was never there.
    Closed,
    /// No answer within a minute.
    Late,
}

/// A connection to the monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to the monitor at `path` as soon as it listens and `alive` still says so, and
    /// leaves negotiation mode.
    ///
    /// # Errors
    ///
    /// `Closed` if `alive` turned false, `Late` after a minute.
    pub fn connect(path: &Path, mut alive: impl FnMut() -> bool) -> Result<Self, QmpError> {
        let end = Instant::now() + ANSWER;
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(path) {
                break stream;
            }
            if !alive() {
                return Err(QmpError::Closed);
            }
            if Instant::now() > end {
                return Err(QmpError::Late);
            }
            thread::sleep(POLL);
        };
        let mut qmp = Self { stream, pending: Vec::new(), events: Vec::new() };
        qmp.message(end)?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs `command` and gives what it returns.
    ///
    /// # Errors
    ///
    /// See [`QmpError`].
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_with(command, arguments, None)
    }

    /// Gives QEMU the descriptor `fd` under `name`, for `fd:name`.
    ///
    /// # Errors
    ///
    /// See [`QmpError`].
    pub fn give_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.execute_with("getfd", json!({ "fdname": name }), Some(fd)).map(drop)
    }

    /// The events that came so far, oldest first; each is given once.
    pub fn take_events(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.events)
    }

    fn execute_with(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string().into_bytes();
        line.push(b'\n');
        self.send(&line, fd)?;
        let end = Instant::now() + ANSWER;
        loop {
            let message = self.message(end)?;
            if let Some(result) = message.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = message.get("error") {
                let text = error["desc"].as_str().unwrap_or("an error without a description");
                return Err(QmpError::Refused(text.to_owned()));
            }
            self.events.push(message);
        }
    }

    fn send(&mut self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), QmpError> {
        let fds = fd.as_slice();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "space for one descriptor");
        }
        // A command is far smaller than a socket's buffer, so that it goes out whole.
        match sendmsg(self.stream.as_fd(), &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == line.len() => Ok(()),
            _ => Err(QmpError::Closed),
        }
    }

    fn message(&mut self, end: Instant) -> Result<Value, QmpError> {
        loop {
            if let Some(at) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                return Ok(serde_json::from_slice(&line).expect("QEMU writes JSON"));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QmpError::Late);
            }
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(length) => self.pending.extend_from_slice(&piece[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(QmpError::Late);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(QmpError::Closed),
            }
        }
    }
}
