//! What a save is to do, and what it has done.

use snapshot_image::{Geometry, Identity, Layout};

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
///
/// ```
/// # use snapshot_engine::{NewImage, SaveConfig};
/// # use snapshot_image::Identity;
/// let identity = Identity { uuid: [7; 16], created_unix_s: 1_764_000_000 };
/// let config = SaveConfig::new(identity).with(|config| {
///     config.create = Some(NewImage::Fitting);
///     config.live = true;
/// });
/// # assert!(config.live && !config.overwrite);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SaveConfig {
    /// Page size and limits.
    pub stream: migration_stream::Options,
    /// The stream may end after EOF (`suppress-vmdesc=on`).
    pub no_vmdesc: bool,
    /// Length in bytes of the image file, if there is one.
    pub existing_length_bytes: Option<u64>,
    /// How to create an image where there is none.
    pub create: Option<NewImage>,
    /// The layout of a new file; `None`: that of the image that it replaces, or else dense.
    pub layout: Option<Layout>,
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

impl SaveConfig {
    /// A save of a stream that is no live source's; 64 MiB for slabs.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            stream: migration_stream::Options::default(),
            no_vmdesc: false,
            existing_length_bytes: None,
            create: None,
            layout: None,
            overwrite: false,
            live: false,
            can_answer: false,
            identity,
            memory_bytes: 64 << 20,
            timeout_ms: None,
        }
    }

    /// The same with what `change` does to it.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
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
    /// How RAM lies in the image.
    pub layout: Layout,
    /// The source could not have seen a failure: a socket without a return path.
    pub source_could_not_see: bool,
    /// Names of blocks of which no page came, eight at the most: they are zero in the image. QEMU
    /// leaves out what virtio-mem has not plugged (`ramblock_dirty_bitmap_clear_discarded_pages` in
    /// `migration/ram.c`) and what the guest says is free (`qemu_guest_free_page_hint`).
    pub untouched_blocks: Vec<Vec<u8>>,
}
