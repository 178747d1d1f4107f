//! The channel to QEMU: stdin and stdout behind `exec:`, a descriptor, or a socket.

use crate::descriptor::duplicate;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::net::sockopt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What the output pipe is enlarged to, as far as the system allows it.
const PIPE_BYTES: usize = 1 << 20;
/// What a pipe is shrunk to when little is to pile up in it.
const HELD_PIPE_BYTES: usize = 4096;

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
    /// Flags of the output before it was made non-blocking; it may be shared.
    output_flags: Option<OFlags>,
    /// Still listens, to notice a source that brings more channels than one.
    listener: Option<Listener>,
}

/// A listening socket whose name goes with it.
#[derive(Debug)]
struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn kind(fd: impl AsFd) -> io::Result<Kind> {
    if rustix::termios::isatty(fd.as_fd()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a terminal; this is for QEMU's exec:, or a file or pipe",
        ));
    }
    Ok(match FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) {
        FileType::Fifo => Kind::Pipe,
        FileType::Socket => Kind::Socket,
        _ => Kind::Other,
    })
}

impl Channel {
    /// The channel on which a stream comes in.
    ///
    /// # Errors
    ///
    /// The operating system's; a terminal is refused.
    pub fn for_save(uri: Option<&Uri>, timeout: Option<Duration>) -> io::Result<Self> {
        match uri {
            None => {
                let input = std::io::stdin().as_fd().try_clone_to_owned()?;
                // Behind exec: answers go to stdout; anything else there is not the source.
                let output = std::io::stdout().as_fd().try_clone_to_owned()?;
                let answers = matches!(kind(&output), Ok(Kind::Pipe | Kind::Socket));
                Self::new(Some(input), answers.then_some(output))
            }
            Some(Uri::Fd(fd)) => Self::of_descriptor(*fd, true),
            Some(Uri::Unix(path)) => {
                let listener = Listener { socket: UnixListener::bind(path)?, path: path.clone() };
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                let socket = OwnedFd::from(accept(&listener.socket, timeout)?);
                let mut channel = Self::new(Some(socket.try_clone()?), Some(socket))?;
                channel.listener = Some(listener);
                Ok(channel)
            }
        }
    }

    /// The channel on which a stream goes out.
    ///
    /// # Errors
    ///
    /// The operating system's; a terminal is refused.
    pub fn for_revert(uri: Option<&Uri>) -> io::Result<Self> {
        match uri {
            None => {
                let input = std::io::stdin().as_fd().try_clone_to_owned()?;
                let answers = matches!(kind(&input), Ok(Kind::Pipe | Kind::Socket));
                let output = std::io::stdout().as_fd().try_clone_to_owned()?;
                Self::new(answers.then_some(input), Some(output))
            }
            Some(Uri::Fd(fd)) => Self::of_descriptor(*fd, false),
            Some(Uri::Unix(path)) => {
                let socket = OwnedFd::from(UnixStream::connect(path)?);
                Self::new(Some(socket.try_clone()?), Some(socket))
            }
        }
    }

    fn of_descriptor(fd: RawFd, save: bool) -> io::Result<Self> {
        // The number comes from the user; a duplicate of it is ours, and a wrong one is an error.
        let owned = duplicate(fd)
            .map_err(|error| io::Error::new(error.kind(), format!("file descriptor {fd}: {error}")))?;
        match kind(&owned)? {
            Kind::Socket => Self::new(Some(owned.try_clone()?), Some(owned)),
            _ if save => Self::new(Some(owned), None),
            _ => Self::new(None, Some(owned)),
        }
    }

    fn new(input: Option<OwnedFd>, output: Option<OwnedFd>) -> io::Result<Self> {
        let input_kind = input.as_ref().map_or(Ok(Kind::Other), kind)?;
        let output_kind = output.as_ref().map_or(Ok(Kind::Other), kind)?;
        let mut channel = Self { input, output, input_kind, output_kind, output_flags: None, listener: None };
        // The input keeps its size: what is in a pipe has been written as far as the writer knows, so a larger one would
        // hide a failure from it.
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

    /// There is a program at the other end that waits for what we do.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.input_kind != Kind::Other
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
        self.listener.as_ref().map(|listener| listener.socket.as_fd())
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

    pub(crate) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Shrinks the input pipe; false while too much is in it.
    pub(crate) fn hold_writer(&self) -> bool {
        match (&self.input, self.input_kind) {
            (Some(fd), Kind::Pipe) => rustix::pipe::fcntl_setpipe_size(fd, HELD_PIPE_BYTES).is_ok(),
            (Some(fd), Kind::Socket) => {
                let _ = sockopt::set_socket_recv_buffer_size(fd, HELD_PIPE_BYTES);
                true
            }
            _ => true,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let (Some(fd), Some(flags)) = (&self.output, self.output_flags) {
            let _ = rustix::fs::fcntl_setfl(fd, flags);
        }
    }
}

fn accept(listener: &UnixListener, timeout: Option<Duration>) -> io::Result<UnixStream> {
    let wait = timeout.map(|time| rustix::event::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], wait.as_ref())? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody connected (--timeout)"));
    }
    Ok(listener.accept()?.0)
}
