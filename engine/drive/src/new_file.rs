//! A new file in the image's directory: without a name at first, then under the image's.

use crate::folder::{FileId, Folder};
use crate::lock::{Use, lock_image};
use rustix::fs::{AtFlags, CWD, Gid, IFlags, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

/// Guest RAM is secret: only the owner can read a new image.
pub(crate) const NEW_IMAGE_MODE: u32 = 0o600;
/// The longest list of extended attributes that is copied, in bytes.
const XATTR_LIST_BYTES: usize = 64 << 10;

/// Which name a new file has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// None: it is gone with the process.
    None,
    /// A hidden one beside the image.
    Hidden(OsString),
    /// The image's own.
    Image,
}

/// A file that is to become the image.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) file: Arc<File>,
    id: FileId,
    name: Name,
}

impl NewFile {
    /// Creates one, empty and locked; `old` is the image that it is to replace.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn create(folder: &Folder, direct: bool, old: Option<&File>) -> io::Result<Self> {
        let (fd, name) = open_new(folder, direct)?;
        let file = File::from(fd);
        let new = Self { id: FileId::of(&file)?, file: Arc::new(file), name };
        let prepared = forbid_copy_on_write(&new.file)
            .and_then(|()| old.map_or(Ok(()), |old| take_after(&new.file, old)))
            .and_then(|()| lock_image(&new.file, Use::Write));
        if prepared.is_err() {
            new.discard(folder);
        }
        prepared.map(|()| new)
    }

    /// It is to go with the process, or has gone already.
    pub(crate) fn is_temporary(&self) -> bool {
        self.name != Name::Image
    }

    /// Removes the hidden name. If that cannot go any more (`chattr +i`), it is to have no RAM in
    /// it at least.
    pub(crate) fn discard(&self, folder: &Folder) {
        if let Name::Hidden(name) = &self.name
            && folder.remove(name, self.id).is_err()
        {
            let _ = self.file.set_len(0);
        }
    }

    /// Gives it the image's name, which must be free.
    ///
    /// # Errors
    ///
    /// The operating system's; `AlreadyExists`. It has no other name than before then.
    pub(crate) fn link(&mut self, folder: &Folder) -> io::Result<()> {
        self.link_as(folder, folder.name())?;
        if let Name::Hidden(hidden) = &self.name {
            // A second name of what is the image now does no harm.
            let _ = folder.remove(hidden, self.id);
        }
        self.name = Name::Image;
        Ok(())
    }

    /// Gives it a hidden name, with which it can change places with the image.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn link_hidden(&mut self, folder: &Folder) -> io::Result<()> {
        if self.name == Name::None {
            let hidden = folder.hidden_name()?;
            self.link_as(folder, &hidden)?;
            self.name = Name::Hidden(hidden);
        }
        Ok(())
    }

    /// Adds a name, or renames it where a file can have only one. A hidden name that means another
    /// file now is of no use.
    fn link_as(&self, folder: &Folder, to: &OsStr) -> io::Result<()> {
        let Name::Hidden(hidden) = &self.name else {
            let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            return Ok(rustix::fs::linkat(CWD, from, folder.fd(), to, AtFlags::SYMLINK_FOLLOW)?);
        };
        let gone = || io::Error::new(io::ErrorKind::NotFound, "another program removed the temporary file");
        if folder.id(hidden)? != Some(self.id) {
            return Err(gone());
        }
        match rustix::fs::linkat(folder.fd(), hidden, folder.fd(), to, AtFlags::empty()) {
            // A file system without hard links (FAT).
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                rustix::fs::renameat_with(folder.fd(), hidden, folder.fd(), to, RenameFlags::NOREPLACE)?;
            }
            result => result?,
        }
        if folder.id(to)? == Some(self.id) { Ok(()) } else { Err(gone()) }
    }

    /// Finds out whether the image's name still means this file, if it has it. A directory in
    /// which nothing can be looked up any more is no reason to give up a save.
    ///
    /// # Errors
    ///
    /// It does not.
    pub(crate) fn check_name(&self, folder: &Folder) -> io::Result<()> {
        let is_ours = || folder.id(folder.name()).map_or(true, |id| id == Some(self.id));
        if self.name != Name::Image || is_ours() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "another program has removed or replaced the file while it was being saved",
        ))
    }

    /// Finds out whether it will be possible to [`replace`](Self::replace) the image `old`, as far
    /// as the kernel says.
    ///
    /// What can be found out without touching the image: it is still there, no attribute and no
    /// right forbids that its name goes. For the latter it is "renamed" to a directory, which the
    /// kernel refuses only after all other checks (vfs_rename in fs/namei.c: may_delete for the
    /// source comes before EISDIR for the target).
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn probe_replace(&mut self, folder: &Folder, old: FileId) -> io::Result<()> {
        match folder.id(folder.name())? {
            Some(id) if id == old => {}
            // The image was removed: its name is free.
            None => return self.link_hidden(folder),
            Some(_) => return Err(not_the_same()),
        }
        if let Some(obstacle) = folder.obstacle(folder.name())? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, obstacle));
        }
        let target = folder.hidden_name()?;
        rustix::fs::mkdirat(folder.fd(), &target, Mode::RWXU)?;
        let renamed = rustix::fs::renameat(folder.fd(), folder.name(), folder.fd(), &target);
        if renamed.is_ok() {
            // Another program removed the directory within microseconds. The image's name is its
            // own again at once.
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(folder.fd(), &target, folder.fd(), folder.name(), flags)?;
        } else {
            let _ = rustix::fs::unlinkat(folder.fd(), &target, AtFlags::REMOVEDIR);
        }
        match renamed {
            Ok(()) | Err(Errno::ISDIR) => self.link_hidden(folder),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts it in the place of the image `old`, and makes that durable.
    ///
    /// The two change places. What is taken out is looked at only then: between a look and a rename
    /// another file could appear there. If it is not `old`, both go back.
    ///
    /// # Errors
    ///
    /// The operating system's; another file lies there now. The image's name means what it meant before.
    pub(crate) fn replace(&mut self, folder: &Folder, old: FileId) -> io::Result<()> {
        let Name::Hidden(hidden) = self.name.clone() else {
            return Err(io::Error::other("it was not made ready to replace the image"));
        };
        if folder.id(&hidden)? != Some(self.id) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "another program removed the temporary file",
            ));
        }
        let exchange = || {
            let flags = RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(folder.fd(), &hidden, folder.fd(), folder.name(), flags)
        };
        let exchanged = match exchange() {
            Ok(()) => true,
            // The image was removed; nothing lies there that could be lost.
            Err(Errno::NOENT) => {
                self.link(folder)?;
                return folder.sync(&self.file);
            }
            // NFS, for one, cannot do this. A file that appears between the look and the rename is lost.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                if folder.id(folder.name())? != Some(old) {
                    return Err(not_the_same());
                }
                rustix::fs::renameat(folder.fd(), &hidden, folder.fd(), folder.name())?;
                false
            }
            Err(error) => return Err(error.into()),
        };
        let is_old = !exchanged || folder.id(&hidden).is_ok_and(|id| id == Some(old));
        let result = if is_old { folder.sync(&self.file) } else { Err(not_the_same()) };
        if exchanged && result.is_err() {
            exchange()?;
            if folder.id(&hidden)? != Some(self.id) {
                let name = hidden.to_string_lossy().escape_debug().to_string();
                let what = format!("other files came to lie there meanwhile; one of them is {name} now");
                return Err(io::Error::other(what));
            }
            return result;
        }
        if exchanged {
            // It is not the image any more; what cannot be removed is left.
            let _ = folder.remove(&hidden, old);
        }
        self.name = Name::Image;
        result
    }

    /// Takes the image's name from it again.
    ///
    /// # Errors
    ///
    /// The operating system's; the name means another file.
    pub(crate) fn unlink(&mut self, folder: &Folder) -> io::Result<()> {
        if !folder.remove(folder.name(), self.id)? {
            return Err(not_the_same());
        }
        self.name = Name::None;
        Ok(())
    }
}

