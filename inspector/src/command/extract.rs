//! `extract`.

use crate::cli::ExtractArgs;
use crate::contents::{Contents, RamFile, load};
use crate::error::Error;
use crate::escape::terminal;
use crate::extract::{Addresses, Core, Placement, copy_range, find_block};
use crate::progress;
use crate::sink::{self, Sink};
use std::path::Path;

pub(super) fn run(args: &ExtractArgs, inputs: &[&Path]) -> Result<u8, Error> {
    let mut out = sink::open(&args.output, inputs, args.force)?;
    let ram = match &args.block {
        Some(block) => Some(RamFile::temporary()?.only(block.as_bytes())),
        None if args.core => Some(RamFile::temporary()?),
        None => None,
    };
    let contents = load(&args.file, &args.input.options(), ram, progress::bar())?;
    if let Some(name) = &args.block {
        return block(args, &contents, name, out);
    }
    if args.core {
        let placement = Placement::new(&contents, &args.nodes, &args.place)?;
        let addresses = if args.virtual_addresses { Addresses::Virtual } else { Addresses::Physical };
        let core = Core::of(&contents, &placement, addresses)?;
        core.write(&mut *out)?;
        out.commit()?;
        for remark in core.remarks() {
            eprintln!("snapinspect: {remark}");
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
    out.put(bytes)?;
    out.commit()?;
    Ok(0)
}

/// Refuses a block that is not in the input, and says which of its pages are not.
fn require(contents: &Contents, block: usize) -> Result<(), Error> {
    if let Some(remark) = contents.require(block)? {
        eprintln!("snapinspect: {remark}");
    }
    Ok(())
}

fn block(args: &ExtractArgs, contents: &Contents, name: &str, mut out: Box<dyn Sink>) -> Result<u8, Error> {
    let number = find_block(contents, name)?;
    require(contents, number)?;
    let Some(ram) = &contents.ram else { return Ok(2) };
    let length = contents.blocks[number].used_length;
    let end = args.length.map_or(Some(length), |bytes| args.start.checked_add(bytes));
    let Some(end) = end.filter(|&end| end <= length && args.start <= end) else {
        let text = format!("the range ends behind the block, which has {length:#x} bytes");
        return Err(Error::Usage(text));
    };
    copy_range(ram, number, args.start..end, &mut *out)?;
    out.commit()?;
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
