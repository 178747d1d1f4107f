//! RAM in the units in which a destination asks for it, throws it away and places it: host pages.

use crate::failure::HostPagesError;
use snapshot_image::RamLayout;

/// No system with 4 KiB of page size or more has smaller ones; reads are aligned to this.
const SMALLEST_BYTES: u64 = 4096;
/// A host page is held in memory; pages of 1 GiB would be no postcopy.
const LARGEST_BYTES: u64 = 64 << 20;

/// A host page, counted over all blocks in the order of the block list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostPage(pub(crate) u64);

/// Where a block's host pages are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockPages {
    /// Number of the first one.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
    /// Size of each in bytes.
    pub(crate) bytes: u64,
}

/// All host pages.
#[derive(Debug)]
pub(crate) struct HostPages {
    blocks: Vec<BlockPages>,
    total: u64,
}

impl HostPages {
    /// Cuts the blocks into host pages: of the size that `overrides` gives, else that of the
    /// source, where it was not the usual one, else of `usual_bytes`.
    pub(crate) fn new(
        layout: &RamLayout,
        usual_bytes: u64,
        overrides: &[(Vec<u8>, u64)],
    ) -> Result<Self, HostPagesError> {
        for (name, _) in overrides {
            if !layout.blocks().iter().any(|block| block.name == *name) {
                return Err(HostPagesError::UnknownBlock { block: name.clone() });
            }
        }
        let mut blocks = Vec::with_capacity(layout.blocks().len());
        let mut total = 0;
        for block in layout.blocks() {
            let given = overrides.iter().rev().find(|(name, _)| *name == block.name).map(|(_, bytes)| *bytes);
            let bytes =
                given.or(block.host_page_size).unwrap_or(usual_bytes).max(u64::from(layout.page_size()));
            if !bytes.is_power_of_two() || !(SMALLEST_BYTES..=LARGEST_BYTES).contains(&bytes) {
                return Err(HostPagesError::Size { block: block.name.clone(), bytes });
            }
            if block.used_length % bytes != 0 {
                let length = block.used_length;
                return Err(HostPagesError::Length { block: block.name.clone(), length, bytes });
            }
            let count = block.used_length / bytes;
            blocks.push(BlockPages { first: total, count, bytes });
            total += count;
        }
        Ok(Self { blocks, total })
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bitwise or of all their sizes: what ADVISE tells.
    pub(crate) fn summary(&self) -> u64 {
        self.blocks.iter().fold(0, |summary, block| summary | block.bytes)
    }

    /// Those of a block.
    pub(crate) fn of_block(&self, block: usize) -> BlockPages {
        self.blocks[block]
    }

    /// Size of one in bytes.
    pub(crate) fn bytes(&self, page: HostPage) -> u64 {
        self.blocks[self.locate(page).0].bytes
    }

    /// Block and byte offset.
    pub(crate) fn locate(&self, page: HostPage) -> (usize, u64) {
        let block = self.blocks.partition_point(|block| block.first <= page.0).saturating_sub(1);
        (block, (page.0 - self.blocks[block].first) * self.blocks[block].bytes)
    }

    /// The one that holds this byte.
    pub(crate) fn at(&self, block: usize, offset: u64) -> HostPage {
        HostPage(self.blocks[block].first + offset / self.blocks[block].bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_image::ImageBlock;

    fn layout(blocks: &[(&[u8], u64, Option<u64>)]) -> RamLayout {
        let blocks = blocks.iter().map(|(name, used_length, host_page_size)| ImageBlock {
            name: name.to_vec(),
            used_length: *used_length,
            host_page_size: *host_page_size,
        });
        RamLayout::new(blocks.collect(), 4096).unwrap()
    }

    #[test]
    fn sizes_come_from_the_user_the_source_and_the_system() {
        let layout = layout(&[(b"a", 8 << 20, Some(2 << 20)), (b"b", 16384, None), (b"c", 1 << 20, None)]);
        let pages = HostPages::new(&layout, 4096, &[(b"c".to_vec(), 65536)]).unwrap();
        assert_eq!(pages.total(), 4 + 4 + 16);
        assert_eq!(pages.summary(), (2 << 20) | 4096 | 65536);
        assert_eq!(pages.locate(HostPage(3)), (0, 6 << 20));
        assert_eq!(pages.locate(HostPage(4)), (1, 0));
        assert_eq!(pages.locate(HostPage(9)), (2, 65536));
        assert_eq!(pages.at(2, 65537), HostPage(9));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let layout = layout(&[(b"a", 12288, None)]);
        let check = |name: &[u8], bytes, expected: &str| {
            let error = HostPages::new(&layout, 4096, &[(name.to_vec(), bytes)]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let size = "host page size of block";
        check(b"x\x1b", 4096, &format!("{size} \"x\\x1b\": the snapshot has no block of this name"));
        let whole = "12288 bytes are not whole host pages of 8192 bytes";
        check(b"a", 8192, &format!("{size} \"a\": {whole}"));
        let expected = "expected a power of two, 4 KiB to 64 MiB";
        check(b"a", 12288, &format!("{size} \"a\": 12288 bytes, {expected}"));
        check(b"a", 1 << 30, &format!("{size} \"a\": 1073741824 bytes, {expected}"));
    }
}
