//! Lengths and offsets of the format have 64 bits, those of memory are `usize`.

const _: () = assert!(usize::BITS == 64, "lengths and offsets in memory have 64 bits");

/// The same number as a length or an index in memory.
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, which is asserted above")]
pub(crate) const fn to_usize(value: u64) -> usize {
    value as usize
}
