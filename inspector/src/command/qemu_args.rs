//! `qemu-args`: a script that starts QEMU with memory from an image.

use super::output::Output;
use crate::cli::QemuArgs;
use crate::contents::{RamFile, load_opened};
use crate::error::Error;
use crate::extract::{ACPI_TABLES, memory};
use crate::input::{Kind, OpenOptions, Opened, open};
use crate::machines::open_snapshot;
use crate::qemu_args::{Plan, Version, Wishes, script, unknown_machine};
use snapshot_image::{ReadOptions, SnapshotReader, Verification};
use std::path::PathBuf;

pub(super) fn run(args: &QemuArgs) -> Result<u8, Error> {
    // Which memory is which node's is in the ACPI tables; nothing else of RAM is needed.
    let options = OpenOptions { only_block: Some(ACPI_TABLES.to_vec()), ..OpenOptions::default() };
    let opened = open(&args.file, &options)?;
    let reader = reader(&opened)?;
    let path = std::path::absolute(&args.file).map_err(Error::io(&opened.name))?;
    let wishes = Wishes { version: args.qemu, ram_files: ram_files(args, &path)?, dimms: args.dimm.clone() };
    let bases = bases(&reader);
    if wishes.ram_files.is_none() && bases.iter().all(Option::is_none) {
        return Err(Error::Usage(format!(
            "{0}: a dense image, whose blocks do not lie in one piece, cannot be mapped; make a linear one: \
             `snapinspect convert {0} NEW --to image --layout linear`, or --layout=linear in a save; or unpack it, \
             and give --ram-files",
            opened.name
        )));
    }
    let contents = load_opened(opened, &options, Some(RamFile::temporary()?.only(ACPI_TABLES)), None)?;
    let ram = contents.ram.as_ref().ok_or_else(|| Error::Usage("there is no RAM".to_owned()))?;
    let memory = memory(&contents, ram, &args.nodes)?.ok_or_else(|| unknown_machine(&contents))?;
    let plan = Plan::of(&contents, &memory, &bases, &wishes)?;
    let mut output = Output::stdout();
    output.bytes(&script(&plan, &path))?;
    output.flush()?;
    Ok(0)
}

/// The reader of an image whose checksums count: what is mapped from any other could be anything.
fn reader(opened: &Opened) -> Result<SnapshotReader, Error> {
    let name = &opened.name;
    let image = opened.image.as_ref().filter(|_| opened.kind == Kind::Image);
    let image = image.ok_or_else(|| {
        Error::Usage(format!("{name}: {}; only an image of qemu-snapshot can be mapped", opened.kind.name()))
    })?;
    let reader = open_snapshot(image, ReadOptions::default()).map_err(|error| error.of_file(name))?;
    match reader.snapshot().verification {
        Verification::Verified => Ok(reader),
        Verification::Unverified(why) => {
            Err(Error::Usage(format!("{name}: what is mapped cannot be verified: {why}")))
        }
    }
}

/// Where each block begins in the file, if it lies there in one piece.
fn bases(reader: &SnapshotReader) -> Vec<Option<u64>> {
    (0..reader.layout().blocks().len()).map(|block| reader.linear_base(block).map(|base| base.0)).collect()
}

/// The folder with unpacked files, if they are to be mapped.
fn ram_files(args: &QemuArgs, image: &std::path::Path) -> Result<Option<PathBuf>, Error> {
    if let Some(folder) = &args.ram_files {
        return std::path::absolute(folder).map(Some).map_err(Error::io(folder.display()));
    }
    let is_old = args.qemu.is_some_and(|version| version < Version::MAPS_IMAGES);
    Ok(is_old.then(|| {
        let mut folder = image.as_os_str().to_owned();
        folder.push(".ram");
        folder.into()
    }))
}
