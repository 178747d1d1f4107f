//! The bitmap of a block's pages that have arrived, which follows a RECV_BITMAP message on the return path
//! without a frame (`ramblock_recv_bitmap_send`, migration/ram.c): length (be64), bits (little-endian, one
//! per target page, up to a multiple of 64), end mark (be64).

use crate::prelude::*;
use crate::width::to_usize;

/// `RAMBLOCK_RECV_BITMAP_ENDING` (migration/ram.c).
const END_MARK: u64 = 0x0123_4567_89ab_cdef;

/// The bits of one block, and nothing else yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedBitmap {
    pages: u64,
    bytes: Vec<u8>,
    expected_bytes: usize,
}

/// The bitmap is not one of this block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceivedBitmapError {
    /// Its length is wrong.
    #[error("bitmap of {found} bytes, expected {expected}")]
    Length {
        /// What it says.
        found: u64,
        /// What the block needs.
        expected: u64,
    },
    /// Its end mark is wrong.
    #[error("bitmap ends in {found:#x}, expected {END_MARK:#x}")]
    EndMark {
        /// What is there.
        found: u64,
    },
}

impl ReceivedBitmap {
    /// The bitmap of a block of `pages` target pages, to be read.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        let bits = to_usize(pages.div_ceil(64) * 8);
        Self { pages, bytes: Vec::new(), expected_bytes: 8 + bits + 8 }
    }

    /// Takes what belongs to it from the start of `input`, and returns how much that is. Complete when
    /// [`is_complete`](Self::is_complete).
    ///
    /// # Errors
    ///
    /// The length or end mark is wrong.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, ReceivedBitmapError> {
        let taken = input.len().min(self.expected_bytes - self.bytes.len());
        self.bytes.extend_from_slice(&input[..taken]);
        if let Some(length) = self.bytes.first_chunk() {
            let (found, expected) = (u64::from_be_bytes(*length), self.expected_bytes as u64 - 16);
            if found != expected {
                return Err(ReceivedBitmapError::Length { found, expected });
            }
        }
        if self.is_complete()
            && let Some(mark) = self.bytes.last_chunk()
            && u64::from_be_bytes(*mark) != END_MARK
        {
            return Err(ReceivedBitmapError::EndMark { found: u64::from_be_bytes(*mark) });
        }
        Ok(taken)
    }

    /// Everything is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.bytes.len() == self.expected_bytes
    }

    /// Whether page number `page` has arrived.
    #[must_use]
    pub fn has(&self, page: u64) -> bool {
        let byte = self.bytes.get(8 + to_usize(page / 8));
        page < self.pages && byte.is_some_and(|byte| byte >> (page % 8) & 1 == 1)
    }
}

/// Writes what [`ReceivedBitmap`] reads; `has` says for each of `pages` pages whether it has arrived.
pub fn put_received_bitmap(out: &mut Vec<u8>, pages: u64, has: impl Fn(u64) -> bool) {
    let bits = pages.div_ceil(64) * 8;
    out.extend_from_slice(&bits.to_be_bytes());
    for byte in 0..bits {
        out.push(
            (0..8).filter(|bit| byte * 8 + bit < pages && has(byte * 8 + bit)).fold(0, |b, bit| b | 1 << bit),
        );
    }
    out.extend_from_slice(&END_MARK.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_in_any_pieces() {
        for pages in [1u64, 63, 64, 65, 200] {
            let mut bytes = Vec::new();
            put_received_bitmap(&mut bytes, pages, |page| page % 3 == 0);
            for piece in [1, 7, 1000] {
                let mut bitmap = ReceivedBitmap::new(pages);
                let mut rest = &[&bytes[..], b"next"].concat()[..];
                while !bitmap.is_complete() {
                    let taken = bitmap.take(&rest[..piece.min(rest.len())]).unwrap();
                    rest = &rest[taken..];
                }
                assert_eq!(rest, b"next");
                assert!((0..pages + 64).all(|page| bitmap.has(page) == (page < pages && page % 3 == 0)));
            }
        }
    }

    #[test]
    fn bits_behind_the_block_are_zero() {
        let mut bytes = Vec::new();
        put_received_bitmap(&mut bytes, 74, |page| page != 2);
        let bits = [0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 3, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes, [&16u64.to_be_bytes()[..], &bits, &END_MARK.to_be_bytes()].concat());
    }

    #[test]
    fn a_wrong_length_or_end_mark_is_refused() {
        let mut bytes = Vec::new();
        put_received_bitmap(&mut bytes, 64, |_| true);
        let error = ReceivedBitmap::new(65).take(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "bitmap of 8 bytes, expected 16");
        bytes[23] ^= 1;
        let error = ReceivedBitmap::new(64).take(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "bitmap ends in 0x123456789abcdee, expected 0x123456789abcdef");
    }
}
