//! What killed saves leave beside an image: hidden files with the RAM of a guest in them.
//!
//! A save leaves none where its file has no name (`O_TMPFILE`) and it was killed before the last
//! byte of the stream. A file that it left is removed by the next save with the same name, if it is
//! certain that nothing is lost: it has such a name, belongs to this user, has no other name, is
//! held by no process, and is empty or says that it is an interrupted save. Otherwise it is
//! reported.

use crate::close::close_behind;
use crate::folder::{FileId, Folder};
use crate::lock::{Use, lock_image};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use snapshot_image::{HostOffset, Inspect, Inspection, Inspector, Layout};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// What a file is that looks like a leftover.
enum Found {
    /// Of a save that was killed before it was whole.
    Interrupted(File, FileId),
    /// Something that another program may want.
    Other,
    /// Not to be touched: of another user, in use, or gone.
    Theirs,
}

/// Removes the leftovers of killed saves with the name of this folder's image. What it found, a
/// line for each.
pub(crate) fn sweep(folder: &Folder) -> Vec<String> {
    let mut lines = Vec::new();
    if !folder.is_readable() {
        return lines;
    }
    // A directory that cannot be listed is one that says nothing.
    let Ok(entries) = Dir::read_from(folder.fd()) else { return lines };
    for entry in entries.flatten() {
        let name = entry.file_name().to_bytes();
        if !folder.is_hidden_name(name) {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let shown = name.to_string_lossy().escape_debug().to_string();
        match look(folder, name) {
            Ok(Found::Interrupted(file, id)) => match folder.remove(name, id) {
                Ok(true) => {
                    lines.push(format!("removed {shown}, which a save that was killed left"));
                    close_behind(file.into());
                }
                Ok(false) => {}
                Err(error) => lines.push(format!("{shown}: a save that was killed left it: {error}")),
            },
            Ok(Found::Other) => lines.push(format!(
                "{shown}: a save that was killed left it; it is no interrupted save, and so it stays: a snapshot?"
            )),
            Ok(Found::Theirs) => {}
            Err(error) => lines.push(format!("{shown}: perhaps a save that was killed left it: {error}")),
        }
    }
    lines
}

fn look(folder: &Folder, name: &OsStr) -> io::Result<Found> {
    let Some(stat) = folder.stat(name)? else { return Ok(Found::Theirs) };
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 || !is_ours {
        return Ok(Found::Theirs);
    }
    // A linear image is read-only, and so is what was to replace one.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder.fd(), name, flags, Mode::empty())?);
    let id = FileId::of(&file)?;
    if id != FileId::from(&stat) || lock_image(&file, Use::Write).is_err() {
        return Ok(Found::Theirs);
    }
    let length = file.metadata()?.len();
    Ok(if length == 0 || is_interrupted(&file, length)? {
        Found::Interrupted(file, id)
    } else {
        Found::Other
    })
}

/// The header says that a save was interrupted, and that no other program has written to the image since.
fn is_interrupted(file: &File, length: u64) -> io::Result<bool> {
    let Some(mut inspector) = with_header(file, length)? else { return Ok(false) };
    Ok(matches!(inspector.poll(), Ok(Inspect::Done(Inspection::Interrupted(..)))))
}

/// The layout that the header of an image of ours says.
pub(crate) fn layout(file: &File) -> io::Result<Option<Layout>> {
    let Some(mut inspector) = with_header(file, file.metadata()?.len())? else { return Ok(None) };
    // What it needs next, or what is wrong, does not matter here.
    let _ = inspector.poll();
    Ok(inspector.layout())
}

/// An inspection that has the header; `None` of a file that is too short for one.
fn with_header(file: &File, length: u64) -> io::Result<Option<Inspector>> {
    let mut inspector = Inspector::new(length);
    if let Ok(Inspect::Need(HostOffset(at), bytes)) = inspector.poll() {
        let mut header = vec![0; bytes];
        match file.read_exact_at(&mut header, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        inspector.supply(HostOffset(at), &header);
    }
    Ok(Some(inspector))
}
