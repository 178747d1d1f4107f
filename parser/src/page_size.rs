//! The size of a target page.

use core::fmt;

/// Size of a page of the guest ("target page"): a power of two from 1 KiB to 64 KiB (`TARGET_PAGE_BITS`, 10
/// to 16 among all targets of QEMU).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    bits: u8,
}

impl PageSize {
    /// 1 KiB.
    pub const SMALLEST: Self = Self { bits: 10 };
    /// 4 KiB: that of most targets, assumed where neither the stream nor the user states another one.
    pub const DEFAULT: Self = Self { bits: 12 };
    /// What a page size can be, for messages.
    pub const EXPECTED: &str = "a power of two, 1 KiB to 64 KiB";

    /// The page size of `bytes` bytes; `None` if no target has such pages.
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Self::from_bits(bytes.trailing_zeros()) } else { None }
    }

    /// The page size of two to the power of `bits` bytes; `None` if no target has such pages.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            10..=16 => Some(Self { bits: bits.to_le_bytes()[0] }),
            _ => None,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        1 << self.bits
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}

impl From<PageSize> for u32 {
    fn from(size: PageSize) -> Self {
        size.bytes()
    }
}

impl From<PageSize> for u64 {
    fn from(size: PageSize) -> Self {
        size.bytes().into()
    }
}

impl From<PageSize> for usize {
    fn from(size: PageSize) -> Self {
        size.bytes() as Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[test]
    fn powers_of_two_from_1_to_64_kib_are_page_sizes() {
        for bits in 0..64 {
            let expected = (10..=16).contains(&bits);
            let size = PageSize::new(1 << bits);
            assert_eq!((size.is_some(), PageSize::from_bits(bits)), (expected, size), "{bits} bits");
            if let Some(size) = size {
                assert_eq!((u64::from(size), usize::from(size)), (1 << bits, 1 << bits));
            }
        }
        for bytes in [0, 1, 1023, 1025, 4095, 6 << 10, 65535, 1 << 20, u64::MAX] {
            assert_eq!(PageSize::new(bytes), None, "{bytes}");
        }
        assert_eq!((PageSize::DEFAULT.bytes(), PageSize::DEFAULT.to_string()), (4096, "4096".to_owned()));
    }
}
