//! Which process is at the other end of the channel: found, not guessed.
//!
//! A pipe is one inode, and who reads from it is the destination; the shell and the wrapper that
//! `exec:` may have started write to it, as this program does. The other end of a unix socket has
//! an inode of its own, which the kernel says.

use super::process::{Process, missing_right};
use super::unix_diag::peer_inode;
use crate::wait::timespec;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long a destination may take to accept a connection, and how often that is asked.
const ACCEPT_LIMIT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);
/// How often all processes are looked at.
const ATTEMPTS: u32 = 5;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// Why the process cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("the process at the other end of {0} cannot be found; needed: a pipe (exec:) or a unix socket")]
    Channel(&'static str),
    #[error("/proc cannot be read, which shows what is mapped")]
    NoProc(#[source] io::Error),
    #[error("the kernel does not say which socket is at the other end (another network namespace?)")]
    Diag(#[source] io::Error),
    #[error("the other end of the channel is closed")]
    Closed,
    #[error("the destination has not accepted the connection for {} s", ACCEPT_LIMIT.as_secs())]
    NotAccepted,
    #[error("{process} may be at the other end of the channel, and cannot be looked at: {right}")]
    Unreadable {
        process: String,
        right: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "no process that can be looked at holds the other end of the channel ({hidden} cannot be: the same user is \
         needed, or CAP_SYS_PTRACE, and the same PID namespace)"
    )]
    NotFound { hidden: usize },
    #[error("{} hold the other end of the channel; needed: only the destination", .0.join(" and "))]
    Several(Vec<String>),
}

/// The other end of a channel, as it shows among a process's descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Who reads from this pipe.
    Pipe(String),
    /// Who has this socket.
    Socket(String),
}

impl End {
    /// What is across from `output`.
    pub(super) fn across(output: BorrowedFd<'_>) -> Result<Self, PeerError> {
        let file = rustix::fs::fstat(output).map_err(|error| PeerError::NoProc(error.into()))?;
        match FileType::from_raw_mode(file.st_mode) {
            FileType::Fifo => {
                // Pipes have a file system of their own, and no name.
                let name = std::fs::read_link(format!("/proc/self/fd/{}", output.as_raw_fd()));
                let name = name.map_err(PeerError::NoProc)?;
                let pipe = format!("pipe:[{}]", file.st_ino);
                if name.as_os_str() == pipe.as_str() {
                    Ok(Self::Pipe(pipe))
                } else {
                    Err(PeerError::Channel("a named pipe"))
                }
            }
            FileType::Socket => {
                let address =
                    rustix::net::getsockname(output).map_err(|error| PeerError::Diag(error.into()))?;
                if address.address_family() != AddressFamily::UNIX {
                    return Err(PeerError::Channel("a network connection"));
                }
                let inode = u32::try_from(file.st_ino).map_err(|_| PeerError::Closed)?;
                Ok(Self::Socket(format!("socket:[{}]", accepted(output, inode)?)))
            }
            _ => Err(PeerError::Channel("a file")),
        }
    }

    /// One of the process's descriptors is this end.
    pub(super) fn is_held_by(&self, process: &Process) -> io::Result<bool> {
        for descriptor in process.descriptors()? {
            let is_it = match (self, process.link(descriptor)) {
                // It has been closed meanwhile.
                (_, Err(_)) => false,
                (Self::Socket(name), Ok(link)) => link.as_bytes() == name.as_bytes(),
                (Self::Pipe(name), Ok(link)) => {
                    link.as_bytes() == name.as_bytes()
                        && process
                            .flags(descriptor)
                            .is_ok_and(|flags| flags & OFlags::RWMODE != OFlags::WRONLY)
                }
            };
            if is_it {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The inode of the peer, which a connection has only when it was accepted.
fn accepted(output: BorrowedFd<'_>, inode: u32) -> Result<u32, PeerError> {
    let end = Instant::now() + ACCEPT_LIMIT;
    let io = |error: Errno| PeerError::Diag(error.into());
    loop {
        if let Some(peer) = peer_inode(inode).map_err(PeerError::Diag)? {
            return Ok(peer);
        }
        let mut ready = [PollFd::new(&output, PollFlags::RDHUP)];
        match poll(&mut ready, Some(&timespec(ACCEPT_PAUSE))) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Err(PeerError::Closed),
            Err(error) => return Err(io(error)),
        }
        if Instant::now() > end {
            return Err(PeerError::NotAccepted);
        }
    }
}

/// The one process that holds `end`; `output` is the channel's end here.
///
/// A process that is just being started, by the destination or by a shell, may be missed once, or
/// hold what it is about to close.
pub(super) fn find(end: &End, output: BorrowedFd<'_>) -> Result<Process, PeerError> {
    for _ in 1..ATTEMPTS {
        match find_once(end, output) {
            Err(PeerError::NotFound { .. } | PeerError::Several(_)) => std::thread::sleep(ATTEMPT_PAUSE),
            found => return found,
        }
    }
    find_once(end, output)
}

fn find_once(end: &End, output: BorrowedFd<'_>) -> Result<Process, PeerError> {
    let candidates = candidates(output);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let (mut holders, mut hidden) = (Vec::new(), Vec::new());
    for pid in all().map_err(PeerError::NoProc)?.into_iter().filter(|pid| *pid != own) {
        // One that has ended meanwhile holds nothing.
        let Ok(process) = Process::open(pid) else { continue };
        match end.is_held_by(&process) {
            Ok(true) => holders.push(process),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden.push((process, error)),
            Err(_) => {}
        }
    }
    if holders.len() > 1 {
        return Err(PeerError::Several(holders.iter().map(Process::to_string).collect()));
    }
    if let Some(holder) = holders.pop() {
        return Ok(holder);
    }
    let count = hidden.len();
    let rank = |process: &Process| candidates.iter().position(|pid| *pid == process.pid);
    let likely = hidden.into_iter().filter(|(process, _)| rank(process).is_some());
    Err(match likely.min_by_key(|(process, _)| rank(process)) {
        Some((process, source)) => {
            PeerError::Unreadable { process: process.to_string(), right: missing_right(&process), source }
        }
        None => PeerError::NotFound { hidden: count },
    })
}

/// Who is probably at the other end: who made the socket, and who started this program. An error
/// message names the first of them that cannot be looked at.
fn candidates(output: BorrowedFd<'_>) -> Vec<i32> {
    let mut found: Vec<i32> =
        getsockopt(&output, PeerCredentials).map(|peer| peer.pid()).into_iter().collect();
    let mut next = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    while let Some(pid) = next.filter(|pid| *pid > 1 && found.len() < 64) {
        found.push(pid);
        next = Process::open(pid).ok().and_then(|process| process.status("PPid:")?.try_into().ok());
    }
    found
}

/// The processes of which this is true, by number and name.
pub(super) fn holding(is_it: impl Fn(&Process) -> bool) -> Vec<String> {
    let processes = all().unwrap_or_default().into_iter().filter_map(|pid| Process::open(pid).ok());
    processes.filter(|process| is_it(process)).map(|process| process.to_string()).collect()
}

/// All processes of this PID namespace.
fn all() -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}
