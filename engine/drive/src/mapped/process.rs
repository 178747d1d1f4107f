//! Another process, as `/proc/PID` shows it.

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Statx, StatxFlags};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

/// A process that stays the same one: an open `/proc/PID` never means a later process with this
/// number (what is read from it fails with ESRCH when the process has ended).
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    folder: OwnedFd,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.read("comm", 64).unwrap_or_default();
        write!(f, "process {} ({})", self.pid, name.trim_ascii_end().escape_ascii())
    }
}

impl Process {
    /// The process that has this number now.
    pub(super) fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { pid, folder: rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())? })
    }

    /// One of its files.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?.into())
    }

    /// All of one of its files.
    pub(super) fn read(&self, name: &str, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(io::Error::other(format!("{name} has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// The value of a line of `status`: its first number.
    pub(super) fn status(&self, key: &str) -> Option<u32> {
        let text = self.read("status", 64 << 10).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
    }

    /// The numbers of its descriptors.
    pub(super) fn descriptors(&self) -> io::Result<Vec<u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, "fd", flags, Mode::empty())?;
        let mut numbers = Vec::new();
        for entry in Dir::new(folder)? {
            numbers.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<u32>().ok()));
        }
        Ok(numbers)
    }

    /// What a descriptor is, in the kernel's words: a path, or `pipe:[1234]`.
    pub(super) fn link(&self, descriptor: u32) -> io::Result<CString> {
        Ok(rustix::fs::readlinkat(&self.folder, format!("fd/{descriptor}"), Vec::new())?)
    }

    /// How a descriptor was opened: the flags of open(2), as `fdinfo` has them.
    pub(super) fn flags(&self, descriptor: u32) -> io::Result<OFlags> {
        let text = self.read(&format!("fdinfo/{descriptor}"), 64 << 10)?;
        let text = String::from_utf8_lossy(&text);
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
        flags.map(OFlags::from_bits_retain).ok_or_else(|| io::Error::other("fdinfo has no flags"))
    }

    /// The file of a descriptor, without asking a server that may not answer.
    pub(super) fn stat(&self, descriptor: u32) -> io::Result<Statx> {
        let name = format!("fd/{descriptor}");
        let wanted = StatxFlags::INO | StatxFlags::TYPE;
        Ok(rustix::fs::statx(&self.folder, name, AtFlags::STATX_DONT_SYNC, wanted)?)
    }

    /// The kind of file system of a descriptor (statfs(2)).
    pub(super) fn file_system(&self, descriptor: u32) -> io::Result<i64> {
        let path = format!("/proc/self/fd/{}/fd/{descriptor}", self.folder.as_raw_fd());
        Ok(super::file_system::kind(&rustix::fs::statfs(path)?))
    }
}

/// A process may not be looked at; which right is missing.
pub(super) fn missing_right(process: &Process) -> String {
    let own = rustix::process::geteuid().as_raw();
    match process.status("Uid:") {
        Some(user) if user != own => format!(
            "it runs as user {user} and this program as user {own}: the same user is needed, or CAP_SYS_PTRACE"
        ),
        _ => "it is not dumpable, or has capabilities that this program has not: CAP_SYS_PTRACE is needed"
            .into(),
    }
}
