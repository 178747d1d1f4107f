//! Where an answer in bytes goes: a new file, which is there only when it is whole, or something
//! that is written through.

use crate::advice::Advice;
use crate::error::Error;
use crate::escape::terminal;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::File;
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a guest has in memory is secret: no one but the owner reads a new file.
const NEW_FILE_MODE: u32 = 0o600;

/// Takes bytes in order.
pub(crate) trait Sink: Write {
    /// What it is called in messages.
    fn name(&self) -> &str;

    /// Writes that many zeros; a file gets a hole.
    fn write_zeros(&mut self, bytes: u64) -> io::Result<()>;

    /// Nothing more follows: makes what was written durable, and gives a new file its name.
    ///
    /// # Errors
    ///
    /// The sink and what failed; a new file is gone then.
    fn commit(self: Box<Self>) -> Result<(), Error>;

    /// The error of a write to it.
    fn failed(&self, error: io::Error) -> Error {
        Error::io(self.name())(error)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`failed`](Self::failed).
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// As [`write_zeros`](Self::write_zeros).
    ///
    /// # Errors
    ///
    /// As [`failed`](Self::failed).
    fn put_zeros(&mut self, bytes: u64) -> Result<(), Error> {
        self.write_zeros(bytes).map_err(|error| self.failed(error))
    }
}

/// Opens the sink for `-o PATH`: stdout for `-`, a pipe or character device as it is, and otherwise
/// a [`NewFile`].
///
/// # Errors
///
/// As [`NewFile::create`]; a terminal is refused.
pub(crate) fn open(path: &Path, inputs: &[&Path], force: bool) -> Result<Box<dyn Sink>, Error> {
    if path.as_os_str() == "-" {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(Error::Usage("bytes do not go to a terminal: -o FILE, or a pipe".to_owned()));
        }
        return Ok(Box::new(Through { out: stdout.lock(), name: "stdout".to_owned() }));
    }
    let is_stream = std::fs::metadata(path).is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_char_device() || kind.is_fifo() || kind.is_socket()
    });
    if !is_stream {
        return Ok(Box::new(NewFile::create(path, inputs, force)?));
    }
    let name = terminal(path.as_os_str().as_encoded_bytes());
    let out = std::fs::OpenOptions::new().write(true).open(path).map_err(Error::io(&name))?;
    Ok(Box::new(Through { out, name }))
}

/// A file that has no name until [`commit`](Sink::commit), so that an error or a kill leaves
/// nothing behind. Where the file system has no such files it has a hidden name beside the final
/// one.
pub(crate) struct NewFile {
    file: File,
    path: PathBuf,
    name: String,
    /// Removed when dropped.
    hidden: Option<tempfile::TempPath>,
    force: bool,
    length: u64,
}

impl NewFile {
    /// A new file that is to be `path`.
    ///
    /// # Errors
    ///
    /// The path is one of `inputs`, or exists and may not be replaced (`force`), or is no regular
    /// file; the operating system's.
    pub(crate) fn create(path: &Path, inputs: &[&Path], force: bool) -> Result<Self, Error> {
        let name = terminal(path.as_os_str().as_encoded_bytes());
        let refuse = |why: &str| Err(Error::Usage(format!("{name}: {why}")));
        let path = match std::fs::metadata(path) {
            Ok(metadata) if is_input(&metadata, inputs) => {
                return refuse("is an input, and would be overwritten");
            }
            Ok(metadata) if !metadata.is_file() => return refuse("exists, and is not a regular file"),
            Ok(_) if !force => {
                return refuse("exists").map_err(|error| error.advised(Some(Advice::Replace)));
            }
            // The file behind a symbolic link is replaced, not the link.
            Ok(_) => std::fs::canonicalize(path).map_err(Error::io(&name))?,
            Err(_) if path.is_symlink() => return refuse("a symbolic link to what does not exist"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(Error::io(&name)(error)),
        };
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refuse("not the name of a file");
        }
        let (file, hidden) = unnamed(folder(&path)).map_err(Error::io(&name))?;
        Ok(Self { file, path, name, hidden, force, length: 0 })
    }

    /// The file, to be written at any place.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name.
    fn publish(&mut self) -> io::Result<()> {
        let path = &self.path;
        match self.hidden.take() {
            Some(hidden) if self.force => hidden.persist(path).map_err(|failed| failed.error),
            Some(hidden) => hidden.persist_noclobber(path).map_err(|failed| failed.error),
            None if self.force => {
                // A link replaces nothing: a hidden name first, and that is renamed.
                let folder = folder(path);
                let hidden = tempfile::Builder::new()
                    .prefix(".")
                    .make_in(folder, |hidden| link(&self.file, hidden))?;
                hidden.into_temp_path().persist(path).map_err(|failed| failed.error)
            }
            None => link(&self.file, path),
        }
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for NewFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn write_zeros(&mut self, bytes: u64) -> io::Result<()> {
        self.length += bytes;
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }

    fn commit(mut self: Box<Self>) -> Result<(), Error> {
        let ended = (|| {
            // A hole at the end; what was written at other places counts, too.
            if self.file.metadata()?.len() < self.length {
                self.file.set_len(self.length)?;
            }
            self.file.sync_all()?;
            self.publish()?;
            // A folder that may be written and not read cannot be made durable.
            File::open(folder(&self.path)).map_or(Ok(()), |folder| folder.sync_all())
        })();
        ended.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::Usage(format!("{}: exists by now", self.name)).advised(Some(Advice::Replace))
            }
            _ => self.failed(error),
        })
    }
}

/// Anything that is written through.
struct Through<W> {
    out: W,
    name: String,
}

impl<W: Write> Write for Through<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Sink for Through<W> {
    fn name(&self) -> &str {
        &self.name
    }

    fn write_zeros(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut self.out).map(|_| ())
    }

    fn commit(mut self: Box<Self>) -> Result<(), Error> {
        self.out.flush().map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        if self.name == "stdout" { Error::output(error) } else { Error::io(&self.name)(error) }
    }
}

/// Whether stdout is a regular file that is one of `inputs`: writing to it would overwrite what is read.
pub(crate) fn stdout_is_input(inputs: &[&Path]) -> bool {
    let Ok(own) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else { return false };
    own.metadata().is_ok_and(|own| own.is_file() && is_input(&own, inputs))
}

fn is_input(output: &std::fs::Metadata, inputs: &[&Path]) -> bool {
    let key = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
    inputs.iter().any(|input| {
        let input = if input.as_os_str() == "-" { Path::new("/dev/stdin") } else { input };
        input.metadata().is_ok_and(|input| key(&input) == key(output))
    })
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// A file in `folder` without a name (open(2), `O_TMPFILE`), or with a hidden one.
fn unnamed(folder: &Path) -> io::Result<(File, Option<tempfile::TempPath>)> {
    let hidden = || -> io::Result<_> {
        let (file, path) = tempfile::Builder::new().prefix(".").tempfile_in(folder)?.into_parts();
        Ok((file, Some(path)))
    };
    // A link to it goes through /proc.
    if !Path::new("/proc/self/fd").exists() {
        return hidden();
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(NEW_FILE_MODE)) {
        Ok(file) => Ok((OwnedFd::into(file), None)),
        // A file system or a kernel without them.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => hidden(),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file without a name one that is not taken yet (linkat(2): the way that needs no privilege).
fn link(file: &File, path: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(Into::into)
}
