//! The manifest: which snapshot the files of a folder are made from, and how to see that they are still the
//! same files.
//!
//! `manifest.json` is one object:
//!
//! | field | what |
//! | --- | --- |
//! | `version` | 1 |
//! | `uuid` | UUID of the snapshot, as text |
//! | `root_checksum` | CRC-32C of its root, a number |
//! | `blocks` | a list, in the order of the stream |
//!
//! Each block has its `name` (`%` and two digits for a byte that is not printable ASCII, and for `%`), its
//! `file` in the folder, and what fstat(2) said of that file when all of the block was in it: `device`,
//! `inode`, `size` (bytes), `ctime_s` and `ctime_ns`. The change time moves with every write, hole, link and
//! change of owner or mode, and no program can set it back; so a file with the same values has the bytes
//! that were verified. One exception: on tmpfs, what a program has mapped shared it can write again without
//! a new time.

use crate::trust::check_alone;
use rustix::fs::{Mode, OFlags, Stat};
use serde_json::{Value, json};
use snapshot_engine::{
    RAM_FILES_MANIFEST as MANIFEST, block_name_text, parse_block_name, parse_uuid, uuid_text,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const VERSION: u64 = 1;
/// The most that is read, in bytes: some 10^4 blocks.
const LIMIT_BYTES: u64 = 16 << 20;

/// What fstat(2) says of a file, as long as no one changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Device number of the file system, as `st_dev` has it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Change time (`st_ctim`), whole seconds since 1970.
    pub ctime_s: i64,
    /// Nanoseconds of the change time.
    pub ctime_ns: u64,
}

impl FileStamp {
    /// Of an open file.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&rustix::fs::fstat(file)?))
    }
}

impl From<&Stat> for FileStamp {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            ctime_s: stat.st_ctime,
            ctime_ns: stat.st_ctime_nsec,
        }
    }
}

/// A RAM block's file, which has not changed since it was made.
#[derive(Debug)]
pub struct RamFile {
    /// The block's name.
    pub name: Vec<u8>,
    /// Path of the file.
    pub path: PathBuf,
    /// The file, open for reading.
    pub file: File,
    /// What it had when it was made, and has.
    pub stamp: FileStamp,
}

/// The RAM of a snapshot in files, as `qemu-snapshot unpack` made them.
#[derive(Debug)]
pub struct RamFiles {
    /// UUID of the snapshot.
    pub uuid: [u8; 16],
    /// CRC-32C of the snapshot's root.
    pub root_checksum: u32,
    /// The blocks, in the order of the stream.
    pub blocks: Vec<RamFile>,
}

/// Why files prove nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RamFilesError {
    /// It cannot be read.
    #[error("{}", .path.display().to_string().escape_debug())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system reports.
        source: io::Error,
    },
    /// Someone else may have changed it.
    #[error("{}: {why}", .path.display().to_string().escape_debug())]
    NotTrusted {
        /// The folder or file.
        path: PathBuf,
        /// Who.
        why: String,
    },
    /// It is not what an unpack writes.
    #[error("{}: {what}", .path.display().to_string().escape_debug())]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file is not the one that the manifest describes, or was changed.
    #[error(
        "{}: changed since it was made: device {:#x} inode {} size {} change time {}.{:09}, expected device {:#x} \
         inode {} size {} change time {}.{:09}",
        .path.display().to_string().escape_debug(),
        .found.device, .found.inode, .found.size, .found.ctime_s, .found.ctime_ns,
        .expected.device, .expected.inode, .expected.size, .expected.ctime_s, .expected.ctime_ns
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it has now.
        found: FileStamp,
        /// What the manifest says.
        expected: FileStamp,
    },
}

/// A block as the manifest has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) file: String,
    pub(super) stamp: FileStamp,
}

/// The manifest's text.
pub(super) fn encode(uuid: &[u8; 16], root_checksum: u32, entries: &[Entry]) -> String {
    let blocks: Vec<Value> = entries.iter().map(Entry::encode).collect();
    let manifest = json!({
        "version": VERSION,
        "uuid": uuid_text(uuid),
        "root_checksum": root_checksum,
        "blocks": blocks,
    });
    format!("{manifest:#}\n")
}

