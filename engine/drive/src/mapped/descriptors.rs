//! The destination's descriptors of the image: one at least, and none with which it could write.
//!
//! QEMU punches holes into the file behind a descriptor that it may write to, when its guest gives
//! pages to a balloon (`system/physmem.c`, `ram_block_discard_range`), private mapping or not: one
//! guest would destroy the image under all others. A balloon can be plugged in at any time.

use super::process::Process;
use rustix::fs::{FileType, OFlags, Statx};
use std::io;

/// Why the destination's descriptors are not as they must be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DescriptorError {
    #[error("its descriptors cannot be looked at")]
    Io(#[from] io::Error),
    #[error(
        "its descriptor {0} of the image can be written to: a balloon would punch holes into the image; needed: \
         readonly=on,rom=off, which QEMU has from 8.2 on"
    )]
    Writable(u32),
    #[error(
        "its descriptor {0} is another file with the image's inode number (in a snapshot of the subvolume?), and \
         mappings do not show which of the two they are of; needed: the image, and no such file"
    )]
    Other(u32),
    #[error("it has no descriptor of the image, so nothing shows that what it has mapped is this file")]
    None,
}

/// The number that all copies of a file on one file system share, and the device that they do not.
pub(super) fn identity(file: &Statx) -> (u64, (u32, u32)) {
    (file.stx_ino, (file.stx_dev_major, file.stx_dev_minor))
}

/// Checks all descriptors of `process` against the image, or against a file that is the process's
/// own, which it may write to (`is_own`).
pub(super) fn check(
    process: &Process,
    image: &Statx,
    file_system: i64,
    is_own: bool,
) -> Result<(), DescriptorError> {
    let (inode, device) = identity(image);
    let mut found = false;
    for number in process.descriptors()? {
        let file = match process.stat(number) {
            // It has been closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let is_file = FileType::from_raw_mode(file.stx_mode.into()) == FileType::RegularFile;
        if !is_file || identity(&file).0 != inode {
            continue;
        }
        if identity(&file).1 == device {
            if !is_own && process.flags(number)? & OFlags::RWMODE != OFlags::RDONLY {
                return Err(DescriptorError::Writable(number));
            }
            found = true;
        } else if process.file_system(number)? == file_system {
            return Err(DescriptorError::Other(number));
        }
    }
    if found { Ok(()) } else { Err(DescriptorError::None) }
}
