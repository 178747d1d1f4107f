//! Every wait of the program, and what ends it.
//!
//! | wait | where | the peer or kernel | `--timeout` | SIGTERM, SIGINT, SIGHUP |
//! | --- | --- | --- | --- | --- |
//! | for a source to connect | [`Patience::accept`] | it connects | yes | yes |
//! | for room in a listener's backlog | [`Patience::connect`] | the destination accepts | yes | yes |
//! | for a stream's next bytes, room in the output, an answer | `event_loop` (one `poll`) | it reads, writes, or closes | yes; before a destination's guest runs 60 s without it | yes |
//! | for a disk operation | `event_loop`, the same `poll` | the kernel | no | the job ends when the kernel answers |
//! | for io_uring to take requests | `disk::uring` | the kernel | no: given up after 5 s; one that refuses `io_uring_enter` is not used | yes |
//! | for the end of disk operations and worker threads | `Drop` of the queues | the kernel | no | no |
//! | after a request, for the next one | `event_loop` | it asks | no: 200 us | no |
//! | before the next read of many small writes | `event_loop` | none | no: 1 ms | no |
//! | after a usage error, for a source's first bytes | `Channel::has_input_within` | it writes | no: 2 s | yes |
//! | for a reader of stderr | [`crate::words`] | it reads | no: 1 s, then the line is dropped | no |
//! | after a bug or an abort, for the end of the source | [`crate::last_resort`] | it closes | no | default action |
//! | while files are opened, locked, flushed and renamed | `image_file`, `sidecar`, `job` | the kernel | no | before the event loop: default action |
//!
//! Nothing is opened in a way that waits for another program: images and hot sets are opened
//! without blocking, and only regular files are read; locks are tried, not waited for. Until the
//! event loop (or one of the two functions here) looks at signals, they have their default action
//! ([`Signals`]): a file system that hangs does not make the program immune.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a full backlog is tried again: the kernel does not report room in it.
const RETRY: Duration = Duration::from_millis(10);

/// SIGTERM, SIGINT and SIGHUP: with their default action as long as no one looks at them, later as
/// bytes of a socket.
#[derive(Debug)]
pub(crate) struct Signals {
    reader: UnixStream,
}

/// Signals have their default action.
static BY_DEFAULT: AtomicBool = AtomicBool::new(true);

/// From now on signals have their default action again.
pub(crate) fn release_signals() {
    BY_DEFAULT.store(true, Ordering::SeqCst);
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            flag::register_conditional_default(signal, &BY_DEFAULT)?;
            pipe::register(signal, writer.try_clone()?)?;
        }
        // A file size limit (setrlimit(2)) is to be an error of the write, which the guest
        // survives, and not our death.
        flag::register(libc::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(Self { reader })
    }

    /// From now on a signal makes [`as_fd`](AsFd::as_fd) readable, and does nothing else: for
    /// whoever looks at that.
    pub(crate) fn catch(&self) {
        BY_DEFAULT.store(false, Ordering::SeqCst);
    }

    /// From now on signals have their default action again.
    pub(crate) fn release(&self) {
        release_signals();
    }

    /// Becomes readable by a signal.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn reader(&self) -> io::Result<UnixStream> {
        self.reader.try_clone()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// A wait for a peer outside of the event loop: ends after `--timeout`, or by a signal.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    signals: BorrowedFd<'a>,
    until: Option<Instant>,
}

/// What came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Ready,
    Time,
    Signal,
}

impl<'a> Patience<'a> {
    /// Waits for so long from now on, all calls together, or until `signals` becomes readable.
    pub(crate) fn new(timeout: Option<Duration>, signals: BorrowedFd<'a>) -> Self {
        Self { signals, until: timeout.and_then(|time| Instant::now().checked_add(time)) }
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// The operating system's; no one connected; a signal.
    pub(crate) fn accept(&self, listener: &UnixListener) -> io::Result<UnixStream> {
        match self.until(Some(listener.as_fd()), None)? {
            Woken::Ready => Ok(listener.accept()?.0),
            Woken::Time => Err(io::Error::new(io::ErrorKind::TimedOut, "no one connected (--timeout)")),
            Woken::Signal => Err(io::Error::other("interrupted by a signal before anyone connected")),
        }
    }

    /// Connects. connect(2) would wait while the listener's backlog is full.
    ///
    /// # Errors
    ///
    /// The operating system's; the backlog stayed full; a signal.
    pub(crate) fn connect(&self, path: &Path) -> io::Result<UnixStream> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match self.until(None, Some(RETRY))? {
                    Woken::Signal => {
                        return Err(io::Error::other("interrupted by a signal before it was connected"));
                    }
                    Woken::Time if self.is_over() => {
                        let text = "the listener accepts no connection: its backlog is full (--timeout)";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                    Woken::Time | Woken::Ready => {}
                },
                Err(error) => return Err(error.into()),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(stream)
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Waits until `fd` is readable, or for `at_most`.
    fn until(&self, fd: Option<BorrowedFd<'_>>, at_most: Option<Duration>) -> io::Result<Woken> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals, PollFlags::IN)];
        fds.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        loop {
            let rest = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            let wait = rest.into_iter().chain(at_most).min().map(timespec);
            match poll(&mut fds, wait.as_ref()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => return Ok(Woken::Time),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Signal),
                Ok(_) => return Ok(Woken::Ready),
            }
        }
    }
}

/// For `poll`.
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs().min(i64::MAX.cast_unsigned()).cast_signed(),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
