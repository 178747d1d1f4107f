//! What pages hold: zeros, the same as other pages, something that can be compressed.

use crate::pages::is_zero;
use serde::Serialize;
use std::collections::HashMap;

/// Different contents that are remembered. Beyond that every second one is forgotten, then every
/// second of those left.
const REMEMBERED: usize = 1 << 18;
/// One page of so many is compressed.
const SAMPLE: u64 = 61;

/// What the content of pages says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ContentStat {
    /// Pages that came with their content.
    pub pages: u64,
    /// Of these, pages that are zero all the same.
    pub zero: u64,
    /// Different contents, about so many; zero is not one of them.
    pub distinct: u64,
    /// Whether that is counted, not estimated.
    pub distinct_is_exact: bool,
    /// Pages that were compressed to see.
    pub sampled: u64,
    /// What their bytes shrink to, in percent (zstd, level 1, each by itself).
    pub compressed_percent: Option<f64>,
}

/// Looks at pages.
#[derive(Debug, Default)]
pub(super) struct Content {
    stat: ContentStat,
    contents: HashMap<u64, ()>,
    /// Contents are remembered whose checksum has so many zeros at its end.
    bits: u32,
    sampled_bytes: u64,
    packed_bytes: u64,
    scratch: Vec<u8>,
}

impl Content {
    pub(super) fn page(&mut self, page: &[u8]) {
        self.stat.pages += 1;
        if is_zero(page) {
            self.stat.zero += 1;
            return;
        }
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, page);
        if sum.trailing_zeros() >= self.bits {
            self.contents.insert(sum, ());
            while self.contents.len() > REMEMBERED {
                self.bits += 1;
                let bits = self.bits;
                self.contents.retain(|sum, ()| sum.trailing_zeros() >= bits);
            }
        }
        if self.stat.pages % SAMPLE == 1 {
            self.scratch.resize(zstd::zstd_safe::compress_bound(page.len()), 0);
            if let Ok(packed) = zstd::bulk::compress_to_buffer(page, &mut self.scratch, 1) {
                self.stat.sampled += 1;
                self.sampled_bytes += page.len() as u64;
                self.packed_bytes += packed.min(page.len()) as u64;
            }
        }
    }

    pub(super) fn finish(mut self) -> ContentStat {
        self.stat.distinct = (self.contents.len() as u64) << self.bits;
        self.stat.distinct_is_exact = self.bits == 0;
        if let Some(thousandths) = (self.packed_bytes * 1000).checked_div(self.sampled_bytes) {
            self.stat.compressed_percent =
                u32::try_from(thousandths).ok().map(|tenths| f64::from(tenths) / 10.0);
        }
        self.stat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_and_zero_pages_are_counted_and_estimates_are_close() {
        let mut content = Content::default();
        content.page(&[0; 4096]);
        content.page(&[7; 4096]);
        content.page(&[7; 4096]);
        let few = content.finish();
        assert_eq!((few.pages, few.zero, few.distinct, few.distinct_is_exact), (3, 1, 1, true));

        let mut content = Content::default();
        let mut page = [1; 1024];
        for number in 0..3 * REMEMBERED as u64 {
            page[..8].copy_from_slice(&number.to_le_bytes());
            content.page(&page);
        }
        let many = content.finish();
        let expected = 3 * REMEMBERED as u64;
        assert!(many.distinct.abs_diff(expected) < expected / 50, "{}", many.distinct);
        assert!(!many.distinct_is_exact);
        assert!(many.compressed_percent.is_some_and(|percent| percent < 10.0));
    }
}
