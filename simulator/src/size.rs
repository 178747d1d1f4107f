//! Lengths and offsets of the format have 64 bits, those of memory are `usize`.

use std::time::Duration;

const _: () = assert!(usize::BITS == 64, "lengths and offsets in memory have 64 bits");

/// The same number as a length or an index in memory.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, which is asserted above")]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}

/// The same number in a field of 32 bits of a message, which holds no more.
pub(crate) fn at_most_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A time in nanoseconds; 584 years at most.
pub(crate) const fn nanoseconds(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos() as u64)
}
