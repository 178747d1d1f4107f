//! What a QCOW2 image can have that a snapshot cannot live with.

use std::fmt;

/// A feature of QCOW2 with which a snapshot cannot be stored, or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// Clusters that are not there are another file's.
    BackingFile,
    /// The guest's data is in another file.
    DataFile,
    /// With a key that is not known here.
    Encryption,
    /// `savevm`, or `qemu-img snapshot`.
    InternalSnapshots,
    /// Dirty bitmaps.
    Bitmaps,
    /// Subclusters.
    ExtendedL2,
    /// A cluster is stored as a zlib or zstd stream.
    CompressedClusters,
    /// A cluster has a refcount of more than 1, as an internal snapshot's have.
    SharedClusters,
    /// A program has found the image to be corrupt, and marked it.
    Corrupt,
    /// Refcounts may be wrong: a program with lazy refcounts did not close the image.
    Dirty,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BackingFile => "a backing file",
            Self::DataFile => "an external data file",
            Self::Encryption => "encryption",
            Self::InternalSnapshots => "internal snapshots",
            Self::Bitmaps => "persistent bitmaps",
            Self::ExtendedL2 => "extended L2 entries",
            Self::CompressedClusters => "compressed clusters",
            Self::SharedClusters => "shared clusters (an internal snapshot's)",
            Self::Corrupt => "the mark of corruption",
            Self::Dirty => "inexact refcounts after a crash",
        })
    }
}
