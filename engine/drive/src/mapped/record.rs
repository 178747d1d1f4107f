//! The record that an image was verified: `IMAGE.verified`, beside it.
//!
//! It names the state of the file in which that was: while inode, size, times and the snapshot's
//! root are the same, the bytes are. It is not believed where others could have written it.

use crate::sidecar;
use crate::trust::check_alone;
use snapshot_image::{Snapshot, crc32c};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

const SUFFIX: &str = ".verified";
const MAGIC: &[u8; 8] = b"STVMVER1";
/// What is changed so shortly after a change may show the same time: the kernel's clock for it has
/// steps of 10 ms at most, and some file systems keep whole seconds.
const FINE: Duration = Duration::from_millis(100);
const COARSE: Duration = Duration::from_secs(2);

/// More blocks than any guest has.
const BLOCKS_LIMIT: usize = 4096;

/// The state of the file and its snapshot.
pub(super) fn state(file: &File, snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let file = file.metadata()?;
    let mut bytes = MAGIC.to_vec();
    for number in [file.ino(), file.size()] {
        bytes.extend(number.to_be_bytes());
    }
    for number in [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(snapshot.uuid.unwrap_or_default());
    bytes.extend(snapshot.root_checksum.unwrap_or_default().to_be_bytes());
    Ok(bytes)
}

/// A change of the file that is still to come will show another time.
pub(super) fn is_settled(file: &File) -> io::Result<bool> {
    let file = file.metadata()?;
    let whole_seconds = file.ctime_nsec() == 0 && file.mtime_nsec() == 0;
    let seconds = u64::try_from(file.ctime()).unwrap_or(u64::MAX);
    let nanoseconds = u32::try_from(file.ctime_nsec()).unwrap_or(0);
    let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds));
    let margin = if whole_seconds { COARSE } else { FINE };
    // A time to come is none that can be compared.
    let age = changed.and_then(|changed| SystemTime::now().duration_since(changed).ok());
    Ok(age.is_some_and(|age| age > margin))
}

/// The blocks, by their numbers, that the record beside `image` says were verified in this state.
/// `Err` is why the record is not believed.
pub(super) fn verified(image: &Path, state: &[u8]) -> io::Result<Vec<usize>> {
    let Some(file) = sidecar::open(image, SUFFIX)? else { return Ok(Vec::new()) };
    let name = || sidecar::path(image, SUFFIX).display().to_string().escape_debug().to_string();
    let untrusted = |what: &str| io::Error::other(format!("{}: {what}", name()));
    let own = [rustix::process::geteuid().as_raw()];
    check_alone(&rustix::fs::fstat(&file)?, &own).map_err(|why| untrusted(&why))?;
    let folder = rustix::fs::stat(sidecar::folder(image))?;
    check_alone(&folder, &own).map_err(|why| untrusted(&format!("its directory: {why}")))?;
    let bytes = sidecar::read(file, state.len() + 4 * BLOCKS_LIMIT + 4);
    Ok(bytes.and_then(|bytes| parse(&bytes, state)).unwrap_or_default())
}

/// `None` if it is damaged, or about another state.
fn parse(bytes: &[u8], state: &[u8]) -> Option<Vec<usize>> {
    let (rest, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c(rest) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (numbers, []) = rest.strip_prefix(state)?.as_chunks::<4>() else { return None };
    numbers.iter().map(|number| usize::try_from(u32::from_be_bytes(*number)).ok()).collect()
}

/// Keeps the record that these blocks were verified in this state.
pub(super) fn store(image: &Path, state: &[u8], numbers: &[usize]) -> io::Result<()> {
    let mut bytes = state.to_vec();
    for number in numbers.iter().take(BLOCKS_LIMIT) {
        bytes.extend(u32::try_from(*number).map_err(io::Error::other)?.to_be_bytes());
    }
    bytes.extend(crc32c(&bytes).to_be_bytes());
    sidecar::store_bytes(image, SUFFIX, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_record_is_of_one_state_and_of_the_blocks_that_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vm");
        assert_eq!(verified(&image, b"state").unwrap(), Vec::<usize>::new(), "there is none");
        store(&image, b"state", &[1, 3]).unwrap();
        assert_eq!(verified(&image, b"state").unwrap(), [1, 3]);
        for other in [&b"other"[..], b"stat", b"state\0\0\0\x01"] {
            assert_ne!(verified(&image, other).unwrap(), [1, 3]);
        }
        let record = folder.path().join("vm.verified");
        let whole = std::fs::read(&record).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&record, &damaged).unwrap();
            assert_eq!(verified(&image, b"state").unwrap(), Vec::<usize>::new(), "byte {at}");
            std::fs::write(&record, &whole[..at]).unwrap();
            assert_eq!(verified(&image, b"state").unwrap(), Vec::<usize>::new(), "cut at {at}");
        }
    }

    #[test]
    fn a_record_is_believed_only_where_no_one_else_can_write_it() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vm");
        store(&image, b"state", &[0]).unwrap();
        let record = folder.path().join("vm.verified");
        let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for others in [0o620, 0o602] {
            mode(&record, others);
            let refused = verified(&image, b"state").unwrap_err().to_string();
            assert!(refused.contains("vm.verified: others than its owner may write to it"), "{refused}");
        }
        mode(&record, 0o644);
        mode(folder.path(), 0o1777);
        let refused = verified(&image, b"state").unwrap_err().to_string();
        assert!(
            refused.contains("vm.verified: its directory: others than its owner may write to it"),
            "{refused}"
        );
        mode(folder.path(), 0o700);
        assert_eq!(verified(&image, b"state").unwrap(), [0]);
        std::fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &record).unwrap();
        assert!(verified(&image, b"state").unwrap_err().to_string().ends_with("not a regular file"));
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_settled() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_settled(&file).unwrap());
        std::thread::sleep(2 * FINE);
        assert!(is_settled(&file).unwrap());
    }
}
