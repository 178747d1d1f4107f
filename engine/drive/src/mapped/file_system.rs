//! Where a mapping can be recognised: file systems that give each file an inode number of its own,
//! for as long as it exists.

use rustix::fs::StatFs;

/// Numbers of `linux/magic.h`, and of file systems outside of it.
const WITH_INODES: [(i64, &str); 10] = [
    (0xef53, "ext4"),
    (0x5846_5342, "XFS"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlayfs"),
    (0xf2f5_2010, "F2FS"),
    (0xca45_1a4e, "bcachefs"),
    (0x2fc1_2fc1, "ZFS"),
    (0xe0f5_e1e2, "EROFS"),
    (0x7371_7368, "SquashFS"),
];
const TMPFS: i64 = 0x0102_1994;

/// The number of a file system's kind.
pub(super) fn kind(status: &StatFs) -> i64 {
    status.f_type
}

/// A file can be changed there without a new time of change: a page that was once written through a
/// shared mapping.
pub(super) fn is_tmpfs(kind: i64) -> bool {
    kind == TMPFS
}

/// Inode numbers count there.
pub(super) fn has_inodes(kind: i64) -> bool {
    WITH_INODES.iter().any(|(known, _)| *known == kind)
}

/// Names of the file systems where they do.
pub(super) fn names() -> String {
    WITH_INODES.map(|(_, name)| name).join(", ")
}
