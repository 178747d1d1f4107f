//! Files beside the image that belong to it: the hot set, `IMAGE.hot-set`, and others.

use rustix::fs::OFlags;
use snapshot_engine::{HOT_SET_LIMIT_BYTES, HotSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const HOT_SET: &str = ".hot-set";

/// The path of the image's file with this suffix.
pub(crate) fn path(image: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(suffix);
    name.into()
}

/// The directory that the image is named in.
pub(crate) fn folder(image: &Path) -> &Path {
    image.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

fn named(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display().to_string().escape_debug()))
}

/// Opens a file beside the image; `None` if there is none. Whatever has its name: nothing is waited for.
///
/// # Errors
///
/// It is no regular file, or cannot be opened.
pub(crate) fn open(image: &Path, suffix: &str) -> io::Result<Option<File>> {
    let path = path(image, suffix);
    // A FIFO would wait for a writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| named(&path, error))?,
    };
    if !file.metadata().map_err(|error| named(&path, error))?.is_file() {
        return Err(named(&path, "not a regular file"));
    }
    Ok(Some(file))
}

/// All of a file that has no more than `limit` bytes.
pub(crate) fn read(file: File, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= limit).then_some(bytes)
}

/// Stores a file beside the image, in place of the one before, atomically.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn store_bytes(image: &Path, suffix: &str, bytes: &[u8]) -> io::Result<()> {
    let path = path(image, suffix);
    // A name that others cannot know beforehand, and mode 0600; it goes away if this fails.
    let prefix = format!("{suffix}.");
    let written = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(folder(image));
    written
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|failed| failed.error)
        })
        .map(drop)
        .map_err(|error| named(&path, error))
}

/// Reads the hot set of the image; `None` if there is none.
///
/// # Errors
///
/// It is no regular file, cannot be read, or is damaged.
pub(crate) fn load(image: &Path) -> io::Result<Option<HotSet>> {
    let Some(file) = open(image, HOT_SET)? else { return Ok(None) };
    let path = path(image, HOT_SET);
    let mut bytes = Vec::new();
    let limit = HOT_SET_LIMIT_BYTES as u64;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| named(&path, error))?;
    if bytes.len() as u64 > limit {
        return Err(named(&path, format!("more than {limit} bytes")));
    }
    HotSet::parse(&bytes).map(Some).map_err(|error| named(&path, error))
}

/// Stores the hot set of the image.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn store(image: &Path, hot: &HotSet) -> io::Result<()> {
    store_bytes(image, HOT_SET, &hot.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_one_is_none_and_a_damaged_one_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        assert_eq!(load(&image).unwrap(), None);
        std::fs::write(folder.path().join("image.hot-set"), b"x").unwrap();
        let error = load(&image).unwrap_err().to_string();
        assert!(error.ends_with("image.hot-set: it is too short"), "{error}");
    }

    #[test]
    fn storing_one_touches_no_other_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        // The name that an earlier version took.
        let others = folder.path().join(format!("image.hot-set.{}", std::process::id()));
        std::fs::write(&others, b"another's").unwrap();
        let mut bytes = b"STVMHOT1".to_vec();
        bytes.extend([7; 16]);
        bytes.extend(snapshot_image::crc32c(&bytes).to_be_bytes());
        let hot = HotSet::parse(&bytes).unwrap();
        store(&image, &hot).unwrap();
        assert_eq!(load(&image).unwrap(), Some(hot));
        assert_eq!(std::fs::read(&others).unwrap(), b"another's");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
        let mode = folder.path().join("image.hot-set").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let path = folder.path().join("image.hot-set");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = load(&image).unwrap_err().to_string();
        assert!(error.ends_with("image.hot-set: not a regular file"), "{error}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = load(&image).unwrap_err().to_string();
        assert!(error.ends_with("image.hot-set: not a regular file"), "{error}");
    }
}
