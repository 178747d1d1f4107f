//! The commands beside saving and reverting.

use crate::progress_mode::ProgressMode;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What else the program does. An image with the name of a command is `./unpack`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the RAM of an image to files, one for each block, which a guest can be mapped from
    #[command(after_help = UNPACK_EXAMPLES)]
    Unpack(UnpackArgs),
    /// Lock an image that this process has inherited, for as long as any process has the descriptor
    #[command(after_help = LOCK_EXAMPLES)]
    Lock(LockArgs),
}

/// `lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Number of the descriptor
    #[arg(value_name = "FD")]
    pub fd: RawFd,
}

/// `unpack`.
#[derive(Debug, Args)]
pub struct UnpackArgs {
    /// The image
    pub image: OsString,

    /// The folder for the files: it is not there yet, or is empty and only this user may write to it
    #[arg(long, value_name = "DIR")]
    pub ram_files: PathBuf,

    /// How progress is reported on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    pub progress: ProgressMode,
}

/// No line is longer than 78 columns, as in the program's own help.
const UNPACK_EXAMPLES: &str = "\
For QEMU before 8.1, which maps files only from their start:
  qemu-snapshot unpack --ram-files=/run/vm1.ram /vm/1.qcow2
  qemu-system-x86_64 -machine pc,memory-backend=pc.ram -m 4G ...
    -object memory-backend-file,id=pc.ram,size=4G,share=off,
      mem-path=/run/vm1.ram/pc.ram -incoming defer
Such a QEMU opens the file for writing: a guest with a balloon punches holes
into it. Each guest needs files of its own then.

Every page is verified; zero pages are holes. Files take no space of their own
where the file system shares bytes (XFS and btrfs, on that of the image).
manifest.json says which snapshot they are, and whether they have changed.
Run it as the user that QEMU runs as. Exit status: 0 done, 1 the image is
wrong, 2 it could not be done; then nothing is left.";

/// No line is longer than 78 columns.
const LOCK_EXAMPLES: &str = "\
In front of a QEMU whose guest is mapped from the image, which inherits the
descriptor, and so the lock (`snapinspect qemu-args` prints all of it):
  exec 9</vm/1.qcow2 && qemu-snapshot lock 9 && exec qemu-system-x86_64 ...
    -object memory-backend-file,mem-path=/proc/self/fd/9,...

As long as the guest lives no program that takes QEMU's image locks writes to
this file. A save with --overwrite puts a new file in its place, which does
such a guest no harm.
Exit status: 0 locked, 2 not.";
