//! `unpack`: the RAM of an image as files, one for each block, for guests that cannot be mapped from the
//! image itself: QEMU before 8.1 has no `offset=` for its memory files, and background snapshots of a guest
//! with mapped RAM need its files on tmpfs.
//!
//! All pages are verified, and zero pages are holes. The folder is whole or not there ([`place`]), and says
//! by its manifest what its files are ([`manifest`]).

mod copy;
mod manifest;
mod place;

pub use manifest::{FileStamp, RamFile, RamFiles, RamFilesError};

use crate::block_options::ImageSpec;
use crate::command::UnpackArgs;
use crate::open_snapshot::OpenSnapshot;
use crate::progress::Display;
use crate::wait::Signals;
use copy::Copier;
use manifest::Entry;
use place::{NewRamFile, Place};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::IFlags;
use snapshot_engine::{Failure, Progress, RAM_FILES_MANIFEST as MANIFEST, ram_file_name};
use snapshot_image::{ImageError, ReadOptions, Verification};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What an unpack has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackSummary {
    /// UUID of the snapshot.
    pub uuid: [u8; 16],
    /// The folder.
    pub folder: PathBuf,
    /// Files, one for each RAM block.
    pub files: usize,
    /// Their bytes together, which is the length of RAM.
    pub ram_bytes: u64,
    /// Bytes of them that are not zero pages.
    pub nonzero_bytes: u64,
}

/// Why an image cannot be unpacked.
#[derive(Debug, thiserror::Error)]
enum UnpackError {
    #[error("the image has no checksums ({0}), so its pages cannot be verified")]
    NoChecksums(&'static str),
    #[error("block options mean nothing here")]
    BlockOptions,
}

/// A failure with a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display().to_string().escape_debug())]
struct At {
    path: PathBuf,
    source: io::Error,
}

impl At {
    fn failed(path: &Path, source: impl Into<io::Error>) -> Failure {
        Failure::refused(Self { path: path.to_owned(), source: source.into() })
    }
}

/// Writes the RAM blocks of an image to files; `warn` is told what killed unpacks left.
///
/// # Errors
///
/// Why there are none; nothing is left then.
pub fn unpack(args: &UnpackArgs, warn: impl FnMut(&str)) -> Result<UnpackSummary, Failure> {
    let signals = Signals::new().map_err(Failure::refused)?;
    signals.catch();
    let mut display = Display::new(args.progress);
    let result = unpack_to(args, warn, &mut |progress| {
        display.show(progress);
        if is_signalled(&signals) { Err(Failure::Interrupted) } else { Ok(()) }
    });
    display.end();
    signals.release();
    result
}

fn is_signalled(signals: &Signals) -> bool {
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&at_once)) != Ok(0)
}

fn unpack_to(
    args: &UnpackArgs,
    mut warn: impl FnMut(&str),
    step: &mut impl FnMut(Progress) -> Result<(), Failure>,
) -> Result<UnpackSummary, Failure> {
    let spec = ImageSpec::parse(&args.image).map_err(Failure::refused)?;
    if spec.direct || spec.aio.is_some() {
        return Err(Failure::refused(UnpackError::BlockOptions));
    }
    let mut snapshot = OpenSnapshot::open(&spec, ReadOptions::default())?;
    let identity = identity(&snapshot)?;
    let mut found = Vec::new();
    let place =
        Place::prepare(&args.ram_files, &mut found).map_err(|error| At::failed(&args.ram_files, error));
    found.iter().for_each(|line| warn(line));
    let mut place = place?;
    let copied = copy_blocks(&mut snapshot, &mut place, step)?;
    let (uuid, root_checksum) = identity;
    let mut entries = Vec::with_capacity(copied.files.len());
    for RamBlockFile { block, name, file } in &copied.files {
        let path = place.path_of(name);
        place.publish(file, name).map_err(|error| At::failed(&path, error))?;
        // A link is a change, too: only now does the file have the time that it will keep.
        let stamp = FileStamp::of(&file.file).map_err(|error| At::failed(&path, error))?;
        entries.push(Entry { name: block.clone(), file: name.clone(), stamp });
    }
    let text = manifest::encode(&uuid, root_checksum, &entries);
    write_manifest(&mut place, &text).map_err(|error| At::failed(&place.path_of(MANIFEST), error))?;
    place.finish().map_err(|error| At::failed(&args.ram_files, error))?;
    Ok(UnpackSummary {
        uuid,
        folder: args.ram_files.clone(),
        files: entries.len(),
        ram_bytes: entries.iter().map(|entry| entry.stamp.size).sum(),
        nonzero_bytes: copied.nonzero_bytes,
    })
}

