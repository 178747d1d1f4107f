//! Opens an input, whatever it is: told by its content, unwrapped, and put in order.

mod detect;
mod libvirt;
mod lzop;
mod savevm;
mod wrapped;

pub use detect::Kind;
pub use libvirt::LibvirtHeader;
pub use savevm::InternalSnapshot;
pub(crate) use savevm::{L2_COMPRESSED, OFFSET_MASK, be, be32};
pub use wrapped::Wrapper;

use crate::advice::Advice;
use crate::error::Error;
use crate::escape::terminal;
use crate::machines::{ImageReadError, ImageStream};
use crate::size::to_usize;
use crate::source::{FileRange, Piped, RandomAccess, Source, SourceReader};
use detect::{HEAD_BYTES, detect};
use migration_stream::PageSize;
use savevm::Qcow2;
use snapshot_engine::RevertConfig;
use snapshot_image::ReadOptions;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// What unpacking may give at most, unless an option says otherwise.
pub const DEFAULT_MAX_UNPACKED_BYTES: u64 = 64 << 30;
/// A stream in a libvirt save image in a gzip file: no more than that is looked into.
const WRAPPERS_LIMIT: usize = 3;
/// Channels that a source can have.
const CHANNELS_LIMIT: usize = 255;

/// How an input is to be read.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Which of several internal snapshots, by name or id.
    pub snapshot: Option<String>,
    /// Where none is named, take the newest one instead of asking for a name.
    pub any_snapshot: bool,
    /// Target page size in bytes, where the input does not tell it.
    pub page_size: Option<PageSize>,
    /// The most RAM that is accepted, in bytes.
    pub max_ram_bytes: u64,
    /// The most that unpacking may give, in bytes.
    pub max_unpacked_bytes: u64,
    /// Read images without their checksums.
    pub allow_unverified: bool,
    /// Recorded multifd channels of the stream, in any order.
    pub channels: Vec<PathBuf>,
    /// Take the pages of a mapped-ram file whose bitmaps were never written from their places.
    pub salvage: bool,
    /// Walk zero pages of an image one by one, as a revert sends them, instead of leaving them out
    /// of the walk.
    pub every_page: bool,
    /// Of a linear image, walk the pages of this block only: all others are left out.
    pub only_block: Option<Vec<u8>>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            snapshot: None,
            any_snapshot: false,
            page_size: None,
            max_ram_bytes: migration_stream::DEFAULT_MAX_RAM_BYTES,
            max_unpacked_bytes: DEFAULT_MAX_UNPACKED_BYTES,
            allow_unverified: false,
            channels: Vec::new(),
            salvage: false,
            every_page: false,
            only_block: None,
        }
    }
}

impl OpenOptions {
    /// The same for another input: channels belong to one.
    #[must_use]
    pub fn without_channels(&self) -> Self {
        Self { channels: Vec::new(), ..self.clone() }
    }

    pub(crate) fn reading(&self) -> ReadOptions {
        ReadOptions { allow_unverified: self.allow_unverified }
    }

    pub(crate) fn stream(&self) -> migration_stream::Options {
        migration_stream::Options::default()
            .with_page_size(self.page_size)
            .with_max_ram_bytes(self.max_ram_bytes)
    }
}

/// An input that was recognised and unwrapped.
pub struct Opened {
    /// Its name, for messages.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// How it was packed, outermost first.
    pub wrappers: Vec<Wrapper>,
    /// Offset at which the stream begins in the unpacked bytes.
    pub start: u64,
    /// What libvirt wrote before the stream, and its XML.
    pub libvirt: Option<(LibvirtHeader, Vec<u8>)>,
    /// The internal snapshots, in an image that has some.
    pub snapshots: Vec<InternalSnapshot>,
    /// The image itself, for what is checked beside the stream in it.
    pub image: Option<FileRange>,
    /// Pages of an image that do not arrive are zero.
    pub leaves_zeros_out: bool,
    /// The multifd channels of the stream that were given with it.
    pub channels: Vec<Box<dyn Source>>,
    /// The bytes, from [`start`](Self::start) on. An image gives the stream that its snapshot reverts to.
    pub source: Box<dyn Source>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What is looked at now: a file, or something that is read through.
enum Stage {
    File(FileRange),
    Pipe(Box<dyn Read>),
}

/// Opens `path`; `-` is stdin.
///
/// # Errors
///
/// When it cannot be read, or is nothing that can be inspected.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened, Error> {
    let name = terminal(path.as_os_str().as_encoded_bytes());
    if path.as_os_str() == "-" {
        return identify("stdin".to_owned(), Stage::Pipe(Box::new(io::stdin().lock())), options);
    }
    let file = File::open(path).map_err(Error::io(&name))?;
    let metadata = file.metadata().map_err(Error::io(&name))?;
    if metadata.is_dir() {
        return Err(Error::Input { what: name, why: "a directory".to_owned() });
    }
    let stage = if metadata.is_file() {
        Stage::File(FileRange::whole(file).map_err(Error::io(&name))?)
    } else {
        Stage::Pipe(Box::new(file))
    };
    identify(name, stage, options)
}

