//! `convert`: writes the other form, and reads both again to see that they are the same.

use super::progress;
use crate::cli::{ConvertArgs, Target};
use crate::contents::{Contents, RamFile, load_opened};
use crate::convert::{gather, same, write_mapped, write_stream};
use crate::error::Error;
use crate::escape::terminal;
use crate::input::{OpenOptions, Opened, SourceReader, open, open_file};
use crate::machines;
use snapshot_engine::{NewImage, SaveConfig, uuid_text};
use snapshot_image::Identity;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Memory for writes of a save.
const SAVE_MEMORY_BYTES: usize = 64 << 20;

/// A file that is removed again unless everything went well.
struct NewFile {
    path: PathBuf,
    keep: bool,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.keep && std::fs::remove_file(&self.path).is_err() {
            eprintln!("snapinspect: {} is left behind", terminal(self.path.as_os_str().as_encoded_bytes()));
        }
    }
}

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

pub(super) fn run(args: &ConvertArgs) -> Result<u8, Error> {
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
    let name = terminal(args.output.as_os_str().as_encoded_bytes());
    let file =
        std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&args.output);
    let file = file.map_err(Error::io(&name))?;
    let mut new = NewFile { path: args.output.clone(), keep: false };
    // RAM that does not stand in the stream page by page has to be put there first.
    let elsewhere = before.multifd
        || before
            .configuration
            .as_ref()
            .is_some_and(|configuration| configuration.has_capability("mapped-ram"));
    match args.to {
        Target::Stream => {
            let mut out = BufWriter::with_capacity(1 << 20, &file);
            if elsewhere {
                write_stream(&gather(input.open(&options)?, &options, progress::bar())?, &mut out)?;
            } else {
                let mut source = SourceReader(input.open(&options)?.source);
                io::copy(&mut source, &mut out).map_err(Error::io(&name))?;
            }
            out.flush().map_err(Error::io(&name))?;
        }
        Target::MappedRam => {
            write_mapped(&gather(input.open(&options)?, &options, progress::bar())?, &file)?;
        }
        Target::Image if elsewhere => {
            let mut stream = tempfile::tempfile().map_err(Error::io("temporary file"))?;
            let parts = gather(input.open(&options)?, &options, progress::bar())?;
            let mut out = BufWriter::with_capacity(1 << 20, &stream);
            write_stream(&parts, &mut out)?;
            out.flush().map_err(Error::io("temporary file"))?;
            drop(out);
            stream.rewind().map_err(Error::io("temporary file"))?;
            image(&mut stream, &file, &options, &before)?;
        }
        Target::Image => {
            image(&mut SourceReader(input.open(&options)?.source), &file, &options, &before)?;
        }
    }
    file.sync_all().map_err(Error::io(&name))?;
    drop(before);
    let alone = options.without_channels();
    let after =
        load_opened(open(&args.output, &alone)?, &alone, Some(RamFile::temporary()?), progress::bar())?;
    same(&input.load(&options)?, &after)?;
    new.keep = true;
    Ok(0)
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
    let summary =
        machines::save(stream, file, config).map_err(|failure| Error::Wrong(failure.to_string()))?;
    eprintln!("snapinspect: snapshot {}", uuid_text(&summary.uuid));
    Ok(())
}
