//! The image as this program has it open, and as the kernel shows it in a list of mappings.

use super::file_system;
use super::maps::{FileKey, MAPS_LIMIT_BYTES, parse_maps};
use super::process::Process;
use memmap2::MmapOptions;
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// The image's file.
#[derive(Debug)]
pub(super) struct Own {
    /// Opened once more: read through the page cache, whatever the image was opened with.
    pub(super) file: Arc<File>,
    pub(super) status: Statx,
    /// The kind of its file system.
    pub(super) file_system: i64,
    pub(super) key: FileKey,
}

/// Why nothing mapped from the image can be recognised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnError {
    #[error("the image cannot be looked at")]
    Io(#[from] io::Error),
    #[error(
        "the image is on a file system (statfs type {kind:#x}) whose inode numbers are not known to belong to one \
         file each, so a mapping of it cannot be recognised; needed: {}",
        file_system::names()
    )]
    FileSystem { kind: i64 },
}

impl Own {
    /// Looks at the file that `image` is open on.
    pub(super) fn of(image: &File) -> Result<Self, OwnError> {
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
        let kind = file_system::kind(&rustix::fs::fstatfs(&file).map_err(io::Error::from)?);
        if !file_system::has_inodes(kind) {
            return Err(OwnError::FileSystem { kind });
        }
        let wanted = StatxFlags::INO | StatxFlags::TYPE;
        let status = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, wanted).map_err(io::Error::from)?;
        Ok(Self { key: key(&file)?, file: Arc::new(file), status, file_system: kind })
    }
}

impl Own {
    /// The process has mapped a part of it.
    pub(super) fn is_mapped_by(&self, process: &Process) -> bool {
        let text = process.read("maps", MAPS_LIMIT_BYTES).unwrap_or_default();
        parse_maps(&text).is_ok_and(|mappings| mappings.iter().any(|mapping| mapping.file == self.key))
    }
}

/// What a mapping of `file` shows: of one page, which is made for that and never touched.
fn key(file: &File) -> io::Result<FileKey> {
    let mapping = MmapOptions::new().len(rustix::param::page_size()).map_raw_read_only(file)?;
    let address = mapping.as_ptr() as u64;
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let text = Process::open(pid)?.read("maps", MAPS_LIMIT_BYTES)?;
    let mappings = parse_maps(&text).map_err(io::Error::other)?;
    let own =
        mappings.iter().find(|mapping| mapping.addresses.start <= address && address < mapping.addresses.end);
    let own = own.filter(|mapping| mapping.file.inode != 0);
    own.map(|mapping| mapping.file)
        .ok_or_else(|| io::Error::other("the kernel does not show a mapping of it"))
}