impl Entry {
    fn encode(&self) -> Value {
        json!({
            "name": block_name_text(&self.name),
            "file": self.file,
            "device": self.stamp.device,
            "inode": self.stamp.inode,
            "size": self.stamp.size,
            "ctime_s": self.stamp.ctime_s,
            "ctime_ns": self.stamp.ctime_ns,
        })
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = |field: &str| value[field].as_str().ok_or(format!("a block without {field}"));
        let number = |field: &str| value[field].as_u64().ok_or(format!("a block without {field}"));
        let file = text("file")?.to_owned();
        if file.is_empty() || file.starts_with('.') || file.contains(['/', '\0']) {
            return Err(format!("a block in file {file:?}, which is no name in this folder"));
        }
        Ok(Self {
            name: parse_block_name(text("name")?).ok_or("a block with a malformed name")?,
            file,
            stamp: FileStamp {
                device: number("device")?,
                inode: number("inode")?,
                size: number("size")?,
                ctime_s: value["ctime_s"].as_i64().ok_or("a block without ctime_s")?,
                ctime_ns: number("ctime_ns")?,
            },
        })
    }
}

/// UUID, root checksum and blocks of a manifest's text.
fn parse(text: &[u8]) -> Result<([u8; 16], u32, Vec<Entry>), String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| format!("no JSON: {error}"))?;
    if value["version"] != VERSION {
        return Err(format!("version {}, expected {VERSION}", value["version"]));
    }
    let uuid = value["uuid"].as_str().and_then(parse_uuid).ok_or("no UUID")?;
    let root_checksum = value["root_checksum"].as_u64().and_then(|sum| u32::try_from(sum).ok());
    let blocks = value["blocks"].as_array().ok_or("no list of blocks")?;
    let entries: Vec<Entry> = blocks.iter().map(Entry::parse).collect::<Result<_, _>>()?;
    let names: BTreeSet<&[u8]> = entries.iter().map(|entry| &entry.name[..]).collect();
    let files: BTreeSet<&str> = entries.iter().map(|entry| &entry.file[..]).collect();
    if names.len() != entries.len() || files.len() != entries.len() {
        return Err("two blocks with one name or file".to_owned());
    }
    Ok((uuid, root_checksum.ok_or("no root checksum")?, entries))
}

impl RamFiles {
    /// Opens the files of a folder and compares each with the manifest.
    ///
    /// Folder, manifest and files are believed if no one but their owner may write to them, and the owner is
    /// root or one of `owners` (user ids): this program's user, say, or the one that the guest's QEMU runs
    /// as. Who may write to a file may change it and write a manifest that fits.
    ///
    /// # Errors
    ///
    /// Which file is missing, may have been changed, or was.
    pub fn open(folder: &Path, owners: &[u32]) -> Result<Self, RamFilesError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |error: rustix::io::Errno| RamFilesError::Io { path, source: error.into() }
        };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(folder, flags, Mode::empty()).map_err(io_at(folder))?;
        let stat = rustix::fs::fstat(&directory).map_err(io_at(folder))?;
        trusted(folder, &stat, owners)?;
        let path = folder.join(MANIFEST);
        let (file, _) = open_regular(&directory, MANIFEST, &path, owners)?;
        let mut text = Vec::new();
        let read = file.take(LIMIT_BYTES + 1).read_to_end(&mut text);
        read.map_err(|source| RamFilesError::Io { path: path.clone(), source })?;
        let malformed = |what| RamFilesError::Malformed { path: path.clone(), what };
        if text.len() as u64 > LIMIT_BYTES {
            return Err(malformed(format!("more than {LIMIT_BYTES} bytes")));
        }
        let (uuid, root_checksum, entries) = parse(&text).map_err(malformed)?;
        let blocks = entries.into_iter().map(|entry| {
            let path = folder.join(&entry.file);
            let (file, found) = open_regular(&directory, &entry.file, &path, owners)?;
            if found != entry.stamp {
                return Err(RamFilesError::Changed { path, found, expected: entry.stamp });
            }
            Ok(RamFile { name: entry.name, path, file, stamp: found })
        });
        Ok(Self { uuid, root_checksum, blocks: blocks.collect::<Result<_, _>>()? })
    }

    /// The file of this block, if there is one.
    #[must_use]
    pub fn block(&self, name: &[u8]) -> Option<&RamFile> {
        self.blocks.iter().find(|block| block.name == name)
    }
}

fn trusted(path: &Path, stat: &Stat, owners: &[u32]) -> Result<(), RamFilesError> {
    check_alone(stat, owners).map_err(|why| RamFilesError::NotTrusted { path: path.to_owned(), why })
}

/// Opens a regular file that is trusted, whatever has its name: nothing is waited for.
fn open_regular(
    folder: &OwnedFd,
    name: &str,
    path: &Path,
    owners: &[u32],
) -> Result<(File, FileStamp), RamFilesError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = |error: rustix::io::Errno| RamFilesError::Io { path: path.to_owned(), source: error.into() };
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(failed)?);
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        let what = "not a regular file".to_owned();
        return Err(RamFilesError::Malformed { path: path.to_owned(), what });
    }
    trusted(path, &stat, owners)?;
    Ok((file, FileStamp::from(&stat)))
}

#[cfg(test)]
mod tests;
