//! RAM files: an image's RAM unpacked, on file systems of all kinds, and guests that run from them.

mod files;
mod guests;

use std::{ffi::OsStr, path::Path, process::Output};

use qemu_snapshot::RamFiles;
use snapshot_tests::image::{run_tool, text};

fn run_unpack(image: &Path, folder: &Path) -> Output {
    let arguments = [OsStr::new("unpack"), image.as_os_str(), OsStr::new("--ram-files"), folder.as_os_str()];
    run_tool(arguments, None)
}

/// Unpacks an image, which has to succeed.
fn unpack(image: &Path, folder: &Path) -> RamFiles {
    let output = run_unpack(image, folder);
    assert!(output.status.success(), "{}", text(&output));
    open(folder)
}

/// The files, which have to be those of the manifest.
fn open(folder: &Path) -> RamFiles {
    let own = rustix::process::geteuid().as_raw();
    RamFiles::open(folder, &[own]).unwrap_or_else(|error| panic!("{error}"))
}
