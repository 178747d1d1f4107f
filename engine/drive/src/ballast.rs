//! Space of the file system that is kept for what will be written a second time.
//!
//! On a copy-on-write file system (btrfs; XFS where extents are shared) a block that is overwritten
//! needs a new place first. So space that was "reserved by writing it" is not there if another
//! program fills the disk meanwhile. The ballast lies behind the end of the image, belongs to it,
//! and so goes with it if the process is killed.

use crate::size::to_usize;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// ZFS accepts a fallocate(2) that allocates nothing (`zpl_fallocate_common` in its `zpl_file.c`).
const ZFS_MAGIC: u64 = 0x2fc1_2fc1;
const BLOCK_BYTES: u64 = 4096;
/// What is written at once where space can be had only by writing.
const WRITE_BYTES: usize = 64 << 10;

/// What is held of one file.
#[derive(Debug, Default)]
pub(crate) struct Ballast {
    held: Option<Held>,
}

/// Lengths of the file in bytes.
#[derive(Debug)]
struct Held {
    /// Without the ballast.
    without: u64,
    /// While it is held: longer, where space can be had only by writing.
    with: u64,
}

impl Ballast {
    /// Holds `bytes` behind the end of the file; 0 gives back what is held.
    ///
    /// # Errors
    ///
    /// The operating system's: `StorageFull` above all; another program has changed the file's
    /// length, and so its content (a shell's `>`).
    pub(crate) fn hold(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        if let Some(held) = self.held.take() {
            let (found, expected) = (file.metadata()?.len(), held.with);
            if found != expected {
                let what = "another program has changed the file while it was being saved";
                return Err(io::Error::other(format!("{what}: it has {found} bytes, expected {expected}")));
            }
            // Cuts off what lies behind the end, also if the length stays.
            file.set_len(held.without)?;
        }
        if bytes == 0 {
            return Ok(());
        }
        let without = file.metadata()?.len();
        // Given back also if the rest fails.
        self.held = Some(Held { without, with: without });
        take(file, without, bytes)?;
        self.held = Some(Held { without, with: file.metadata()?.len() });
        Ok(())
    }
}

/// Takes `bytes` behind the end of a file of `length` bytes.
fn take(file: &File, length: u64, bytes: u64) -> io::Result<()> {
    let is_zfs = u64::try_from(rustix::fs::fstatfs(file)?.f_type).is_ok_and(|magic| magic == ZFS_MAGIC);
    if !is_zfs {
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, length, bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            result => return Ok(result?),
        }
    }
    write_behind(file, length, bytes)
}

/// Writes what cannot be compressed. The file is longer then, until the ballast is given back:
/// `length` is its length without it.
fn write_behind(file: &File, length: u64, bytes: u64) -> io::Result<()> {
    let mut memory = vec![0; WRITE_BYTES + to_usize(BLOCK_BYTES)];
    // O_DIRECT wants it aligned.
    let start = memory.as_ptr().align_offset(to_usize(BLOCK_BYTES));
    let block = &mut memory[start..start + WRITE_BYTES];
    let mut filled = 0;
    while filled < block.len() {
        filled += rustix::rand::getrandom(&mut block[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    let start = length.next_multiple_of(BLOCK_BYTES);
    let mut at = start;
    while at < start + bytes {
        file.write_all_at(block, at)?;
        at += block.len() as u64;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn it_takes_space_and_gives_it_back_and_the_file_stays_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.sync_all().unwrap();
        let blocks = || file.metadata().unwrap().blocks() * 512;
        let before = blocks();
        let mut ballast = Ballast::default();
        for bytes in [1 << 20, 2 << 20, 1 << 20] {
            ballast.hold(&file, bytes).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 8192);
            assert!(blocks() >= before + bytes, "{} bytes", blocks());
        }
        ballast.hold(&file, 0).unwrap();
        assert_eq!((file.metadata().unwrap().len(), blocks()), (8192, before));
    }

    #[test]
    fn where_it_has_to_be_written_it_is_cut_off_again() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 5000], 0).unwrap();
        write_behind(&file, 5000, 200_000).unwrap();
        let with = file.metadata().unwrap().len();
        assert!(with >= 5000 + 200_000);
        let mut ballast = Ballast { held: Some(Held { without: 5000, with }) };
        ballast.hold(&file, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5000);
    }

    #[test]
    fn a_file_that_another_program_has_changed_is_not_made_as_long_as_before() {
        let file = tempfile::tempfile().unwrap();
        for (length, wanted) in
            [(0, "it has 0 bytes, expected 8192"), (9000, "it has 9000 bytes, expected 8192")]
        {
            file.set_len(8192).unwrap();
            let mut ballast = Ballast::default();
            ballast.hold(&file, 1 << 20).unwrap();
            file.set_len(length).unwrap();
            let error = ballast.hold(&file, 0).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            assert_eq!(file.metadata().unwrap().len(), length);
        }
    }
}
