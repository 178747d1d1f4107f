//! Where the RAM blocks are in the virtual disk.

use crate::checksum::crc32c;
use crate::error::ImageError;
use crate::types::GuestOffset;
use migration_stream::PageSize;
use std::sync::Arc;

/// RAM blocks begin at multiples of this, in bytes.
pub(crate) const BLOCK_ALIGNMENT_BYTES: u64 = 1 << 20;
/// As long as a name in the stream can be, in bytes.
const NAME_LIMIT_BYTES: usize = 255;
/// The most RAM that fits below the VM-state area, whatever the cluster size: 1 PiB is more than any machine
/// has.
pub(crate) const RAM_LIMIT_BYTES: u64 = 1 << 50;

/// A RAM block of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBlock {
    /// Its name.
    pub name: Vec<u8>,
    /// Its length in bytes.
    pub used_length: u64,
    /// Its host page size in bytes, where the stream has it.
    pub host_page_size: Option<u64>,
}

/// A page that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentPage {
    /// Its number, counted from the start of the virtual disk.
    pub page: u64,
    /// Its checksum, where the image has any.
    pub checksum: Option<u32>,
}

/// The blocks in the order of the stream's list, each at the next 1 MiB boundary.
///
/// All clones share one list: it can have 131072 blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamLayout {
    blocks: Arc<[ImageBlock]>,
    starts: Arc<[u64]>,
    page_size: u32,
    total_bytes: u64,
}

impl RamLayout {
    /// The layout of `blocks`.
    ///
    /// # Errors
    ///
    /// `Limit` if they are more than an image can hold; `Value` for a page size that is none.
    pub fn new(blocks: Vec<ImageBlock>, page_size: u32) -> Result<Self, ImageError> {
        if PageSize::new(page_size.into()).is_none() {
            let found = u64::from(page_size);
            return Err(ImageError::Value { what: "page size", found, expected: PageSize::EXPECTED });
        }
        let mut starts = Vec::with_capacity(blocks.len());
        let mut end = 0u64;
        for block in &blocks {
            if !(1..=NAME_LIMIT_BYTES).contains(&block.name.len()) {
                let (found, expected) = (block.name.len() as u64, "1 to 255 bytes");
                return Err(ImageError::Value { what: "block name length", found, expected });
            }
            let start = end.next_multiple_of(BLOCK_ALIGNMENT_BYTES);
            starts.push(start);
            end = start.saturating_add(block.used_length);
            if end > RAM_LIMIT_BYTES {
                return Err(ImageError::Limit { what: "RAM", found: end, limit: RAM_LIMIT_BYTES });
            }
            if block.used_length % u64::from(page_size) != 0 || block.used_length == 0 {
                let expected = "a multiple of the page size";
                return Err(ImageError::Value { what: "block length", found: block.used_length, expected });
            }
        }
        Ok(Self { blocks: blocks.into(), starts: starts.into(), page_size, total_bytes: end })
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &[ImageBlock] {
        &self.blocks
    }

    /// Target page size in bytes.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Bytes of virtual disk that RAM takes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Where the byte `offset` of block number `block` lies.
    ///
    /// # Panics
    ///
    /// If there is no block of that number, as indexing does.
    #[must_use]
    pub fn guest(&self, block: usize, offset: u64) -> GuestOffset {
        GuestOffset(self.starts[block] + offset)
    }

    /// Number of the page at `guest`, counted from the start of the virtual disk.
    #[must_use]
    pub fn page(&self, guest: GuestOffset) -> u64 {
        guest.0 / u64::from(self.page_size)
    }

    /// Block and byte offset of page number `page`; `None` for one between two blocks.
    #[must_use]
    pub fn locate(&self, page: u64) -> Option<(usize, u64)> {
        let guest = page.checked_mul(self.page_size.into())?;
        let block = self.starts.partition_point(|&start| start <= guest).checked_sub(1)?;
        let offset = guest - self.starts[block];
        (offset < self.blocks[block].used_length).then_some((block, offset))
    }

    /// Compares the bytes of a page with its checksum; without one there is nothing to compare them with.
    ///
    /// # Errors
    ///
    /// `Page`, with its block and its place there: the bytes are not what was saved.
    pub fn verify_page(&self, page: &PresentPage, bytes: &[u8]) -> Result<(), ImageError> {
        let Some(expected) = page.checksum else { return Ok(()) };
        let found = crc32c(bytes);
        if found == expected {
            return Ok(());
        }
        let (block, offset) = self.locate(page.page).unwrap_or_default();
        let block = self.blocks.get(block).map_or(Vec::new(), |block| block.name.clone());
        Err(ImageError::Page { block, offset, found, expected })
    }
}
