//! The channel to QEMU: stdin and stdout behind `exec:`, a descriptor, or a socket.

use crate::descriptor::duplicate;
use crate::listener::Listener;
use crate::wait::{Patience, timespec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt;
use snapshot_engine::Lane;
use standard_streams::Stream;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What the output pipe is enlarged to, as far as the system allows it.
const PIPE_BYTES: usize = 1 << 20;
/// A writer that has no more room than this is held back.
pub(crate) const HELD_BYTES: usize = 4096;

/// `--uri`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uri {
    /// `fd:N`.
    Fd(RawFd),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("fd", number)) => match number.parse() {
                Ok(fd) if fd >= 0 => Ok(Self::Fd(fd)),
                _ => Err(format!("fd:{} is not the number of a file descriptor", number.escape_debug())),
            },
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            _ => Err("expected fd:N or unix:PATH".to_owned()),
        }
    }
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Socket,
    Other,
}

/// Both directions.
#[derive(Debug)]
pub struct Channel {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    input_kind: Kind,
    output_kind: Kind,
    /// The second connection, for requested pages.
    preempt: Option<OwnedFd>,
    /// Flags of the output before it was made non-blocking; it may be shared.
    output_flags: Option<OFlags>,
    /// Still listens, to notice a source that brings more channels than one.
    listener: Option<Listener>,
}

fn kind(fd: impl AsFd) -> io::Result<Kind> {
    Ok(match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        _ => Kind::Other,
    })
}

