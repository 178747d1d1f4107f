//! `extract`.

use super::progress;
use crate::cli::ExtractArgs;
use crate::contents::{Contents, RamFile, load};
use crate::error::Error;
use crate::escape::terminal;
use crate::extract::{Sink, SparseFile, Through, copy_range, find_block, write_core};
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) fn run(args: &ExtractArgs) -> Result<u8, Error> {
    let ram = match &args.block {
        Some(block) => Some(RamFile::temporary()?.only(block.as_bytes())),
        None if args.core => Some(RamFile::temporary()?),
        None => None,
    };
    let contents = load(&args.file, &args.input.options(), ram, progress::bar())?;
    if let Some(name) = &args.block {
        return block(args, &contents, name);
    }
    if args.core {
        let mut out = create(args)?;
        let left_out = write_core(&contents, &mut *out)?;
        out.finish().map_err(Error::io("writing"))?;
        if !left_out.is_empty() {
            eprintln!(
                "snapinspect: not in the core, as their addresses are not known: {}",
                left_out.join(", ")
            );
        }
        return Ok(0);
    }
    let bytes = match &args.device {
        Some(name) => device(&contents, name, args.instance)?,
        None => contents
            .vmdesc
            .as_deref()
            .ok_or_else(|| Error::Usage(format!("{}: there is no vmdesc", contents.name)))?,
    };
    let mut out = create(args)?;
    out.write_all(bytes).map_err(Error::output)?;
    out.finish().map_err(Error::output)?;
    Ok(0)
}

fn block(args: &ExtractArgs, contents: &Contents, name: &str) -> Result<u8, Error> {
    let number = find_block(contents, name)?;
    let Some(ram) = &contents.ram else { return Ok(2) };
    let length = contents.blocks[number].used_length;
    let end = args.length.map_or(Some(length), |bytes| args.start.checked_add(bytes));
    let Some(end) = end.filter(|&end| end <= length && args.start <= end) else {
        let text = format!("the range ends behind the block, which has {length:#x} bytes");
        return Err(Error::Usage(text));
    };
    let mut out = create(args)?;
    copy_range(ram, contents.page_size, number, args.start..end, &mut *out)?;
    out.finish().map_err(Error::output)?;
    Ok(0)
}

fn device<'a>(contents: &'a Contents, name: &str, instance: u32) -> Result<&'a [u8], Error> {
    let named = |idstr: &[u8]| idstr == name.as_bytes() || terminal(idstr) == name;
    let mut of_name = contents.devices.iter().filter(|device| named(&device.idstr));
    let found = of_name.find(|device| device.instance_id == instance);
    found.map(|device| &device.body[..]).ok_or_else(|| {
        let name = terminal(name.as_bytes());
        Error::Usage(format!("{}: no device \"{name}\" with instance {instance}", contents.name))
    })
}

/// The file for the answer, with a mode that keeps it from others: what a guest has in memory is secret. It replaces what was
/// there, but none of the inputs.
fn create(args: &ExtractArgs) -> Result<Box<dyn Sink>, Error> {
    let path = &args.output;
    if path.as_os_str() == "-" {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Error::Usage("bytes do not go to a terminal: -o FILE, or a pipe".to_owned()));
        }
        return Ok(Box::new(Through(stdout.lock())));
    }
    let name = terminal(path.as_os_str().as_encoded_bytes());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(Error::io(&name))?;
    let metadata = file.metadata().map_err(Error::io(&name))?;
    if !metadata.is_file() {
        return Ok(Box::new(Through(file)));
    }
    let is_it = |input: &PathBuf| {
        let input = if input.as_os_str() == "-" { Path::new("/dev/stdin") } else { input };
        input.metadata().is_ok_and(|input| (input.dev(), input.ino()) == (metadata.dev(), metadata.ino()))
    };
    if std::iter::once(&args.file).chain(&args.input.channel).any(is_it) {
        return Err(Error::Usage(format!("{name}: is an input, and would be overwritten")));
    }
    file.set_len(0).map_err(Error::io(&name))?;
    Ok(Box::new(SparseFile::new(file)))
}
