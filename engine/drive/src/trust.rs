//! Whether a file or folder is its owner's alone.

use rustix::fs::Stat;

/// Group and others may not write. An access control list that lets anyone else write has its mask in the
/// group's bits (acl(5)).
const OTHERS_WRITE: u32 = 0o022;

/// The owner is one of these or root, and no one else may write.
///
/// # Errors
///
/// Who else may, in words.
pub(crate) fn check_alone(stat: &Stat, owners: &[u32]) -> Result<(), String> {
    if stat.st_uid != 0 && !owners.contains(&stat.st_uid) {
        return Err(format!("it belongs to user {}, who could change it", stat.st_uid));
    }
    if stat.st_mode & OTHERS_WRITE != 0 {
        let mode = stat.st_mode & 0o7777;
        return Err(format!("others than its owner may write to it (mode {mode:04o})"));
    }
    Ok(())
}
