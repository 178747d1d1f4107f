//! `convert`: writes the other form, and reads both again to see that they are the same.

use crate::cli::{ConvertArgs, Target};
use crate::contents::{Contents, RamFile, load_opened};
use crate::convert::{gather, same, write_mapped, write_stream};
use crate::error::Error;
use crate::escape::terminal;
use crate::input::{OpenOptions, Opened, SourceReader, open, open_file};
use crate::machines;
use crate::progress;
use crate::sink::{NewFile, Sink};
use snapshot_engine::{NewImage, SaveConfig, uuid_text};
use snapshot_image::Identity;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Memory for writes of a save.
const SAVE_MEMORY_BYTES: usize = 64 << 20;

/// What is copied at once.
const COPIED_BYTES: usize = 1 << 20;

/// An input that can be read more than once.
enum Input {
    Path(PathBuf),
    Spooled(String, File),
}

impl Input {
    fn new(path: &Path) -> Result<Self, Error> {
        let name = terminal(path.as_os_str().as_encoded_bytes());
        let mut reader: Box<dyn Read> = if path.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(path).map_err(Error::io(&name))?;
            if file.metadata().map_err(Error::io(&name))?.is_file() {
                return Ok(Self::Path(path.to_owned()));
            }
            Box::new(file)
        };
        let mut file = tempfile::tempfile().map_err(Error::io("temporary file"))?;
        io::copy(&mut reader, &mut file).map_err(Error::io(&name))?;
        Ok(Self::Spooled(name, file))
    }

    fn open(&self, options: &OpenOptions) -> Result<Opened, Error> {
        match self {
            Self::Path(path) => open(path, options),
            Self::Spooled(name, file) => {
                let file = file.try_clone().map_err(Error::io(name))?;
                open_file(name.clone(), file, options)
            }
        }
    }

    fn load(&self, options: &OpenOptions) -> Result<Contents, Error> {
        load_opened(self.open(options)?, options, Some(RamFile::temporary()?), progress::bar())
    }
}

pub(super) fn run(args: &ConvertArgs, inputs: &[&Path]) -> Result<u8, Error> {
    let new = Box::new(NewFile::create(&args.output, inputs, args.force)?);
    let (name, file) = (new.name().to_owned(), new.file());
    let mut options = args.input.options();
    let input = Input::new(&args.source)?;
    // What cannot be loaded is not written; this also tells the page size.
    let before = input.load(&options)?;
    if before.multifd && options.channels.is_empty() {
        let text =
            format!("{}: RAM travels on multifd channels, which are not here (--channel)", before.name);
        return Err(Error::Usage(text));
    }
    options.page_size = Some(before.page_size);
    // RAM that does not stand in the stream page by page has to be put there first.
    let elsewhere = before.multifd
        || before
            .configuration
            .as_ref()
            .is_some_and(|configuration| configuration.has_capability("mapped-ram"));
    match args.to {
        Target::Stream => {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            if elsewhere {
                let parts = gather(input.open(&options)?, &options, progress::bar())?;
                write_stream(&parts, &mut out, &name)?;
            } else {
                copy(input.open(&options)?, &mut out, &name)?;
            }
            out.flush().map_err(Error::io(&name))?;
        }
        Target::MappedRam => {
            let parts = gather(input.open(&options)?, &options, progress::bar())?;
            write_mapped(&parts, file, &name)?;
        }
        Target::Image if elsewhere => {
            let mut stream = tempfile::tempfile().map_err(Error::io("temporary file"))?;
            let parts = gather(input.open(&options)?, &options, progress::bar())?;
            let mut out = BufWriter::with_capacity(1 << 20, &stream);
            write_stream(&parts, &mut out, "temporary file")?;
            out.flush().map_err(Error::io("temporary file"))?;
            drop(out);
            stream.rewind().map_err(Error::io("temporary file"))?;
            image(&mut stream, file, &options, &before)?;
        }
        Target::Image => {
            image(&mut SourceReader(input.open(&options)?.source), file, &options, &before)?;
        }
    }
    file.sync_all().map_err(Error::io(&name))?;
    drop(before);
    let alone = options.without_channels();
    let written = open_file(&name, file.try_clone().map_err(Error::io(&name))?, &alone)?;
    let after = load_opened(written, &alone, Some(RamFile::temporary()?), progress::bar())?;
    same(&input.load(&options)?, &after)?;
    new.commit()?;
    Ok(0)
}

/// Copies the stream as it is.
fn copy(mut from: Opened, out: &mut dyn Write, name: &str) -> Result<(), Error> {
    let mut piece = vec![0; COPIED_BYTES];
    loop {
        let read = from.source.read(&mut piece).map_err(|error| Error::io(&from.name)(error.into()))?;
        if read == 0 {
            return Ok(());
        }
        out.write_all(&piece[..read]).map_err(Error::io(name))?;
    }
}

fn image(
    stream: &mut dyn Read,
    file: &File,
    options: &OpenOptions,
    contents: &Contents,
) -> Result<(), Error> {
    let mut uuid = [0; 16];
    rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::io("random numbers")(error.into()))?;
    // A random UUID: version 4, variant 1 (RFC 9562).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let config = SaveConfig {
        stream: options.stream(),
        no_vmdesc: contents.vmdesc.is_none(),
        existing_length_bytes: None,
        create: Some(NewImage::Fitting),
        overwrite: false,
        live: false,
        can_answer: false,
        identity: Identity { uuid, created_unix_s: now.map_or(0, |since| since.as_secs()) },
        memory_bytes: SAVE_MEMORY_BYTES,
        timeout_ms: None,
    };
    let what = || format!("{} into an image", contents.name);
    let saved = machines::save(stream, file, config);
    let summary = saved.map_err(|failure| Error::Engine { what: what(), failure: failure.into() })?;
    eprintln!("snapinspect: snapshot {}", uuid_text(&summary.uuid));
    Ok(())
}
