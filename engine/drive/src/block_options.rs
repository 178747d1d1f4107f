//! The image's name with its options, spelled as QEMU spells them:
//! `IMAGE[,cache.direct=on][,file.aio=threads]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// How disk operations are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aio {
    /// Worker threads with `pread` and `pwrite`.
    Threads,
    /// Linux AIO (`io_submit`).
    Native,
    /// io_uring.
    IoUring,
}

/// An image and how to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// Its path.
    pub path: PathBuf,
    /// Past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// How; `None`: io_uring if the kernel has it, else threads.
    pub aio: Option<Aio>,
}

/// Why an image's options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No name.
    #[error("the image has no name")]
    NoName,
    /// An option that means nothing here.
    #[error("block option \"{}\" is not known here; cache.direct and file.aio are (a comma in a name is written ,,)", .0.escape_debug())]
    Unknown(String),
    /// A value that an option cannot have.
    #[error("block option {option}={}, expected {expected}", .found.escape_debug())]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        found: String,
        /// What it can be.
        expected: &'static str,
    },
    /// Linux AIO blocks on buffered files.
    #[error("block option file.aio=native needs cache.direct=on")]
    NativeNeedsDirect,
}

impl ImageSpec {
    /// Understands `IMAGE[,OPTION=VALUE]…`, where `,,` stands for a comma.
    ///
    /// # Errors
    ///
    /// The option that cannot be used.
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        let mut parts = split(text.as_bytes()).into_iter();
        let name = parts.next().unwrap_or_default();
        if name.is_empty() {
            return Err(SpecError::NoName);
        }
        let path = PathBuf::from(OsString::from_vec(name));
        let mut spec = Self { path, direct: false, aio: None };
        for part in parts {
            let text = String::from_utf8_lossy(&part).into_owned();
            let wrong = |option, found: &str, expected| SpecError::Value {
                option,
                found: found.to_owned(),
                expected,
            };
            match text.split_once('=') {
                Some(("cache.direct", "on")) => spec.direct = true,
                Some(("cache.direct", "off")) => spec.direct = false,
                Some(("cache.direct", found)) => return Err(wrong("cache.direct", found, "on or off")),
                Some(("file.aio", "threads")) => spec.aio = Some(Aio::Threads),
                Some(("file.aio", "native")) => spec.aio = Some(Aio::Native),
                Some(("file.aio", "io_uring")) => spec.aio = Some(Aio::IoUring),
                Some(("file.aio", found)) => {
                    return Err(wrong("file.aio", found, "threads, native or io_uring"));
                }
                Some((option, _)) => return Err(SpecError::Unknown(option.to_owned())),
                None => return Err(SpecError::Unknown(text)),
            }
        }
        if spec.aio == Some(Aio::Native) && !spec.direct {
            return Err(SpecError::NativeNeedsDirect);
        }
        Ok(spec)
    }
}

/// Splits at single commas; two stand for one.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(byte);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, bool, Option<Aio>), &str>) {
        let found = ImageSpec::parse(OsStr::new(text)).map_err(|error| error.to_string());
        let expected = expected.map(|(path, direct, aio)| ImageSpec { path: path.into(), direct, aio });
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn options_are_qemus() {
        check("a.qcow2", Ok(("a.qcow2", false, None)));
        check("a,,b.qcow2,cache.direct=on,file.aio=native", Ok(("a,b.qcow2", true, Some(Aio::Native))));
        check("x,file.aio=io_uring,cache.direct=off", Ok(("x", false, Some(Aio::IoUring))));
        check("x,file.aio=native", Err("block option file.aio=native needs cache.direct=on"));
        check("x,cache.direct=yes", Err("block option cache.direct=yes, expected on or off"));
        check(
            "x,driver=raw",
            Err(
                "block option \"driver\" is not known here; cache.direct and file.aio are (a comma in a name is written ,,)",
            ),
        );
        check("", Err("the image has no name"));
    }
}
