//! The linear layout: where the RAM blocks lie in the image file itself.
//!
//! Byte `x` of a block lies at `base + x` of the file, zero or not, so a guest's memory can be mapped from
//! it. The first block's base is in the header extension; each further one is at the next multiple of 2 MiB
//! behind the block before it. So a reader knows the place of a block of which no cluster is allocated.

use crate::error::ImageError;
use crate::geometry::Geometry;
use crate::layout::{BLOCK_ALIGNMENT_BYTES, RamLayout};
use crate::types::GuestOffset;

/// Bases are multiples of this, in bytes: a huge page of most machines.
pub(crate) const BASE_ALIGNMENT_BYTES: u64 = 2 << 20;

/// In which order RAM lies in the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Clusters lie in the order in which they were written, without gaps.
    #[default]
    Dense,
    /// Each RAM block lies in one piece, with a hole for what is zero: [`SnapshotReader::linear_base`].
    ///
    /// [`SnapshotReader::linear_base`]: crate::SnapshotReader::linear_base
    Linear,
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dense => "dense",
            Self::Linear => "linear",
        })
    }
}

impl Layout {
    /// What the header extension says: where RAM begins in the file, or 0.
    pub(crate) fn of(ram_at: u64) -> Self {
        if ram_at == 0 { Self::Dense } else { Self::Linear }
    }
}

/// A RAM block: where it begins in the virtual disk and in the file, and how much room it has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    guest: u64,
    base: u64,
    length: u64,
}

/// The places of all blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linear {
    places: Vec<Place>,
    /// Behind the last block.
    end: u64,
}

impl Linear {
    /// The places of these blocks if the first one is at `ram_at`.
    pub(crate) fn new(layout: &RamLayout, geometry: Geometry, ram_at: u64) -> Result<Self, ImageError> {
        let cluster_bytes = geometry.cluster_bytes();
        // Two blocks would share a cluster, which can be at one place only.
        if cluster_bytes > BLOCK_ALIGNMENT_BYTES {
            return Err(ImageError::LinearClusters { found: cluster_bytes });
        }
        let wrong = ImageError::Value {
            what: "place of linear RAM",
            found: ram_at,
            expected: "a multiple of 0x200000 below 2^62",
        };
        if !ram_at.is_multiple_of(BASE_ALIGNMENT_BYTES) || !(1..1 << 62).contains(&ram_at) {
            return Err(wrong);
        }
        let mut end = ram_at;
        let mut places = Vec::with_capacity(layout.blocks().len());
        for (number, block) in layout.blocks().iter().enumerate() {
            // No layout has more than 1 PiB.
            let length = block.used_length.next_multiple_of(BASE_ALIGNMENT_BYTES);
            places.push(Place { guest: layout.guest(number, 0).0, base: end, length });
            end += length;
        }
        Ok(Self { places, end })
    }

    /// Where block number `block` begins in the file.
    pub(crate) fn base(&self, block: usize) -> Option<u64> {
        self.places.get(block).map(|place| place.base)
    }

    /// Behind the last block in the file, a multiple of 2 MiB.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where the byte at `guest` of the virtual disk lies; `None` for one that has no place, behind RAM.
    pub(crate) fn host(&self, guest: u64) -> Option<u64> {
        let number = self.places.partition_point(|place| place.guest <= guest).checked_sub(1)?;
        let place = self.places[number];
        let offset = guest - place.guest;
        (offset < place.length).then_some(place.base + offset)
    }

    /// The cluster at `guest` is said to lie at `found`.
    pub(crate) fn check(&self, guest: u64, found: u64) -> Result<(), ImageError> {
        let expected = self.host(guest);
        if expected == Some(found) {
            return Ok(());
        }
        Err(ImageError::NotLinear { at: GuestOffset(guest), found, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ImageBlock;

    fn layout(lengths: &[u64]) -> RamLayout {
        let block =
            |&used_length: &u64| ImageBlock { name: b"b".to_vec(), used_length, host_page_size: None };
        RamLayout::new(lengths.iter().map(block).collect(), 4096).unwrap()
    }

    #[test]
    fn blocks_begin_at_the_next_two_mib() {
        let layout = layout(&[4096, 5 << 20, 2 << 20, 12288]);
        let linear = Linear::new(&layout, Geometry::default(), 4 << 20).unwrap();
        let bases: Vec<_> = (0..5).map(|block| linear.base(block).map(|at| at >> 20)).collect();
        assert_eq!(bases, [Some(4), Some(6), Some(12), Some(14), None]);
        assert_eq!(linear.end(), 16 << 20);
        for (block, of) in layout.blocks().iter().enumerate() {
            for offset in [0, of.used_length - 1] {
                let host = linear.host(layout.guest(block, offset).0);
                assert_eq!(host, linear.base(block).map(|base| base + offset));
            }
        }
        // What lies between two blocks has a place of its own, what lies behind all of them has none.
        assert_eq!(linear.host(1 << 16), Some((4 << 20) + (1 << 16)));
        let last = layout.guest(3, 0).0;
        assert_eq!(linear.host(last + (2 << 20) - 1), Some((16 << 20) - 1));
        assert_eq!(linear.host(last + (2 << 20)), None);
    }

    #[test]
    fn no_place_is_that_of_two_bytes() {
        let layout = layout(&[4096, 1 << 20, (1 << 20) + 4096, 3 << 20]);
        let linear = Linear::new(&layout, Geometry::default(), 2 << 20).unwrap();
        let mut hosts: Vec<_> = (0..9 << 20).step_by(1 << 16).filter_map(|at| linear.host(at)).collect();
        let count = hosts.len();
        hosts.dedup();
        assert!(hosts.is_sorted() && hosts.len() == count && count > 100, "{count}");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let layout = layout(&[4096]);
        let error = |cluster, at| {
            let geometry = Geometry::with_cluster_size(cluster).unwrap();
            Linear::new(&layout, geometry, at).unwrap_err().to_string()
        };
        assert_eq!(
            error(2 << 20, 2 << 20),
            "a linear image has clusters of 64 KiB to 1 MiB, found 2097152 bytes"
        );
        for at in [0, 1 << 20, (2 << 20) + 1, 1 << 62, u64::MAX << 21] {
            let expected =
                format!("snapshot place of linear RAM {at:#x}, expected a multiple of 0x200000 below 2^62");
            assert_eq!(error(1 << 20, at), expected);
        }
    }
}
