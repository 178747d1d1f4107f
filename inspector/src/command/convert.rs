//! `convert`: writes the other form, and reads both again to see that they are the same.

use crate::cli::{ConvertArgs, LayoutOption, Target};
use crate::contents::{Contents, RamFile, load_opened};
use crate::convert::{ZeroPages, gather, same, write_mapped, write_stream};
use crate::error::Error;
use crate::escape::terminal;
use crate::input::{OpenOptions, Opened, open, open_file};
use crate::machines;
use crate::presence::Presence;
use crate::progress::{self, Meter};
use crate::sink::{NewFile, Sink};
use crate::source::SourceReader;
use migration_stream::PageSize;
use snapshot_engine::{NewImage, SaveConfig, uuid_text};
use snapshot_image::{Identity, Layout};
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
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

impl From<LayoutOption> for Layout {
    fn from(option: LayoutOption) -> Self {
        match option {
            LayoutOption::Linear => Self::Linear,
            LayoutOption::Dense => Self::Dense,
        }
    }
}

pub(super) fn run(args: &ConvertArgs, inputs: &[&Path]) -> Result<u8, Error> {
    if args.layout.is_some() && args.to != Target::Image {
        return Err(Error::Usage("--layout is of images: --to image".to_owned()));
    }
    let new = Box::new(NewFile::create(&args.output, inputs, args.force)?);
    let (name, file) = (new.name().to_owned(), new.file());
    let mut options = args.input.options();
    options.salvage = args.salvage;
    let input = Input::new(&args.source)?;
    // What cannot be loaded is not written; this also shows the page size.
    let before = input.load(&options)?;
    if args.salvage {
        salvageable(&before)?;
    }
    options.page_size = PageSize::new(before.page_size.into());
    // RAM that does not stand in the stream page by page has to be put there first.
    let elsewhere = before.multifd || before.has_capability("mapped-ram");
    all_there(&before, args.to, elsewhere)?;
    if args.to == Target::MappedRam && before.has_capability("x-ignore-shared") {
        eprintln!("snapinspect: mapped-ram with x-ignore-shared: QEMU 10.0 does not load it, 11.1 does");
    }
    let parts = || gather(input.open(&options)?, &before.presence, &options, progress::bar());
    match args.to {
        Target::Stream => {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            if elsewhere {
                write_stream(&parts()?, ZeroPages::Sent, &mut out, &name)?;
            } else {
                // A destination has to be sent zero pages, too.
                let every_page = OpenOptions { every_page: true, ..options.clone() };
                copy(input.open(&every_page)?, &mut out, &name)?;
            }
            out.flush().map_err(Error::io(&name))?;
        }
        Target::MappedRam => {
            write_mapped(&parts()?, file, &name)?;
        }
        Target::Image if elsewhere => {
            let mut stream = tempfile::tempfile().map_err(Error::io("temporary file"))?;
            let parts = parts()?;
            let mut out = BufWriter::with_capacity(1 << 20, &stream);
            write_stream(&parts, ZeroPages::LeftOut, &mut out, "temporary file")?;
            out.flush().map_err(Error::io("temporary file"))?;
            drop(out);
            stream.rewind().map_err(Error::io("temporary file"))?;
            image(&mut stream, file, &options, &before, args.layout)?;
        }
        Target::Image => {
            // A save refuses a block without any page if x-ignore-shared may have left it elsewhere.
            let every_page = before.has_capability("x-ignore-shared");
            let options = OpenOptions { every_page, ..options.clone() };
            image(&mut SourceReader(input.open(&options)?.source), file, &options, &before, args.layout)?;
        }
    }
    file.sync_all().map_err(Error::io(&name))?;
    let salvaged = args.salvage.then(|| assumed(&before));
    drop(before);
    let alone = OpenOptions { salvage: false, ..options.without_channels() };
    let written = open_file(&name, file.try_clone().map_err(Error::io(&name))?, &alone)?;
    let after = load_opened(written, &alone, Some(RamFile::temporary()?), progress::bar())?;
    same(&input.load(&options)?, &after)?;
    new.commit()?;
    if let Some(assumed) = salvaged {
        eprintln!("snapinspect: {assumed}");
    }
    Ok(0)
}

