//! Cluster size and refcount width of an image, and the sizes that follow from them.

use crate::error::ImageError;

/// With less RAM, what each block leaves empty of clusters of 1 MiB can be more than 1 % of it.
const SMALL_RAM_BYTES: u64 = 512 << 20;

/// Cluster size and refcount width. Every value of this type is one that a snapshot image can have.
///
/// ```
/// use snapshot_image::Geometry;
///
/// let geometry = Geometry::new(64 << 10, 16)?;
/// assert_eq!(geometry.l1_span_bytes(), 512 << 20);
/// assert!(Geometry::new(4096, 16).is_err(), "QCOW2 allows it, a snapshot image does not");
/// # Ok::<_, snapshot_image::ImageError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// log2 of the cluster size in bytes: 16 to 21.
    cluster_bits: u32,
    /// log2 of the refcount width in bits: 0 to 6.
    refcount_order: u32,
}

impl Default for Geometry {
    /// Clusters of 1 MiB, refcounts of 8 bits.
    fn default() -> Self {
        Self { cluster_bits: 20, refcount_order: 3 }
    }
}

impl Geometry {
    /// The geometry with clusters of `cluster_bytes` (64 KiB, 128 KiB, … 2 MiB) and refcounts of
    /// `refcount_bits` (1, 2, 4, … 64).
    ///
    /// # Errors
    ///
    /// `ClusterSize`, `RefcountWidth`.
    pub fn new(cluster_bytes: u64, refcount_bits: u32) -> Result<Self, ImageError> {
        let cluster_bits = cluster_bytes.trailing_zeros();
        if !cluster_bytes.is_power_of_two() || !(16..=21).contains(&cluster_bits) {
            return Err(ImageError::ClusterSize { found: cluster_bytes });
        }
        let refcount_order = refcount_bits.trailing_zeros();
        if !refcount_bits.is_power_of_two() || refcount_order > 6 {
            return Err(ImageError::RefcountWidth { found: refcount_bits });
        }
        Ok(Self { cluster_bits, refcount_order })
    }

    /// The geometry with clusters of `cluster_bytes`, and refcounts of 8 bits.
    ///
    /// # Errors
    ///
    /// `ClusterSize`.
    pub fn with_cluster_size(cluster_bytes: u64) -> Result<Self, ImageError> {
        Self::new(cluster_bytes, 8)
    }

    /// The geometry for a machine with `ram_bytes` of RAM: clusters of 1 MiB, or of 64 KiB for less
    /// than 512 MiB. Each RAM block begins in a cluster of its own, so small blocks (ROMs) leave
    /// most of a large cluster empty.
    #[must_use]
    pub fn fitting(ram_bytes: u64) -> Self {
        let cluster_bits = if ram_bytes < SMALL_RAM_BYTES { 16 } else { 20 };
        Self { cluster_bits, ..Self::default() }
    }

    /// log2 of the cluster size, as the QCOW2 header has it.
    pub(crate) fn cluster_bits(&self) -> u32 {
        self.cluster_bits
    }

    /// log2 of the refcount width, as the QCOW2 header has it.
    pub(crate) fn refcount_order(&self) -> u32 {
        self.refcount_order
    }

    /// Cluster size in bytes.
    #[must_use]
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Width of a refcount in bits.
    #[must_use]
    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// Entries of an L2 table.
    #[must_use]
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / 8
    }

    /// Bytes of the virtual disk that one L1 entry maps.
    #[must_use]
    pub fn l1_span_bytes(&self) -> u64 {
        self.cluster_bytes() * self.l2_entries()
    }

    /// Clusters that one refcount block counts.
    #[must_use]
    pub fn refcount_block_entries(&self) -> u64 {
        (self.cluster_bytes() * 8) >> self.refcount_order
    }

    /// Where the VM-state area of a disk of `size` bytes begins (QEMU's `qcow2_vm_state_offset`).
    #[must_use]
    pub fn vm_state_start(&self, size: u64) -> u64 {
        size.div_ceil(self.l1_span_bytes()) * self.l1_span_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_image_can_have_is_refused() {
        for found in [0, 1, 4096, 32 << 10, 100_000, 4 << 20, 1 << 63] {
            let error = Geometry::new(found, 16).unwrap_err();
            assert_eq!(error.to_string(), format!("cluster size {found} bytes, expected 64 KiB to 2 MiB"));
        }
        for found in [0, 3, 12, 128, 1 << 31] {
            let error = Geometry::new(64 << 10, found).unwrap_err();
            assert_eq!(error.to_string(), format!("refcounts of {found} bits, expected 1, 2, 4, … 64"));
        }
    }

    #[test]
    fn every_other_geometry_keeps_what_it_was_made_of() {
        for (cluster_bits, order) in (16..=21).flat_map(|bits| (0..=6).map(move |order| (bits, order))) {
            let geometry = Geometry::new(1 << cluster_bits, 1 << order).unwrap();
            assert_eq!((geometry.cluster_bits(), geometry.refcount_order()), (cluster_bits, order));
            assert_eq!((geometry.cluster_bytes(), geometry.refcount_bits()), (1 << cluster_bits, 1 << order));
        }
        assert_eq!(Geometry::with_cluster_size(1 << 20).unwrap(), Geometry::default());
    }

    #[test]
    fn vm_state_starts_behind_the_last_l1_entry_of_the_disk() {
        assert_eq!(Geometry::default().vm_state_start(8 << 30), 128 << 30);
        let small = Geometry::with_cluster_size(64 << 10).unwrap();
        assert_eq!(
            (Geometry::fitting((512 << 20) - 1), Geometry::fitting(512 << 20)),
            (small, Geometry::default())
        );
        assert_eq!(small.vm_state_start(64 << 20), 0x2000_0000);
        assert_eq!(small.vm_state_start((512 << 20) + 1), 0x4000_0000);
    }
}
