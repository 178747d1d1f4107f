//! The hot set: what a guest touched first after a revert, to be sent before it runs the next time.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic `STVMHOT1` |
//! | 16 | UUID of the snapshot |
//! | 20 each | block in the block list (be32), byte offset (be64), length in bytes (be64), in the order of the requests |
//! | 4 | CRC-32C of everything before (be32) |

use snapshot_image::crc32c;

const MAGIC: &[u8; 8] = b"STVMHOT1";
const RUN_BYTES: usize = 20;
/// The longest file, in bytes.
pub const HOT_SET_LIMIT_BYTES: usize = 64 << 20;

/// A range of a block that was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) block: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The profile of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotSet {
    uuid: [u8; 16],
    pub(crate) runs: Vec<Run>,
}

impl HotSet {
    pub(crate) fn new(uuid: [u8; 16]) -> Self {
        Self { uuid, runs: Vec::new() }
    }

    /// The snapshot's UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Its ranges in the order in which they were requested: number of the block in the block list,
    /// offset and length in bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        self.runs.iter().map(|run| (run.block, run.offset, run.length))
    }

    /// Records a range; a full profile stays as it is.
    pub(crate) fn add(&mut self, block: u32, offset: u64, length: u64) {
        if let Some(last) = self.runs.last_mut()
            && last.block == block
            && last.offset + last.length == offset
        {
            last.length += length;
        } else if self.runs.len() < (HOT_SET_LIMIT_BYTES - 28) / RUN_BYTES {
            self.runs.push(Run { block, offset, length });
        }
    }

    /// As a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28 + self.runs.len() * RUN_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.uuid);
        for run in &self.runs {
            out.extend_from_slice(&run.block.to_be_bytes());
            out.extend_from_slice(&run.offset.to_be_bytes());
            out.extend_from_slice(&run.length.to_be_bytes());
        }
        out.extend_from_slice(&crc32c(&out).to_be_bytes());
        out
    }

    /// From a file.
    ///
    /// # Errors
    ///
    /// It is none, or damaged. A revert goes on without it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
        let body = body.strip_prefix(MAGIC).ok_or("it is not a hot set")?;
        if crc32c(&bytes[..bytes.len() - 4]) != u32::from_be_bytes(*sum) {
            return Err("its checksum is wrong");
        }
        let (uuid, runs) = body.split_first_chunk::<16>().ok_or("it is too short")?;
        let chunks = runs.chunks_exact(RUN_BYTES);
        if !chunks.remainder().is_empty() {
            return Err("its length is wrong");
        }
        let be = |bytes: &[u8]| bytes.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let runs = chunks.map(|run| Run {
            block: run[..4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte)),
            offset: be(&run[4..12]),
            length: be(&run[12..]),
        });
        Ok(Self { uuid: *uuid, runs: runs.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_and_no_damage() {
        let mut hot = HotSet::new([7; 16]);
        hot.add(0, 0, 4096);
        hot.add(0, 4096, 4096);
        hot.add(1, 4096, 4096);
        let ranges: Vec<_> = hot.ranges().collect();
        assert_eq!(ranges, [(0, 0, 8192), (1, 4096, 4096)]);
        assert_eq!(hot.uuid(), [7; 16]);
        let bytes = hot.to_bytes();
        assert_eq!(HotSet::parse(&bytes).unwrap(), hot);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(HotSet::parse(&damaged).is_err(), "byte {at}");
            assert!(HotSet::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_goes_on_where_the_last_range_ended_makes_it_longer() {
        let mut hot = HotSet::new([0; 16]);
        for (block, offset) in [(0, 0), (0, 1), (0, 2), (0, 4), (1, 5), (0, 3), (0, 2)] {
            hot.add(block, offset * 4096, 4096);
        }
        let pages: Vec<_> =
            hot.ranges().map(|(block, offset, length)| (block, offset / 4096, length / 4096)).collect();
        assert_eq!(pages, [(0, 0, 3), (0, 4, 1), (1, 5, 1), (0, 3, 1), (0, 2, 1)]);
    }

    #[test]
    fn a_full_one_takes_no_more_ranges_and_is_a_file_that_may_be() {
        let mut hot = HotSet::new([0; 16]);
        (0..HOT_SET_LIMIT_BYTES as u64 / 20).for_each(|number| hot.add(0, number * 8192, 4096));
        let bytes = 8 + 16 + hot.runs.len() * RUN_BYTES + 4;
        assert!(bytes <= HOT_SET_LIMIT_BYTES && bytes + RUN_BYTES > HOT_SET_LIMIT_BYTES, "{bytes} bytes");
        let last = hot.runs[hot.runs.len() - 1];
        hot.add(0, last.offset + 4096, 4096);
        assert_eq!(hot.runs[hot.runs.len() - 1], Run { length: 8192, ..last });
    }
}