/// Opens a file that is open already, from its start.
///
/// # Errors
///
/// As [`open`].
pub fn open_file(name: impl Into<String>, file: File, options: &OpenOptions) -> Result<Opened, Error> {
    let name = name.into();
    let whole = FileRange::whole(file).map_err(Error::io(&name))?;
    identify(name, Stage::File(whole), options)
}

/// Opens bytes that come from anywhere.
///
/// # Errors
///
/// As [`open`].
pub fn open_reader(
    name: impl Into<String>,
    reader: impl Read + 'static,
    options: &OpenOptions,
) -> Result<Opened, Error> {
    identify(name.into(), Stage::Pipe(Box::new(reader)), options)
}

fn read_head(reader: &mut dyn Read, length: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(length as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn identify(name: String, mut stage: Stage, options: &OpenOptions) -> Result<Opened, Error> {
    let mut wrappers = Vec::new();
    let mut libvirt = None;
    let mut start = 0;
    loop {
        let head = match &mut stage {
            Stage::File(file) => {
                let length = file.size_bytes().min(HEAD_BYTES as u64);
                let mut head = vec![0; to_usize(length)];
                file.read_at(0, &mut head).map_err(Error::io(&name))?;
                head
            }
            Stage::Pipe(reader) => {
                let head = read_head(reader, HEAD_BYTES).map_err(Error::io(&name))?;
                let rest = std::mem::replace(reader, Box::new(io::empty()));
                *reader = Box::new(Piped::new(head.clone(), rest));
                head
            }
        };
        if let Some(wrapper) = Wrapper::detect(&head) {
            if wrappers.len() == WRAPPERS_LIMIT {
                let why = format!("more than {WRAPPERS_LIMIT} nested layers of compression");
                return Err(Error::Input { what: name, why });
            }
            wrappers.push(wrapper);
            let packed: Box<dyn Read> = match stage {
                Stage::File(file) => Box::new(io::BufReader::with_capacity(1 << 20, SourceReader(file))),
                Stage::Pipe(reader) => reader,
            };
            stage = Stage::Pipe(wrapper.unpack(&name, packed, options.max_unpacked_bytes)?);
            start = 0;
            continue;
        }
        let Some((kind, at)) = detect(&head) else {
            let why = unknown(&head);
            return Err(Error::Input { what: name, why });
        };
        if kind == Kind::Libvirt && libvirt.is_none() {
            let header = LibvirtHeader::parse(&name, &head)?;
            let length = libvirt::HEADER_BYTES + header.data_bytes as usize;
            let (data, rest) = split(stage, length).map_err(Error::io(&name))?;
            if data.len() < length || !data[libvirt::HEADER_BYTES..].contains(&0) && header.data_bytes > 0 {
                let why = "libvirt save image: cut off inside its XML".to_owned();
                return Err(Error::Input { what: name, why });
            }
            let xml = data[libvirt::HEADER_BYTES..].split(|&byte| byte == 0).next().unwrap_or_default();
            if let Some(why) = header.unread() {
                return Err(Error::Input { what: name, why });
            }
            libvirt = Some((header, xml.to_vec()));
            start = length as u64;
            stage = rest;
            continue;
        }
        let opened = Opened {
            name,
            kind,
            wrappers,
            start: start + at,
            libvirt,
            snapshots: Vec::new(),
            image: None,
            leaves_zeros_out: false,
            channels: Vec::new(),
            source: Box::new(Piped::new(Vec::new(), io::empty())),
        };
        let mut opened = finish(opened, stage, at, options)?;
        opened.channels = channels(&opened, options)?;
        return Ok(opened);
    }
}

/// Opens the channels that belong to a stream.
fn channels(main: &Opened, options: &OpenOptions) -> Result<Vec<Box<dyn Source>>, Error> {
    if !options.channels.is_empty() && main.kind != Kind::Stream {
        let text =
            format!("{}: a {}; multifd channels belong to a migration stream", main.name, main.kind.name());
        return Err(Error::Usage(text));
    }
    if options.channels.len() > CHANNELS_LIMIT {
        return Err(Error::Usage(format!("more than {CHANNELS_LIMIT} channels: their ids have one byte")));
    }
    let alone = options.without_channels();
    let mut sources = Vec::new();
    for path in &options.channels {
        let channel = open(path, &alone)?;
        if channel.kind != Kind::Multifd {
            let why = format!("a {}, expected a multifd channel", channel.kind.name());
            return Err(Error::Input { what: channel.name, why });
        }
        sources.push(channel.source);
    }
    Ok(sources)
}

/// Sets up the source of what was recognised.
fn finish(mut opened: Opened, stage: Stage, at: u64, options: &OpenOptions) -> Result<Opened, Error> {
    if opened.kind == Kind::Image {
        let file = match stage {
            Stage::File(file) => file,
            Stage::Pipe(reader) => spool(&opened.name, reader)?,
        };
        return open_image(opened, file, options);
    }
    opened.source = match stage {
        Stage::File(file) => Box::new(file.from(at)),
        Stage::Pipe(reader) => {
            let mut source = Piped::new(Vec::new(), reader);
            source.skip(at).map_err(|error| Error::io(&opened.name)(error.into()))?;
            Box::new(source)
        }
    };
    if opened.libvirt.is_some() {
        opened.kind = Kind::Libvirt;
    }
    Ok(opened)
}

fn open_image(mut opened: Opened, file: FileRange, options: &OpenOptions) -> Result<Opened, Error> {
    opened.image = Some(file.clone());
    let Some(qcow2) = Qcow2::open(&opened.name, &file)? else {
        let config = RevertConfig::new(0).with(|config| {
            // An image of 15 TiB with a few pages costs what these do.
            config.stream = options.stream();
            config.allow_unverified = options.allow_unverified;
            // An image of 15 TiB with a few pages costs what these do.
            config.fresh_ram = !options.every_page;
        });
        let only = options.only_block.as_deref();
        let stream = ImageStream::new(Box::new(file), config, options.reading(), only);
        opened.leaves_zeros_out = !options.every_page;
        opened.source = Box::new(stream.map_err(|error: ImageReadError| error.of_file(&opened.name))?);
        return Ok(opened);
    };
    opened.kind = Kind::Savevm;
    opened.snapshots = qcow2.list(&opened.name, &file)?;
    let with_state = || opened.snapshots.iter().filter(|snapshot| snapshot.vm_state_bytes > 0);
    let chosen = match &options.snapshot {
        Some(wanted) => opened
            .snapshots
            .iter()
            .find(|snapshot| snapshot.name == wanted.as_bytes())
            .or_else(|| opened.snapshots.iter().find(|snapshot| snapshot.id == wanted.as_bytes())),
        None if with_state().count() == 1 => with_state().next(),
        None if options.any_snapshot => with_state().max_by_key(|snapshot| snapshot.date_s),
        None => None,
    };
    let Some(chosen) = chosen else {
        let names: Vec<_> = opened.snapshots.iter().map(|snapshot| terminal(&snapshot.name)).collect();
        if options.snapshot.is_none() && with_state().next().is_none() {
            let names = names.join(", ");
            let why =
                format!("a qcow2 disk whose internal snapshots ({names}) are of the disk alone, without RAM");
            return Err(Error::Input { what: opened.name, why });
        }
        let text = format!("{}: which snapshot? It has {}", opened.name, names.join(", "));
        return Err(Error::Usage(text).advised(Some(Advice::ChooseSnapshot)));
    };
    if chosen.vm_state_bytes == 0 {
        let why = format!("snapshot \"{}\" is of the disk alone", terminal(&chosen.name));
        return Err(Error::Input { what: opened.name, why });
    }
    opened.source = Box::new(qcow2.vm_state(&opened.name, file, chosen)?);
    Ok(opened)
}

/// An image needs to be read at any place: one that comes through a pipe goes to a file without a name first.
fn spool(name: &str, mut reader: Box<dyn Read>) -> Result<FileRange, Error> {
    let mut file = tempfile::tempfile().map_err(Error::io("temporary file"))?;
    io::copy(&mut reader, &mut file).map_err(Error::io(name))?;
    FileRange::whole(file).map_err(Error::io(name))
}

/// Takes the first `length` bytes off.
fn split(stage: Stage, length: usize) -> io::Result<(Vec<u8>, Stage)> {
    match stage {
        Stage::File(file) => {
            let there = file.size_bytes().min(length as u64);
            let mut bytes = vec![0; to_usize(there)];
            file.read_at(0, &mut bytes)?;
            Ok((bytes, Stage::File(file.from(there))))
        }
        Stage::Pipe(mut reader) => {
            let bytes = read_head(&mut reader, length)?;
            Ok((bytes, Stage::Pipe(reader)))
        }
    }
}

fn unknown(head: &[u8]) -> String {
    let looks = match head {
        [] => return "empty".to_owned(),
        [0x7f, b'E', b'L', b'F', ..] => " (ELF)",
        [b'K', b'D', b'M', b'V', ..] => " (vmdk)",
        [b'{', ..] => " (JSON: of use for compat only)",
        _ => "",
    };
    let first: Vec<_> = head.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("neither a migration stream nor an image: it begins with {}{looks}", first.join(" "))
}
