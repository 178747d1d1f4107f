//! The image's file: opened, locked, replaced.

use crate::ballast::Ballast;
use crate::block_options::ImageSpec;
use crate::close::close_behind;
use crate::folder::{FileId, Folder};
use crate::leftovers;
use crate::lock::{Use, lock_image, unlock_image};
use crate::new_file::NewFile;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use snapshot_engine::IoError;
use snapshot_image::Layout;
use std::error::Error;
use std::fs::{File, FileType, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an image cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display().to_string().escape_debug())]
pub struct OpenError {
    path: PathBuf,
    source: Box<dyn Error + Send + Sync>,
}

/// The file that a machine works on.
#[derive(Debug)]
pub struct ImageFile {
    /// The image's path, symlinks resolved.
    path: PathBuf,
    direct: bool,
    /// Its directory, where there is something to be changed in it.
    folder: Option<Folder>,
    /// Where disk operations go; nothing before a new image has been created.
    pub(crate) file: Option<Arc<File>>,
    /// Kept open, and so locked, while a new file replaces it.
    replaced: Option<Arc<File>>,
    new: Option<NewFile>,
    ballast: Ballast,
}

impl OpenError {
    /// The operating system does not allow it.
    fn is_denied(&self) -> bool {
        let error = self.source.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether another process uses the image.
    fn is_in_use(&self) -> bool {
        let error = self.source.downcast_ref::<CannotLock>();
        error.is_some_and(|CannotLock(error)| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Why an image has no lock.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock the image")]
struct CannotLock(#[source] io::Error);

fn fail(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> OpenError {
    OpenError { path: path.to_owned(), source: source.into() }
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

/// Opens an image that a save may replace or write into.
///
/// A linear image is read-only, and a save never writes into it: its owner can replace it all the same, also
/// while guests are mapped from it, which go on with the file that they have.
fn open_for_writing(path: &Path, direct: bool) -> Result<File, OpenError> {
    let refused = match open(path, direct, Use::Write, true) {
        Err(error) if error.is_denied() || error.is_in_use() => error,
        result => return result,
    };
    let Ok(file) = open(path, false, Use::Replace, false) else { return Err(refused) };
    let is_own = file.metadata().is_ok_and(|metadata| metadata.uid() == geteuid().as_raw());
    let may_replace = is_own || !refused.is_denied();
    if !may_replace || leftovers::layout(&file).ok().flatten() != Some(Layout::Linear) {
        return Err(refused);
    }
    if direct {
        let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| fail(path, error))?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::DIRECT).map_err(|error| fail(path, error))?;
    }
    Ok(file)
}

fn open(path: &Path, direct: bool, how: Use, writable: bool) -> Result<File, OpenError> {
    // Asked before it is opened, which alone does something to many a device, and after, for it may
    // have changed.
    check_kind(path, std::fs::metadata(path).map_err(|error| fail(path, error))?.file_type())?;
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    // Not blocking: a FIFO would wait for its other end before it could be refused.
    let flags = (flags | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(writable).custom_flags(flags).open(path).map_err(|e| fail(path, e))?;
    let metadata = file.metadata().map_err(|error| fail(path, error))?;
    check_kind(path, metadata.file_type())?;
    lock_image(&file, how).map_err(|error| fail(path, CannotLock(error)))?;
    Ok(file)
}

impl ImageFile {
    /// Opens an image to be reverted from.
    ///
    /// # Errors
    ///
    /// It is missing, no regular file, or another program writes to it.
    pub fn open_for_revert(spec: &ImageSpec) -> Result<Self, OpenError> {
        let file = open(&spec.path, spec.direct, Use::Read, false)?;
        Ok(Self::holding(spec.path.clone(), spec.direct, None, Some(file)))
    }

    /// Opens an image to be saved into, or prepares to create it.
    ///
    /// # Errors
    ///
    /// It is missing (without `create`), no regular file, or in use; another save with this name is running.
    pub fn open_for_save(spec: &ImageSpec, create: bool) -> Result<Self, OpenError> {
        // The file behind a symlink is what gets replaced, not the symlink.
        let (path, is_there) = match std::fs::canonicalize(&spec.path) {
            Ok(path) => (path, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound && spec.path.is_symlink() => {
                let what = format!("a symbolic link to what is not there: {error}");
                return Err(fail(&spec.path, what));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => (spec.path.clone(), false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(fail(&spec.path, format!("{error}; --create makes a new image")));
            }
            Err(error) => return Err(fail(&spec.path, error)),
        };
        if is_there {
            check_kind(&path, std::fs::metadata(&path).map_err(|error| fail(&path, error))?.file_type())?;
        }
        let folder = Folder::of(&path).map_err(|error| fail(&path, error))?;
        folder.lock_name().map_err(|error| fail(&path, error))?;
        let file = if is_there { Some(open_for_writing(&path, spec.direct)?) } else { None };
        Ok(Self::holding(path, spec.direct, Some(folder), file))
    }

    fn holding(path: PathBuf, direct: bool, folder: Option<Folder>, file: Option<File>) -> Self {
        let file = file.map(Arc::new);
        Self { path, direct, folder, file, replaced: None, new: None, ballast: Ballast::default() }
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
    pub(crate) fn named(&self, error: &io::Error) -> IoError {
        IoError::from(error).of(self.path.display().to_string().escape_debug())
    }

    /// Creates an empty file in the image's directory; operations mean that file from now on.
    pub(crate) fn create_temporary(&mut self) -> io::Result<()> {
        let new = NewFile::create(self.folder()?, self.direct, self.file.as_deref())?;
        self.replaced = self.file.replace(Arc::clone(&new.file));
        self.new = Some(new);
        Ok(())
    }

    /// Gives the new file the image's name, and makes that durable:
    ///
    /// 1. sync the file, whose name must not become durable before its content
    /// 2. link it; an interrupted save that was found there is replaced
    /// 3. sync the directory
    ///
    /// # Errors
    ///
    /// The operating system's. The name is taken away again, as far as that is possible.
    pub(crate) fn link(&mut self) -> io::Result<()> {
        let replaced = self.replaced.as_deref().map(FileId::of).transpose()?;
        let (new, folder) = self.new_in()?;
        new.file.sync_all()?;
        match replaced {
            None => new.link(folder)?,
            Some(old) => {
                new.link_hidden(folder)?;
                new.replace(folder, old)?;
            }
        }
        let synced = new.file.sync_all().and_then(|()| folder.sync(&new.file));
        if synced.is_err() {
            // The error that counts is the first one.
            let _ = new.unlink(folder);
        }
        synced
    }

    /// Takes the image's name from the new file again.
    ///
    /// # Errors
    ///
    /// The operating system's; the name means another file now.
    pub(crate) fn unlink(&mut self) -> io::Result<()> {
        let (new, folder) = self.new_in()?;
        new.unlink(folder)
    }

    /// Finds out whether the new file will be able to replace the image.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(crate) fn probe_replace(&mut self) -> io::Result<()> {
        let old = self.replaced_id()?;
        let (new, folder) = self.new_in()?;
        new.probe_replace(folder, old)?;
        new.file.sync_all()
    }

    /// Puts the new file in the place of the image that was opened, and makes that durable.
    ///
    /// # Errors
    ///
    /// The operating system's; another file lies there now. The image's name means what it meant
    /// before. If it was the directory that could not be synced, it is unknown which of the two
    /// survives a crash.
    pub(crate) fn replace(&mut self) -> io::Result<()> {
        let old = self.replaced_id()?;
        let (new, folder) = self.new_in()?;
        new.replace(folder, old)
    }

    /// Takes the right to write to the image from everyone: a guest that is mapped from it would see what is
    /// written.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn make_read_only(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(missing("there is no image file")) };
        let mode = file.metadata()?.mode() & 0o7777;
        file.set_permissions(Permissions::from_mode(mode & !0o222))
    }

    /// Holds space behind the end of the file; 0 gives it back, before what is written last.
    ///
    /// # Errors
    ///
    /// The operating system's; another program has changed the file, or what its name means.
    pub(crate) fn hold_ballast(&mut self, bytes: u64) -> io::Result<()> {
        if let Some((new, folder)) = self.new.as_ref().zip(self.folder.as_ref()) {
            new.check_name(folder)?;
        }
        match &self.file {
            Some(file) => self.ballast.hold(file, bytes),
            None => Err(missing("there is no image file")),
        }
    }

    /// Removes what killed saves with this image's name left, and says what it found.
    pub(crate) fn sweep(&self) -> Vec<String> {
        self.folder.as_ref().map_or_else(Vec::new, leftovers::sweep)
    }

    fn replaced_id(&self) -> io::Result<FileId> {
        FileId::of(self.replaced.as_ref().ok_or_else(|| missing("there is no image to replace"))?)
    }

    fn folder(&self) -> io::Result<&Folder> {
        self.folder.as_ref().ok_or_else(|| missing("the image was opened to be read"))
    }

    fn new_in(&mut self) -> io::Result<(&mut NewFile, &Folder)> {
        self.new.as_mut().zip(self.folder.as_ref()).ok_or_else(|| missing("there is no new file"))
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        for file in [&self.file, &self.replaced].into_iter().flatten() {
            unlock_image(file);
        }
        let gone = match (self.new.take(), &self.folder) {
            // It was never an image, or is none any more.
            (Some(new), Some(folder)) if new.is_temporary() => {
                new.discard(folder);
                drop(new);
                self.file.take()
            }
            _ => self.replaced.take(),
        };
        if let Some(file) = gone {
            close_behind(file);
        }
    }
}

#[cfg(test)]
mod tests;