/// Copies the stream as it is.
fn copy(mut from: Opened, out: &mut dyn Write, name: &str) -> Result<(), Error> {
    let mut piece = vec![0; COPIED_BYTES];
    let (mut meter, total) = (Meter::new("writing"), from.source.length());
    let mut copied = 0;
    loop {
        meter.at(copied, total);
        let read = from.source.read(&mut piece).map_err(|error| Error::io(&from.name)(error.into()))?;
        if read == 0 {
            return Ok(());
        }
        out.write_all(&piece[..read]).map_err(Error::io(name))?;
        copied += read as u64;
    }
}

/// Refuses a form in which RAM that is not in the input would become zeros. `rewritten`: RAM is put
/// to other places.
fn all_there(contents: &Contents, to: Target, rewritten: bool) -> Result<(), Error> {
    for (number, block) in contents.blocks.iter().enumerate() {
        let found = contents.presence(number);
        let kept = match found.presence {
            Presence::Here | Presence::Partly => true,
            Presence::IgnoredShared => to != Target::Image,
            Presence::Multifd => false,
            // A copy of the stream leaves out what the stream does.
            Presence::Cpr | Presence::OtherConnection | Presence::NeverArrived => {
                to == Target::Stream && !rewritten
            }
        };
        if !kept {
            return Err(found.refusal(&contents.name, block));
        }
        if let Some(remark) = found.remark(&contents.name, block) {
            eprintln!("snapinspect: {remark}");
        }
    }
    Ok(())
}

/// Whether pages may be taken from their places: of a mapped-ram file whose RAM was over and whose
/// devices are whole. The walk has said so already if its bitmaps were written, or something behind
/// RAM is damaged or missing.
fn salvageable(contents: &Contents) -> Result<(), Error> {
    let name = &contents.name;
    if !contents.has_capability("mapped-ram") {
        return Err(Error::Usage(format!("{name}: --salvage is for mapped-ram files, and this is none")));
    }
    if contents.vmdesc.is_none() || contents.devices.is_empty() {
        let text = "there is no vmdesc that proves that the device sections behind RAM are whole";
        return Err(Error::Wrong(format!("{name}: not salvaged: {text}")));
    }
    Ok(())
}

/// What a salvage took for granted.
fn assumed(contents: &Contents) -> String {
    let page = u64::from(contents.page_size.max(1));
    let pages: u64 = contents.blocks.iter().map(|block| block.used_length / page).sum();
    let zero: u64 = contents.presence.iter().map(|block| block.missing_pages).sum();
    format!(
        "{}: salvaged {} pages from their places; {zero} places that are zero or a hole were taken for zero pages. This \
         assumes that the file was empty when the save began, and that no one has written to it since",
        contents.name,
        pages.saturating_sub(zero)
    )
}

fn image(
    stream: &mut dyn Read,
    file: &File,
    options: &OpenOptions,
    contents: &Contents,
    layout: Option<LayoutOption>,
) -> Result<(), Error> {
    let mut uuid = [0; 16];
    rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::io("random numbers")(error.into()))?;
    // A random UUID: version 4, variant 1 (RFC 9562).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let config = SaveConfig::new(Identity { uuid, created_unix_s: now.map_or(0, |since| since.as_secs()) })
        .with(|config| {
            config.stream = options.stream();
            config.no_vmdesc = contents.vmdesc.is_none();
            config.create = Some(NewImage::Fitting);
            config.layout = layout.map(Layout::from);
            config.memory_bytes = SAVE_MEMORY_BYTES;
        });
    let what = || format!("{} into an image", contents.name);
    let mut metered = Metered { stream, done: 0, meter: Meter::new("writing") };
    let saved = machines::save(&mut metered, file, config);
    let summary = saved.map_err(|failure| Error::Engine { what: what(), failure: failure.into() })?;
    if summary.layout == Layout::Linear {
        // What is written to it would be seen by every guest that is mapped from it.
        file.set_permissions(Permissions::from_mode(0o400)).map_err(Error::io(what()))?;
    }
    eprintln!("snapinspect: snapshot {}", uuid_text(&summary.uuid));
    Ok(())
}

/// A stream, and how much of it has been read.
struct Metered<'a> {
    stream: &'a mut dyn Read,
    done: u64,
    meter: Meter,
}

impl Read for Metered<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(out)?;
        self.done += read as u64;
        self.meter.at(self.done, None);
        Ok(read)
    }
}