fn not_the_same() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "another file lies there than when the save began; it stays")
}

/// Opens a new file without a name where that is possible, or else with a hidden one.
fn open_new(folder: &Folder, direct: bool) -> io::Result<(OwnedFd, Name)> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() } | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(NEW_IMAGE_MODE);
    match rustix::fs::openat(folder.fd(), ".", flags | OFlags::TMPFILE, mode) {
        Ok(fd) if can_be_linked(&fd) => return Ok((fd, Name::None)),
        // Without /proc it could never get a name.
        Ok(_) => {}
        // The file system cannot do it; the kernel is older than 3.11.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let hidden = folder.hidden_name()?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(folder.fd(), &hidden, flags | create, mode)?;
    Ok((fd, Name::Hidden(hidden)))
}

/// /proc shows our descriptors.
fn can_be_linked(fd: &OwnedFd) -> bool {
    let seen = rustix::fs::stat(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    matches!((seen, FileId::of(fd)), (Ok(seen), Ok(own)) if FileId::from(&seen) == own)
}

/// On btrfs, what is written a second time would need new space, which may not be there after the
/// source's last byte. Other file systems do not know this flag, or not for files.
fn forbid_copy_on_write(file: &File) -> io::Result<()> {
    if let Ok(flags) = rustix::fs::ioctl_getflags(file) {
        // Compressed files are always copied on write.
        let _ = rustix::fs::ioctl_setflags(file, (flags - IFlags::COMPRESSED) | IFlags::NOCOW);
    }
    Ok(())
}

/// Gives a new file the owner, mode and extended attributes of the old one.
fn take_after(new: &File, old: &File) -> io::Result<()> {
    let metadata = old.metadata()?;
    let own = new.metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        rustix::fs::fchown(new, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())))?;
    }
    new.set_permissions(Permissions::from_mode(Mode::from_raw_mode(metadata.mode() & 0o7777).bits()))?;
    let mut list = vec![0; XATTR_LIST_BYTES];
    let length = match rustix::fs::flistxattr(old, &mut list) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in list[..length].split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0; XATTR_LIST_BYTES];
        let length = rustix::fs::fgetxattr(old, name, &mut value)?;
        rustix::fs::fsetxattr(new, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}
