//! Where the other end is, and the two directions of a connection with it.

use super::faults::Faults;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A pipe takes this much without blocking when it is writable (`PIPE_BUF`).
const PIPE_PIECE_BYTES: usize = 4096;

/// Where the other end is; written as QEMU writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Our stdin and stdout.
    Stdio,
    /// `fd:N`: a descriptor that we were given.
    Fd(i32),
    /// `unix:PATH`
    Unix(PathBuf),
    /// `exec:COMMAND`: a shell command, by its stdin and stdout.
    Exec(String),
}

impl Address {
    /// Reads `stdio`, `fd:N`, `unix:PATH` or `exec:COMMAND`.
    ///
    /// # Errors
    ///
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Self::Stdio),
            Some(("fd", number)) => match number.parse() {
                Ok(number) if number >= 0 => Ok(Self::Fd(number)),
                _ => Err(format!("fd:{number}: expected the number of a descriptor")),
            },
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("exec", command)) if !command.is_empty() => Ok(Self::Exec(command.to_owned())),
            _ => Err("expected stdio, fd:N, unix:PATH or exec:COMMAND".to_owned()),
        }
    }
}

/// A connection: what comes, what goes, and the command behind it.
#[derive(Debug)]
pub struct Connection {
    /// From the peer.
    pub input: Input,
    /// To the peer; a file or a pipe has one direction only.
    pub output: Option<Output>,
    child: Option<Child>,
}

impl Connection {
    /// Meets the peer as a source does.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn connect(address: &Address, timeout: Duration, faults: &Faults) -> io::Result<Self> {
        match address {
            Address::Stdio => {
                let (input, output) =
                    (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
                Ok(Self::of(input, Some(output), timeout, faults))
            }
            Address::Fd(number) => Self::of_one(descriptor(*number)?, timeout, faults),
            Address::Unix(path) => Self::of_one(patient(path, timeout)?.into(), timeout, faults),
            Address::Exec(command) => Self::exec(command, timeout, faults),
        }
    }

    fn of(input: OwnedFd, output: Option<OwnedFd>, timeout: Duration, faults: &Faults) -> Self {
        let (input, output) =
            (Input::new(input, timeout, faults), output.map(|fd| Output::new(fd, timeout, faults)));
        Self { input, output, child: None }
    }

    /// One descriptor for both directions, as far as it has them.
    fn of_one(fd: OwnedFd, timeout: Duration, faults: &Faults) -> io::Result<Self> {
        let output = fd.try_clone()?;
        Ok(Self::of(fd, Some(output), timeout, faults))
    }

    /// Both ends of a connection within this process, each with its longest wait and its faults.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn pair(ours: (Duration, &Faults), theirs: (Duration, &Faults)) -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self::of_one(a.into(), ours.0, ours.1)?, Self::of_one(b.into(), theirs.0, theirs.1)?))
    }

    /// Starts a command as QEMU's `exec:` does: what it writes comes to us, what we write it reads.
    fn exec(command: &str, timeout: Duration, faults: &Faults) -> io::Result<Self> {
        let mut command = {
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(command);
            shell
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdout.take(), child.stdin.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let connection = Self::of(input.into(), Some(output.into()), timeout, faults);
        Ok(Self { child: Some(child), ..connection })
    }

    /// The connection, and the command behind it, to be waited for when both directions are closed.
    #[must_use]
    pub fn without_command(mut self) -> (Self, Option<Child>) {
        let child = self.child.take();
        (self, child)
    }

    /// The two directions, and the command to wait for when both are closed.
    #[must_use]
    pub fn split(self) -> (Input, Option<Output>, Option<Child>) {
        (self.input, self.output, self.child)
    }
}

/// Waits until a program listens there.
fn patient(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && start.elapsed() < timeout =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// A copy of a descriptor of ours that we know by its number.
fn descriptor(number: i32) -> io::Result<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(own, number, PidfdGetfdFlags::empty())?)
}

/// A socket to be found at; its file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at a path where nothing is.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = UnixListener::bind(path)?;
        // Guest RAM is secret. No one can have connected that is not accepted yet.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// The kernel's; `TimedOut`.
    pub fn accept(&self, timeout: Duration, faults: &Faults) -> io::Result<Connection> {
        wait(self.socket.as_fd(), PollFlags::IN, timeout)?;
        Connection::of_one(self.socket.accept()?.0.into(), timeout, faults)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, timeout: Duration) -> io::Result<()> {
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The direction from the peer to us.
#[derive(Debug)]
pub struct Input {
    fd: OwnedFd,
    timeout: Duration,
    faults: Faults,
    /// Bytes so far.
    at: u64,
}

impl Input {
    fn new(fd: OwnedFd, timeout: Duration, faults: &Faults) -> Self {
        Self { fd, timeout, faults: faults.clone(), at: 0 }
    }

    /// How long a read waits.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A handle that ends the connection from another thread, as far as the kind of it can be ended.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn breaker(&self) -> io::Result<Breaker> {
        Ok(Breaker(self.fd.try_clone()?))
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.faults.piece(self.at, buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Ok(0);
        }
        wait(self.fd.as_fd(), PollFlags::IN, self.timeout)?;
        let length = loop {
            match rustix::io::read(&self.fd, &mut buffer[..most]) {
                Err(Errno::INTR) => {}
                // The peer closed without reading everything: the same as a close.
                Err(Errno::CONNRESET) => break 0,
                other => break other?,
            }
        };
        self.faults.arrived(self.at, &mut buffer[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

/// Ends a connection from outside of the thread that uses it.
#[derive(Debug)]
pub struct Breaker(OwnedFd);

impl Breaker {
    /// Ends both directions of a socket; a pipe goes on.
    pub fn shut_down(&self) {
        let socket = self.0.try_clone().map(UnixStream::from);
        // It may have ended by itself.
        let _ = socket.and_then(|socket| socket.shutdown(Shutdown::Both));
    }
}

/// The direction from us to the peer.
#[derive(Debug)]
pub struct Output {
    fd: OwnedFd,
    timeout: Duration,
    faults: Faults,
    kind: FileType,
    at: u64,
}

impl Output {
    fn new(fd: OwnedFd, timeout: Duration, faults: &Faults) -> Self {
        let kind =
            rustix::fs::fstat(&fd).map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        Self { fd, timeout, faults: faults.clone(), kind, at: 0 }
    }

    /// Bytes so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Says that nothing more comes; what the peer sends can still be read.
    pub fn finish(self) {
        if self.kind == FileType::Socket {
            let _ = UnixStream::from(self.fd).shutdown(Shutdown::Write);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = self.faults.piece(self.at, bytes.len());
        if most == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let piece = &bytes[..most];
        if matches!(self.kind, FileType::Socket | FileType::Fifo) {
            wait(self.fd.as_fd(), PollFlags::OUT, self.timeout)?;
        }
        let written = loop {
            let result = match self.kind {
                FileType::Socket => {
                    rustix::net::send(&self.fd, piece, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                FileType::Fifo => rustix::io::write(&self.fd, &piece[..piece.len().min(PIPE_PIECE_BYTES)]),
                _ => rustix::io::write(&self.fd, piece),
            };
            match result {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(self.fd.as_fd(), PollFlags::OUT, self.timeout)?,
                other => break other?,
            }
        };
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
