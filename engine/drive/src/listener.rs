//! A listening socket whose name goes with it.

use crate::folder::{FileId, Folder};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

/// Listens as long as it is there.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: UnixListener,
    folder: Folder,
    id: FileId,
}

impl Listener {
    /// Listens at a path that only this user can connect to. The name is given to a socket that
    /// listens: whoever waits for it must not find one that still refuses connections. A socket
    /// that a killed process left there is removed.
    ///
    /// # Errors
    ///
    /// The operating system's; the path is longer than an address can be; something else lies there.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        // No program could connect to a longer name.
        SocketAddr::from_pathname(path)?;
        let folder = Folder::of(path)?;
        // The socket must not be there with another mode first. Nothing else creates files
        // meanwhile: no thread runs.
        let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = tempfile::Builder::new()
            .prefix(".")
            .make_in(short_path(path, &folder), |hidden| UnixListener::bind(hidden));
        rustix::process::umask(mask);
        let bound = match bound?.persist_noclobber(path) {
            Err(failed) if is_taken(&failed.error) && remove_stale(path, &folder)? => {
                failed.file.persist_noclobber(path)
            }
            result => result,
        };
        let socket = bound.map_err(|failed| match failed.error {
            error if is_taken(&error) => Errno::ADDRINUSE.into(),
            error => error,
        })?;
        let id = folder.id(folder.name())?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { socket, folder, id })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another program may have removed it, or put its own there.
        let _ = self.folder.remove(self.folder.name(), self.id);
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists
}

/// The directory by a path that is short enough for a hidden name of any length behind it: the
/// address of a socket has at most 107 bytes, and the hidden name may be longer than the last part
/// of `path`.
fn short_path(path: &Path, folder: &Folder) -> PathBuf {
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", folder.fd().as_raw_fd()));
    if by_descriptor.exists() {
        return by_descriptor;
    }
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Removes a socket of this user's at which no process listens. Whether it did.
///
/// To connect would be answered by a process that listens, as if the source had come. A socket of
/// another type is refused in both cases, and the error says in which: unix_find_bsd in
/// net/unix/af_unix.c finds no socket of that inode (`ECONNREFUSED`), or one of the wrong type
/// (`EPROTOTYPE`).
fn remove_stale(path: &Path, folder: &Folder) -> io::Result<bool> {
    let Some(stat) = folder.stat(folder.name())? else { return Ok(true) };
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if !is_socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    let probe: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) != Err(Errno::CONNREFUSED) {
        return Ok(false);
    }
    folder.remove(folder.name(), FileId::from(&stat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    fn address_in_use(path: &Path) -> bool {
        Listener::bind(path).unwrap_err().raw_os_error() == Some(Errno::ADDRINUSE.raw_os_error())
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // Closed without a word, as by a kill: the name stays.
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        assert!(path.metadata().unwrap().file_type().is_socket());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // One at which another program listens stays, and does not notice.
        assert!(address_in_use(&path));
        listener.socket.set_nonblocking(true).unwrap();
        assert_eq!(listener.socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(UnixStream::connect(&path).unwrap());
        drop(listener);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(&path, b"a file").unwrap();
        assert!(address_in_use(&path));
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn a_name_that_means_another_socket_now_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = Listener::bind(&path).unwrap();
        drop(listener);
        assert!(UnixStream::connect(&path).is_ok());
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn any_path_that_an_address_can_have_is_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let start = folder.path().as_os_str().len() + 1;
        for length in [90, 102, 103, 104, 105, 106, 107] {
            // Long directory, short name.
            let middle = folder.path().join("d".repeat(length - start - 2));
            std::fs::create_dir(&middle).unwrap();
            let path = middle.join("s");
            assert_eq!(path.as_os_str().len(), length);
            let listener = Listener::bind(&path).unwrap();
            UnixStream::connect(&path).unwrap();
            drop(listener);
        }
        assert!(Listener::bind(&folder.path().join("d".repeat(108 - start))).is_err());
    }
}
