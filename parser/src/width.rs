//! The width of `usize`.

// A stream's lengths and offsets are u64. With 64 bits each of them is an index, and no conversion can fail.
const _: () = assert!(usize::BITS >= 64, "this crate needs a target with 64-bit addresses");

/// A length or an offset of a stream as an index.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits, see above")]
pub(crate) const fn to_usize(number: u64) -> usize {
    number as usize
}
