//! Offsets that cannot be mistaken for each other, and the shape of an image.

use crate::error::ImageError;

/// An offset into the image file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostOffset(pub u64);

/// An offset into the virtual disk (and the VM-state area behind it), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestOffset(pub u64);

/// Metadata is asked for in multiples of this: what `O_DIRECT` needs.
pub const ALIGNMENT_BYTES: u64 = 4096;

/// Below this what blocks leave empty of clusters of 1 MiB can be more than 1 % of RAM.
const SMALL_RAM_BYTES: u64 = 512 << 20;

/// Cluster size and refcount width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// log2 of the cluster size in bytes: 16 to 21.
    pub cluster_bits: u32,
    /// log2 of the refcount width in bits: 0 to 6.
    pub refcount_order: u32,
}

impl Default for Geometry {
    fn default() -> Self {
        Self { cluster_bits: 20, refcount_order: 3 }
    }
}

impl Geometry {
    /// The geometry with clusters of this size.
    ///
    /// # Errors
    ///
    /// `ClusterSize` if it is none of 64 KiB, 128 KiB, … 2 MiB.
    pub fn with_cluster_size(cluster_bytes: u64) -> Result<Self, ImageError> {
        let cluster_bits = cluster_bytes.trailing_zeros();
        if !cluster_bytes.is_power_of_two() || !(16..=21).contains(&cluster_bits) {
            return Err(ImageError::ClusterSize { found: cluster_bytes });
        }
        Ok(Self { cluster_bits, ..Self::default() })
    }

    /// The geometry for a machine with so many bytes of RAM: clusters of 1 MiB, or of 64 KiB for less than 512 MiB. Each RAM block
    /// begins in a cluster of its own, so that small ones (ROMs) leave most of large clusters empty.
    #[must_use]
    pub fn fitting(ram_bytes: u64) -> Self {
        let cluster_bits = if ram_bytes < SMALL_RAM_BYTES { 16 } else { 20 };
        Self { cluster_bits, ..Self::default() }
    }

    /// Cluster size in bytes.
    #[must_use]
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    #[must_use]
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / 8
    }

    /// Bytes of the virtual disk that one L1 entry stands for.
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

/// What makes a snapshot this one and no other. Randomness and time come from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// When it was made: seconds since 1970.
    pub created_unix_s: u64,
}

/// The checksum of a page, and of everything else in an image: CRC-32C (RFC 3720).
#[must_use]
pub fn page_checksum(bytes: &[u8]) -> u32 {
    // The value of a 32-bit algorithm fits.
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_checksum_is_crc32c() {
        assert_eq!(page_checksum(b"123456789"), 0xe306_9283);
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