/// UUID and root checksum of a snapshot of which every page can be verified.
fn identity(snapshot: &OpenSnapshot) -> Result<([u8; 16], u32), Failure> {
    let reader = snapshot.reader();
    let names: BTreeSet<&[u8]> = reader.layout().blocks().iter().map(|block| &block.name[..]).collect();
    if names.len() != reader.layout().blocks().len() {
        return Err(Failure::WrongImage(ImageError::NoSnapshot("two of its RAM blocks have one name")));
    }
    let snapshot = reader.snapshot();
    match (&snapshot.verification, snapshot.uuid, snapshot.root_checksum) {
        (Verification::Verified, Some(uuid), Some(root_checksum)) => Ok((uuid, root_checksum)),
        (Verification::Unverified(why), ..) => Err(Failure::refused(UnpackError::NoChecksums(why))),
        (Verification::Verified, ..) => Err(Failure::refused(UnpackError::NoChecksums("it has no UUID"))),
    }
}

/// A block's file, all of which is durable, and which has no name yet.
struct RamBlockFile {
    block: Vec<u8>,
    name: String,
    file: NewRamFile,
}

struct Copied {
    files: Vec<RamBlockFile>,
    nonzero_bytes: u64,
}

fn copy_blocks(
    snapshot: &mut OpenSnapshot,
    place: &mut Place,
    step: &mut impl FnMut(Progress) -> Result<(), Failure>,
) -> Result<Copied, Failure> {
    let blocks = snapshot.reader().layout().blocks().to_vec();
    let total_bytes = blocks.iter().map(|block| block.used_length).sum();
    let mut progress = Progress { phase: "unpack", total_bytes, ..Progress::default() };
    let (mut files, mut nonzero_bytes) = (Vec::with_capacity(blocks.len()), 0);
    for (number, block) in blocks.iter().enumerate() {
        let name = ram_file_name(&block.name, number);
        let path = place.path_of(&name);
        let failed = |error: io::Error| At::failed(&path, error);
        let file = place.create(&name).map_err(failed)?;
        take_flags(snapshot.file(), &file.file);
        file.file.set_len(block.used_length).map_err(failed)?;
        let mut tell = |bytes| {
            progress.done_bytes += bytes;
            step(progress)
        };
        nonzero_bytes += Copier::new(snapshot).copy(number, (&file.file, &path), &mut tell)?;
        file.file.sync_all().map_err(failed)?;
        files.push(RamBlockFile { block: block.name.clone(), name, file });
    }
    // The tables that no page needed belong to the snapshot as well.
    snapshot.ask(snapshot_image::SnapshotReader::finish)?;
    Ok(Copied { files, nonzero_bytes })
}

/// btrfs shares bytes only between files that are both copied on write, or both not. Other file systems do
/// not know this flag.
fn take_flags(image: &File, file: &File) {
    if let (Ok(of_image), Ok(flags)) = (rustix::fs::ioctl_getflags(image), rustix::fs::ioctl_getflags(file)) {
        let flags = (flags - IFlags::NOCOW) | (of_image & IFlags::NOCOW);
        let _ = rustix::fs::ioctl_setflags(file, flags);
    }
}

fn write_manifest(place: &mut Place, text: &str) -> io::Result<()> {
    let mut new = place.create(MANIFEST)?;
    new.file.write_all(text.as_bytes())?;
    new.file.sync_all()?;
    place.publish(&new, MANIFEST)
}
