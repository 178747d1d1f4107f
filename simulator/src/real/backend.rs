//! RAM that is mapped privately from a file before the stream arrives, as QEMU's
//! `memory-backend-file` object maps it.

use background_snapshot::{Backing, Mapping};
use snapshot_image::{HostOffset, ImageBlock, ReadOptions, SnapshotReader};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One RAM block in a file: the properties of QEMU's object of that kind, as far as they matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBackend {
    /// Name of the RAM block.
    pub id: String,
    /// Its length in bytes.
    pub size: u64,
    /// The file.
    pub path: PathBuf,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
}

/// What all of these objects have: a private mapping of a file that is not open for writing.
const FIXED: [(&str, &str); 3] = [("share", "off"), ("readonly", "on"), ("rom", "off")];

impl FileBackend {
    /// All blocks of a snapshot image in the linear layout.
    ///
    /// # Errors
    ///
    /// The image cannot be read, is none, is in another layout, or a block's name cannot be an
    /// object's.
    pub fn of_image(path: &Path) -> io::Result<Vec<Self>> {
        let file = File::open(path)?;
        let read = |HostOffset(at), length| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).map(|()| bytes)
        };
        let reader = SnapshotReader::open_with(file.metadata()?.len(), ReadOptions::default(), read)?;
        let backend = |(number, block): (usize, &ImageBlock)| {
            let base = reader.linear_base(number);
            let HostOffset(offset) = base.ok_or_else(|| invalid("RAM is not in the linear layout"))?;
            let id = String::from_utf8(block.name.clone());
            let id = id.map_err(|_| invalid("the name of a RAM block is not text"))?;
            Ok(Self { id, size: block.used_length, path: path.to_owned(), offset })
        };
        reader.layout().blocks().iter().enumerate().map(backend).collect()
    }

    /// From the value of QEMU's option `-object`; a comma in the path is written twice.
    ///
    /// # Errors
    ///
    /// What is missing, unknown or no number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = split(text).into_iter();
        if words.next().as_deref() != Some("memory-backend-file") {
            return Err("expected memory-backend-file,id=…,size=…,mem-path=…,offset=…".to_owned());
        }
        let (mut id, mut size, mut path, mut offset) = (None, None, None, 0);
        let mut fixed = FIXED.to_vec();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: expected NAME=VALUE"))?;
            match name {
                "id" => id = Some(value.to_owned()),
                "size" => size = Some(number(name, value)?),
                "mem-path" => path = Some(PathBuf::from(value)),
                "offset" => offset = number(name, value)?,
                _ => match fixed.iter().position(|&known| known == (name, value)) {
                    Some(known) => drop(fixed.remove(known)),
                    None => return Err(format!("{name}={value}: not supported here")),
                },
            }
        }
        if let Some((name, value)) = fixed.first() {
            return Err(format!("expected {name}={value}: memory of another kind is not supported here"));
        }
        let missing = |name: &str| format!("expected {name}=");
        Ok(Self {
            id: id.ok_or_else(|| missing("id"))?,
            size: size.ok_or_else(|| missing("size"))?,
            path: path.ok_or_else(|| missing("mem-path"))?,
            offset,
        })
    }

    /// As the value of QEMU's option `-object`.
    #[must_use]
    pub fn to_object(&self) -> String {
        let path = self.path.to_string_lossy().replace(',', ",,");
        let fixed = FIXED.map(|(name, value)| format!("{name}={value}")).join(",");
        let Self { id, size, offset, .. } = self;
        format!("memory-backend-file,id={id},size={size},mem-path={path},offset={offset},{fixed}")
    }

    /// Maps it.
    ///
    /// # Errors
    ///
    /// The kernel's; `UnexpectedEof` if the file is too short: whoever touched what is behind its
    /// end would be killed.
    pub(super) fn map(&self) -> io::Result<Mapped> {
        let file = File::open(&self.path)?;
        let end = self.offset.checked_add(self.size).ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = usize::try_from(self.size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping::new(length, &Backing::Private { file: &file, offset: self.offset })?;
        Ok(Mapped { id: self.id.clone().into_bytes(), mapping: Some(mapping), _file: file })
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// A block that is mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) id: Vec<u8>,
    /// None as soon as it is the memory of a block.
    pub(super) mapping: Option<Mapping>,
    /// QEMU holds it open, too: whoever proves the mapping looks at it.
    _file: File,
}

/// At commas that are not doubled.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let doubled = character == ',' && characters.next_if_eq(&',').is_some();
        match words.last_mut() {
            Some(word) if character != ',' || doubled => word.push(character),
            _ => words.push(String::new()),
        }
    }
    words
}

/// Decimal, or hexadecimal behind 0x, as QEMU takes it; bytes, without units.
fn number(name: &str, value: &str) -> Result<u64, String> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| format!("{name}={value}: expected a number of bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_object_is_read_as_it_is_written() {
        let backend =
            FileBackend { id: "pc.ram".to_owned(), size: 1 << 30, path: "/a,b/c".into(), offset: 2 << 20 };
        let text = backend.to_object();
        assert_eq!(
            text,
            "memory-backend-file,id=pc.ram,size=1073741824,mem-path=/a,,b/c,offset=2097152,share=off,readonly=on,rom=off"
        );
        assert_eq!(FileBackend::parse(&text), Ok(backend.clone()));
        assert_eq!(FileBackend::parse(&text.replace("2097152", "0x200000")), Ok(backend));
    }

    #[test]
    fn memory_of_another_kind_is_refused() {
        let check = |text: &str, expected: &str| assert_eq!(FileBackend::parse(text).unwrap_err(), expected);
        check(
            "memory-backend-ram,id=a,size=1",
            "expected memory-backend-file,id=…,size=…,mem-path=…,offset=…",
        );
        let object = |rest: &str| format!("memory-backend-file,id=a,size=4096,mem-path=b{rest}");
        check(&object(""), "expected share=off: memory of another kind is not supported here");
        check(&object(",share=on"), "share=on: not supported here");
        check(&object(",offset=1K"), "offset=1K: expected a number of bytes");
        check(&object(",prealloc"), "prealloc: expected NAME=VALUE");
        check("memory-backend-file,share=off,readonly=on,rom=off", "expected id=");
    }

    #[test]
    fn writes_stay_in_memory_and_a_file_that_is_too_short_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 3 * 4096]).unwrap();
        let backend =
            FileBackend { id: "a".to_owned(), size: 8192, path: file.path().to_owned(), offset: 4096 };
        let mapping = backend.map().unwrap().mapping.unwrap();
        mapping.store(0, 1);
        assert_eq!((mapping.load(0), mapping.load(8)), (1, 0x0707_0707_0707_0707));
        assert_eq!(std::fs::read(file.path()).unwrap(), [7; 3 * 4096]);
        let error = FileBackend { offset: 8192, ..backend }.map().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
