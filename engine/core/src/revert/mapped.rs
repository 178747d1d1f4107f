//! What a revert leaves out, because the destination has mapped it from the image.
//!
//! QEMU keeps what its RAM holds where a precopy stream has no page (`ram_load_precopy`,
//! migration/ram.c). So a block that the destination has mapped privately from a linear image needs
//! no pages: the ones in the file are the snapshot's. Who starts such a revert has proved the
//! mapping; what the proof does not cover, pages of which the destination has a copy of its own, is
//! sent like any other.

use crate::failure::{Failure, MappedError};
use snapshot_image::{ALIGNMENT_BYTES, RamLayout, SnapshotReader, Verification};
use std::collections::BTreeMap;
use std::ops::Range;

/// A RAM block that the destination has mapped from the image, as was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedBlock {
    /// Its name.
    pub name: Vec<u8>,
    /// What is sent nevertheless: ranges of bytes in the block of which the destination has, or may
    /// have, a copy of its own. In any order; they may overlap, and reach behind the block.
    pub copied: Vec<Range<u64>>,
}

/// The ranges of each block that are sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Of each mapped block what is sent: ascending, not touching each other, in whole pages.
    mapped: BTreeMap<usize, Vec<Range<u64>>>,
}

impl Sent {
    /// What is left when `mapped` is left out.
    pub(crate) fn new(mapped: &[MappedBlock], reader: &SnapshotReader) -> Result<Self, Failure> {
        if let (false, Verification::Unverified(reason)) =
            (mapped.is_empty(), &reader.snapshot().verification)
        {
            return Err(MappedError::Unverified { reason }.into());
        }
        let sent = Self::of(mapped, reader.layout())?;
        let elsewhere = sent.mapped.keys().find(|&&block| reader.linear_base(block).is_none());
        match elsewhere {
            Some(&block) => {
                let block = reader.layout().blocks()[block].name.clone();
                Err(MappedError::Dense { block }.into())
            }
            None => Ok(sent),
        }
    }

    fn of(mapped: &[MappedBlock], layout: &RamLayout) -> Result<Self, MappedError> {
        // What is read begins at multiples of this, too.
        let unit = u64::from(layout.page_size()).max(ALIGNMENT_BYTES);
        let mut sent: BTreeMap<usize, Vec<Range<u64>>> = BTreeMap::new();
        for MappedBlock { name, copied } in mapped {
            let number = layout.blocks().iter().position(|block| block.name == *name);
            let Some(number) = number else {
                return Err(MappedError::UnknownBlock { block: name.clone() });
            };
            let length = layout.blocks()[number].used_length;
            let ranges = sent.entry(number).or_default();
            ranges.extend(copied.iter().filter_map(|range| whole_pages(range, unit, length)));
        }
        sent.values_mut().for_each(join);
        Ok(Self { mapped: sent })
    }

    /// What is sent next of a block, which has `length` bytes, from `offset` on. Empty at the end.
    pub(crate) fn from(&self, block: usize, offset: u64, length: u64) -> Range<u64> {
        let Some(ranges) = self.mapped.get(&block) else { return offset..length };
        let next = ranges.partition_point(|range| range.end <= offset);
        ranges.get(next).map_or(length..length, |range| range.start.max(offset)..range.end)
    }

    /// The block is mapped: its zero pages that are sent overwrite something else.
    pub(crate) fn is_mapped(&self, block: usize) -> bool {
        self.mapped.contains_key(&block)
    }

    /// Bytes that are left out.
    pub(crate) fn left_out_bytes(&self, layout: &RamLayout) -> u64 {
        let of = |(&block, ranges): (&usize, &Vec<Range<u64>>)| {
            let sent: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            layout.blocks()[block].used_length - sent
        };
        self.mapped.iter().map(of).sum()
    }
}

/// The pages that a range of bytes touches, as far as the block has them.
fn whole_pages(range: &Range<u64>, unit: u64, length: u64) -> Option<Range<u64>> {
    let end = range.end.min(length);
    (range.start < end).then(|| range.start - range.start % unit..end.next_multiple_of(unit).min(length))
}

/// Sorts ranges, and makes one of those that touch.
fn join(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use snapshot_image::ImageBlock;

    const PAGE: u64 = 4096;

    fn layout(pages: &[u64]) -> RamLayout {
        let block = |(number, &pages): (usize, &u64)| ImageBlock {
            name: format!("ram{number}").into_bytes(),
            used_length: pages * PAGE,
            host_page_size: None,
        };
        RamLayout::new(pages.iter().enumerate().map(block).collect(), 4096).unwrap()
    }

    fn mapped(number: usize, copied: Vec<Range<u64>>) -> MappedBlock {
        MappedBlock { name: format!("ram{number}").into_bytes(), copied }
    }

    /// All that is sent of a block, as a walk over it finds it.
    fn walk(sent: &Sent, block: usize, length: u64) -> Vec<Range<u64>> {
        let (mut found, mut offset) = (Vec::new(), 0);
        while offset < length {
            let range = sent.from(block, offset, length);
            offset = range.end;
            found.extend((!range.is_empty()).then_some(range));
        }
        found
    }

    #[test]
    fn a_mapped_block_is_left_out_but_for_what_was_copied() {
        let layout = layout(&[4, 10, 3]);
        let copied = vec![7 * PAGE + 1..7 * PAGE + 2, 0..1, PAGE..PAGE + 1, 9 * PAGE..u64::MAX, 50..50];
        let sent = Sent::of(&[mapped(1, copied)], &layout).unwrap();
        assert_eq!(walk(&sent, 0, 4 * PAGE), vec![0..4 * PAGE]);
        let expected = vec![0..2 * PAGE, 7 * PAGE..8 * PAGE, 9 * PAGE..10 * PAGE];
        assert_eq!(walk(&sent, 1, 10 * PAGE), expected);
        assert_eq!(sent.left_out_bytes(&layout), 6 * PAGE);
        assert_eq!((sent.is_mapped(0), sent.is_mapped(1)), (false, true));
    }

    #[test]
    fn a_block_that_the_snapshot_does_not_have_is_an_error() {
        let error = Sent::of(&[mapped(5, Vec::new())], &layout(&[4])).unwrap_err();
        assert_eq!(error.to_string(), "block \"ram5\" is mapped, but the snapshot has no block of this name");
    }

    proptest! {
        /// A page is left out only if no byte of it was copied.
        #[test]
        fn every_copied_page_is_sent_once_and_no_other(
            copied in prop::collection::vec((0u64..20 * PAGE, 0u64..4 * PAGE), 0..8),
        ) {
            let layout = layout(&[1, 16]);
            let copied: Vec<_> = copied.into_iter().map(|(start, length)| start..start + length).collect();
            // Named twice: what either says is sent.
            let (first, second) = copied.split_at(copied.len() / 2);
            let blocks = [mapped(1, first.to_vec()), mapped(1, second.to_vec())];
            let sent = Sent::of(&blocks, &layout).unwrap();
            let walked = walk(&sent, 1, 16 * PAGE);
            for page in 0..16 {
                let bytes = page * PAGE..(page + 1) * PAGE;
                let overlap = |range: &&Range<u64>| range.start.max(bytes.start) < range.end.min(bytes.end);
                let touched = copied.iter().any(|range| overlap(&range));
                let times = walked.iter().filter(|range| range.contains(&bytes.start)).count();
                prop_assert_eq!(times, usize::from(touched), "page {} of {:?}", page, copied);
            }
        }
    }
}
