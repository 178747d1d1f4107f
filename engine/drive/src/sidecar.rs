//! The hot set's file, beside the image: `IMAGE.hot-set`.

use snapshot_engine::{HOT_SET_LIMIT_BYTES, HotSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

fn path(image: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(suffix);
    name.into()
}

fn named(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display().to_string().escape_debug()))
}

/// Reads the hot set of the image; `None` if there is none.
///
/// # Errors
///
/// The file cannot be read, or is damaged.
pub(crate) fn load(image: &Path) -> io::Result<Option<HotSet>> {
    let path = path(image, ".hot-set");
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| named(&path, error))?,
    };
    let mut bytes = Vec::new();
    let limit = HOT_SET_LIMIT_BYTES as u64;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| named(&path, error))?;
    if bytes.len() as u64 > limit {
        return Err(named(&path, format!("more than {limit} bytes")));
    }
    HotSet::parse(&bytes).map(Some).map_err(|error| named(&path, error))
}

/// Stores the hot set of the image, in place of the one before, atomically.
///
/// # Errors
///
/// The operating system's.
pub(crate) fn store(image: &Path, hot: &HotSet) -> io::Result<()> {
    let (new, path) = (path(image, &format!(".hot-set.{}", std::process::id())), path(image, ".hot-set"));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&hot.to_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&new, &path));
    if written.is_err() {
        // The error of what came before is the one that counts.
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(|error| named(&path, error))
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
}