/// A stream is nothing for a terminal.
fn refuse_terminal(fd: impl AsFd, name: &str) -> io::Result<()> {
    if rustix::termios::isatty(fd) {
        let what = format!("{name} is a terminal; a stream goes through a pipe, a socket or a file");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(())
}

fn can_carry_answers(fd: impl AsFd) -> bool {
    matches!(kind(fd), Ok(Kind::Pipe | Kind::Socket))
}

impl Channel {
    /// The channel on which a stream comes in. With a path it waits for the source, at most
    /// `timeout`, or until `signals` becomes readable.
    ///
    /// # Errors
    ///
    /// The operating system's; a terminal is refused; no one connected.
    pub fn for_save(
        uri: Option<&Uri>,
        timeout: Option<Duration>,
        signals: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        match uri {
            None => {
                standard_streams::check(Stream::Stdin).map_err(|error| closed("stdin", &error))?;
                let input = std::io::stdin().as_fd().try_clone_to_owned()?;
                refuse_terminal(&input, "stdin")?;
                // Behind exec: answers go to stdout; anything else there is not the source. A
                // socket takes them itself.
                let output = std::io::stdout().as_fd().try_clone_to_owned()?;
                let output = match kind(&input)? {
                    _ if can_carry_answers(&output) => Some(output),
                    Kind::Socket => Some(input.try_clone()?),
                    Kind::Pipe | Kind::Other => None,
                };
                Self::new(Some(input), output)
            }
            Some(Uri::Fd(fd)) => Self::of_descriptor(*fd, true),
            Some(Uri::Unix(path)) => {
                let listener = Listener::bind(path).map_err(|error| named(path, &error))?;
                let socket = OwnedFd::from(Patience::new(timeout, signals).accept(&listener.socket)?);
                let mut channel = Self::new(Some(socket.try_clone()?), Some(socket))?;
                channel.listener = Some(listener);
                Ok(channel)
            }
        }
    }

    /// The channel on which a stream goes out; with a second connection for requested pages if
    /// `preempt` and there can be one: [`is_preempt`](Self::is_preempt). With a path it waits for a
    /// listener that is busy, at most `timeout`, or until `signals` becomes readable.
    ///
    /// # Errors
    ///
    /// The operating system's; a terminal is refused; the listener stayed busy.
    pub fn for_revert(
        uri: Option<&Uri>,
        preempt: bool,
        timeout: Option<Duration>,
        signals: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        match uri {
            None => {
                standard_streams::check(Stream::Stdout).map_err(|error| closed("stdout", &error))?;
                let input = std::io::stdin().as_fd().try_clone_to_owned()?;
                let output = std::io::stdout().as_fd().try_clone_to_owned()?;
                refuse_terminal(&output, "stdout")?;
                Self::new(can_carry_answers(&input).then_some(input), Some(output))
            }
            Some(Uri::Fd(fd)) => Self::of_descriptor(*fd, false),
            Some(Uri::Unix(path)) => {
                let patience = Patience::new(timeout, signals);
                let connect = || patience.connect(path).map_err(|error| named(path, &error));
                let socket = OwnedFd::from(connect()?);
                let mut channel = Self::new(Some(socket.try_clone()?), Some(socket))?;
                if preempt {
                    // QEMU takes the first connection for the stream, and the second for this.
                    let second = connect()?;
                    second.set_nonblocking(true)?;
                    channel.preempt = Some(second.into());
                }
                Ok(channel)
            }
        }
    }

    fn of_descriptor(fd: RawFd, save: bool) -> io::Result<Self> {
        // The number comes from the user; a duplicate of it is ours, and a wrong one is an error.
        let owned = duplicate(fd)
            .map_err(|error| io::Error::new(error.kind(), format!("file descriptor {fd}: {error}")))?;
        refuse_terminal(&owned, &format!("file descriptor {fd}"))?;
        match kind(&owned)? {
            Kind::Socket => Self::new(Some(owned.try_clone()?), Some(owned)),
            _ if save => Self::new(Some(owned), None),
            _ => Self::new(None, Some(owned)),
        }
    }

    fn new(input: Option<OwnedFd>, output: Option<OwnedFd>) -> io::Result<Self> {
        let input_kind = input.as_ref().map_or(Ok(Kind::Other), kind)?;
        let output_kind = output.as_ref().map_or(Ok(Kind::Other), kind)?;
        let mut channel = Self {
            input,
            output,
            input_kind,
            output_kind,
            preempt: None,
            output_flags: None,
            listener: None,
        };
        // How large the input's is to be is asked for: what is in a pipe has been written as far as
        // the writer knows.
        if let (Some(fd), Kind::Pipe) = (&channel.output, output_kind) {
            // Best effort: fewer and larger transfers.
            let _ = rustix::pipe::fcntl_setpipe_size(fd, PIPE_BYTES);
        }
        if let (Some(fd), true) = (&channel.output, output_kind != Kind::Other) {
            let flags = rustix::fs::fcntl_getfl(fd)?;
            rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
            channel.output_flags = Some(flags);
        }
        Ok(channel)
    }

    /// Whether what is sent goes to this very file.
    pub(crate) fn writes_to(&self, file: &File) -> io::Result<bool> {
        let Some(output) = &self.output else { return Ok(false) };
        let (own, other) = (rustix::fs::fstat(output)?, rustix::fs::fstat(file)?);
        Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
    }

    /// There is a program at the other end that waits for what we do.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.input_kind != Kind::Other
    }

    /// Something comes in, or the input ends, within this time.
    pub(crate) fn has_input_within(&self, time: Duration) -> bool {
        let Some(input) = &self.input else { return false };
        poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&timespec(time))).is_ok_and(|ready| ready > 0)
    }

    /// Waits until the peer of a socket closes it, at most for this time.
    pub(crate) fn wait_closed(&self, time: Duration) {
        if let Some(output) = &self.output {
            // Errors and hang-ups are told unasked.
            let _ = poll(&mut [PollFd::new(output, PollFlags::RDHUP)], Some(&timespec(time)));
        }
    }

    /// Something can be sent back.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        self.output.is_some() && self.output_kind != Kind::Other
    }

    /// The input is a socket: its writer does not notice whether we have read everything.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.input_kind == Kind::Socket
    }

    /// Becomes readable when another peer connects.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|listener| listener.fd())
    }

    /// Turns the peer away that has just connected, and all that follow.
    pub(crate) fn turn_away(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = listener.socket.accept();
        }
    }

    pub(crate) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn output(&self, lane: Lane) -> Option<BorrowedFd<'_>> {
        let fd = match lane {
            Lane::Main => &self.output,
            Lane::Preempt => &self.preempt,
        };
        fd.as_ref().map(AsFd::as_fd)
    }

    /// There is a second connection.
    #[must_use]
    pub fn is_preempt(&self) -> bool {
        self.preempt.is_some()
    }

    /// Answers come in.
    #[must_use]
    pub fn can_be_answered(&self) -> bool {
        self.input.is_some() && self.input_kind != Kind::Other
    }

    /// Sets what may pile up on the way out; false while more is there.
    pub(crate) fn limit_output(&self, bytes: usize) -> bool {
        match (&self.output, self.output_kind) {
            // Any other refusal is for good.
            (Some(fd), Kind::Pipe) => rustix::pipe::fcntl_setpipe_size(fd, bytes) != Err(Errno::BUSY),
            (Some(fd), Kind::Socket) => {
                let _ = sockopt::set_socket_send_buffer_size(fd, bytes);
                true
            }
            _ => true,
        }
    }

    /// Resizes what may pile up on the way in; false while too much is in it.
    pub(crate) fn limit_input(&self, bytes: usize) -> bool {
        match (&self.input, self.input_kind) {
            (Some(fd), Kind::Pipe) => {
                // Whoever has many large pipes (fs.pipe-user-pages-soft) gets no more of them, and
                // goes on with the one it has.
                !matches!(rustix::pipe::fcntl_setpipe_size(fd, bytes), Err(rustix::io::Errno::BUSY))
            }
            // The system sizes a socket's buffer well, as long as it may.
            (Some(fd), Kind::Socket) if bytes <= HELD_BYTES => {
                let _ = sockopt::set_socket_recv_buffer_size(fd, bytes);
                true
            }
            _ => true,
        }
    }

    /// How much of the input may pile up, where that can be told.
    pub(crate) fn input_limit(&self) -> Option<usize> {
        let fd = self.input.as_ref().filter(|_| self.input_kind == Kind::Pipe)?;
        rustix::pipe::fcntl_getpipe_size(fd).ok()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let (Some(fd), Some(flags)) = (&self.output, self.output_flags) {
            let _ = rustix::fs::fcntl_setfl(fd, flags);
        }
    }
}

fn closed(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name} is closed: {error}"))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("unix:{}: {error}", path.display().to_string().escape_debug()))
}
