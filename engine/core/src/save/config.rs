//! What a save is to do, and what it has done.

use snapshot_image::{Geometry, Identity};

/// How an image is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewImage {
    /// Like this.
    Of(Geometry),
    /// As it is best for the RAM that comes ([`Geometry::fitting`]).
    Fitting,
}

impl From<Geometry> for NewImage {
    fn from(geometry: Geometry) -> Self {
        Self::Of(geometry)
    }
}

/// Configuration of a save.
#[derive(Debug, Clone)]
pub struct SaveConfig {
    /// Page size and limits.
    pub stream: migration_stream::Options,
    /// The stream may end after EOF (`suppress-vmdesc=on`).
    pub no_vmdesc: bool,
    /// Length in bytes of the image file, if there is one.
    pub existing_length_bytes: Option<u64>,
    /// How to create an image where there is none.
    pub create: Option<NewImage>,
    /// A snapshot in the image may be replaced.
    pub overwrite: bool,
    /// The input is a pipe or a socket with a source behind it, which must be drained after an error.
    pub live: bool,
    /// Something can be sent back to the source.
    pub can_answer: bool,
    /// UUID and time of the snapshot.
    pub identity: Identity,
    /// Memory for slabs, in bytes.
    pub memory_bytes: usize,
    /// The longest wait for the source, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveSummary {
    /// UUID of the snapshot.
    pub uuid: [u8; 16],
    /// Length of the stream in bytes.
    pub stream_bytes: u64,
    /// RAM, in bytes: all blocks together.
    pub ram_bytes: u64,
    /// Pages in the image; all others are zero.
    pub nonzero_pages: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// PAGE records, repeats counted.
    pub normal_pages: u64,
    /// The source could not have seen a failure: a socket without a return path.
    pub source_could_not_see: bool,
}
