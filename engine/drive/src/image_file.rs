//! The image's file: opened, locked, replaced.

use crate::block_options::ImageSpec;
use crate::lock::{Use, lock_image, unlock_image};
use io_uring::IoUring;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use std::ffi::{CStr, OsString};
use std::fs::{File, FileType, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Guest RAM is secret: nobody but the owner reads a new image.
const NEW_IMAGE_MODE: u32 = 0o600;
/// The longest list of extended attributes that is copied, in bytes.
const XATTR_LIST_BYTES: usize = 64 << 10;
/// How much of the image's name goes into the name of a new file beside it, which may have 255 bytes altogether.
const NAME_BYTES: usize = 200;

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", .path.display().to_string().escape_debug())]
pub struct OpenError {
    path: PathBuf,
    what: String,
}

/// The file that a machine works on.
#[derive(Debug)]
pub struct ImageFile {
    /// The image's path, symlinks resolved.
    path: PathBuf,
    direct: bool,
    /// Where disk operations go; nothing before a new image has been created.
    pub(crate) file: Option<Arc<File>>,
    /// Kept open, and so locked, while a new file replaces it.
    replaced: Option<Arc<File>>,
    temporary: Option<PathBuf>,
}

fn fail(path: &Path, what: impl ToString) -> OpenError {
    OpenError { path: path.to_owned(), what: what.to_string() }
}

fn check_kind(path: &Path, kind: FileType) -> Result<(), OpenError> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "not a regular file",
    };
    Err(fail(path, format!("{what}; images are regular files only")))
}

fn open(path: &Path, direct: bool, how: Use) -> Result<File, OpenError> {
    // Asked before it is opened, which alone does something to many a device, and after, for it may have changed.
    check_kind(path, std::fs::metadata(path).map_err(|error| fail(path, error))?.file_type())?;
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    // Not blocking: a FIFO would wait for its other end before it could be refused.
    let flags = i32::try_from((flags | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(how == Use::Write)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| fail(path, e))?;
    let metadata = file.metadata().map_err(|error| fail(path, error))?;
    check_kind(path, metadata.file_type())?;
    lock_image(&file, how).map_err(|error| fail(path, format!("cannot lock the image: {error}")))?;
    Ok(file)
}

impl ImageFile {
    /// Opens an image to be reverted from.
    ///
    /// # Errors
    ///
    /// It is missing, no regular file, or written to by somebody.
    pub fn open_for_revert(spec: &ImageSpec) -> Result<Self, OpenError> {
        let file = open(&spec.path, spec.direct, Use::Read)?;
        Ok(Self::holding(spec.path.clone(), spec.direct, Some(file)))
    }

    /// Opens an image to be saved into, or prepares to create it.
    ///
    /// # Errors
    ///
    /// It is missing (without `create`), no regular file, or in use.
    pub fn open_for_save(spec: &ImageSpec, create: bool) -> Result<Self, OpenError> {
        // The file behind a symlink is what gets replaced, not the symlink.
        match std::fs::canonicalize(&spec.path) {
            Ok(path) => {
                let file = open(&path, spec.direct, Use::Write)?;
                Ok(Self::holding(path, spec.direct, Some(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && spec.path.is_symlink() => {
                Err(fail(&spec.path, format!("a symbolic link to what is not there: {error}")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                Ok(Self::holding(spec.path.clone(), spec.direct, None))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(fail(&spec.path, format!("{error}; --create makes a new image")))
            }
            Err(error) => Err(fail(&spec.path, error)),
        }
    }

    fn holding(path: PathBuf, direct: bool, file: Option<File>) -> Self {
        Self { path, direct, file: file.map(Arc::new), replaced: None, temporary: None }
    }

    /// Length of the image in bytes, if it is there.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn length_bytes(&self) -> io::Result<Option<u64>> {
        self.file.as_ref().map(|file| Ok(file.metadata()?.len())).transpose()
    }

    /// An error of an operation on the image, with its path.
    pub(crate) fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display().to_string().escape_debug()))
    }

    fn directory(&self) -> PathBuf {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        }
    }

    /// Creates an empty file beside the image; operations mean that file from now on.
    pub(crate) fn create_temporary(&mut self) -> io::Result<()> {
        let image_name = self.path.file_name().unwrap_or_default().as_bytes();
        let mut name = OsString::from(".");
        name.push(OsString::from_vec(image_name[..image_name.len().min(NAME_BYTES)].to_vec()));
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
        let path = self.directory().join(name);
        let flags = if self.direct { i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0) } else { 0 };
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(NEW_IMAGE_MODE)
            .custom_flags(flags)
            .open(&path)?;
        self.temporary = Some(path);
        if let Some(old) = &self.file {
            take_after(&file, old)?;
        }
        lock_image(&file, Use::Write)?;
        self.replaced = self.file.replace(Arc::new(file));
        Ok(())
    }

    /// Renames the new file over the image (or to its name, if there was none), and makes that durable:
    ///
    /// 1. sync the file, whose name must not become durable before its content
    /// 2. rename it: the image is the old one or the new one, never none
    /// 3. sync the directory, the commit point
    ///
    /// # Errors
    ///
    /// The operating system's. After one in step 3 it is unknown which of the two survives a crash.
    pub(crate) fn publish(&mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        if let Some(file) = &self.file {
            file.sync_all()?;
        }
        if self.replaced.is_some() {
            rustix::fs::rename(temporary, &self.path)?;
        } else {
            // What appeared there meanwhile is somebody's.
            match rustix::fs::renameat_with(CWD, temporary, CWD, &self.path, RenameFlags::NOREPLACE) {
                // A file system without this flag (NFS): a link refuses as well, in two steps.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                    std::fs::hard_link(temporary, &self.path)?;
                    std::fs::remove_file(temporary)?;
                }
                result => result?,
            }
        }
        self.temporary = None;
        File::open(self.directory())?.sync_all()
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        for file in [&self.file, &self.replaced].into_iter().flatten() {
            unlock_image(file);
        }
        let gone = match &self.temporary {
            // It was never an image; nothing can be done if it cannot go.
            Some(temporary) => {
                let _ = rustix::fs::unlinkat(CWD, temporary, AtFlags::empty());
                self.file.take()
            }
            None => self.replaced.take(),
        };
        if let Some(file) = gone {
            close_behind(file);
        }
    }
}

/// Closes a file that has no name any more, and lets the kernel free its blocks when we are gone.
///
/// That takes seconds where the file system tells the disk of each extent (ext4 with `discard`: 1.7 s per GiB), and QEMU waits for
/// the end of what `exec:` started with its guest standing still. A file that is registered with a ring goes with the ring, which
/// the kernel takes apart behind the back of whoever closes it (io_uring_register(2)); without io_uring it is closed here and now.
fn close_behind(file: Arc<File>) {
    if let Ok(ring) = IoUring::new(1) {
        let _ = ring.submitter().register_files(&[file.as_raw_fd()]);
        drop(file);
    }
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
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
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

#[cfg(test)]
mod tests;
