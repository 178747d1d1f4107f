//! Tells the destination which host pages will come after all: those that were not sent, and no others.

use super::host_pages::{HostPage, HostPages};
use crate::bits::Bits;
use migration_stream::{Command, DiscardRange, put_command};
use snapshot_image::RamLayout;

/// Ranges in one command (`MAX_DISCARDS_PER_COMMAND`, migration/postcopy-ram.c).
const RANGES_PER_COMMAND: usize = 12;

/// How far the discards are.
#[derive(Debug)]
pub(crate) struct Discards {
    next: u64,
    /// From here on it has been told.
    end: u64,
}

impl Discards {
    pub(crate) fn new(pages: &HostPages) -> Self {
        Self { next: 0, end: pages.total() }
    }

    /// Writes the discard of the last host page, which is never sent before the guest runs. With
    /// its first discard the destination gives up transparent huge pages
    /// (`postcopy_ram_prepare_discard`, migration/postcopy-ram.c): without that, each of some
    /// scattered pages would have a whole one cleared, and the other discards would take it apart
    /// again.
    pub(crate) fn put_last(&mut self, pages: &HostPages, layout: &RamLayout, out: &mut Vec<u8>) {
        let Some(last) = pages.total().checked_sub(1) else { return };
        let (block, start) = pages.locate(HostPage(last));
        let ranges = vec![DiscardRange { start, length: pages.of_block(block).bytes }];
        let block = &layout.blocks()[block].name;
        put_command(out, &Command::PostcopyRamDiscard { block, ranges });
        self.end = last;
    }

    /// Writes the next command; false if there is none any more.
    pub(crate) fn put_next(
        &mut self,
        sent: &Bits,
        pages: &HostPages,
        layout: &RamLayout,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(first) = sent.next_missing(self.next).filter(|&page| page < self.end) else { return false };
        let (block, _) = pages.locate(HostPage(first));
        let block_pages = pages.of_block(block);
        let end = (block_pages.first + block_pages.count).min(self.end);
        let mut ranges = Vec::new();
        self.next = first;
        while ranges.len() < RANGES_PER_COMMAND
            && let Some(from) = sent.next_missing(self.next).filter(|&from| from < end)
        {
            self.next = sent.next_present(from).map_or(end, |to| to.min(end));
            let start = (from - block_pages.first) * block_pages.bytes;
            ranges.push(DiscardRange { start, length: (self.next - from) * block_pages.bytes });
        }
        let block = &layout.blocks()[block].name;
        put_command(out, &Command::PostcopyRamDiscard { block, ranges });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::{Decoder, Options, Record, Step, put_file_header};
    use proptest::prelude::*;
    use snapshot_image::ImageBlock;

    proptest! {
        /// What is discarded, and what was sent, are disjoint and together everything.
        #[test]
        fn exactly_what_was_not_sent(seed in prop::collection::vec(any::<bool>(), 70), last_first: bool) {
            let block = |name: &[u8], pages: u64, host_page_size| ImageBlock {
                name: name.to_vec(), used_length: pages * 4096, host_page_size,
            };
            let blocks = vec![block(b"a", 40, None), block(b"b", 1, None), block(b"c", 512 * 29, Some(2 << 20))];
            let layout = RamLayout::new(blocks, 4096).unwrap();
            let pages = HostPages::new(&layout, 4096, &[]).unwrap();
            let mut sent = Bits::new(pages.total()).unwrap();
            for (page, _) in (0..pages.total()).zip(&seed).filter(|(_, sent)| **sent) {
                sent.insert(page).unwrap();
            }
            let mut out = Vec::new();
            put_file_header(&mut out);
            let mut discards = Discards::new(&pages);
            if last_first {
                sent.remove(pages.total() - 1);
                discards.put_last(&pages, &layout, &mut out);
            }
            while discards.put_next(&sent, &pages, &layout, &mut out) {}
            let mut discarded = Bits::new(pages.total()).unwrap();
            let mut decoder = Decoder::new(Options::default());
            let mut rest = &out[..];
            while let Ok(Step::Record { len, record }) = decoder.step(rest) {
                rest = &rest[len..];
                let Record::Command(Command::PostcopyRamDiscard { block, ranges }) = record else { continue };
                prop_assert!(ranges.len() <= 12);
                let block = layout.blocks().iter().position(|known| known.name == block).unwrap();
                for range in ranges {
                    let bytes = pages.of_block(block).bytes;
                    prop_assert!(range.length > 0 && range.length % bytes == 0 && range.start % bytes == 0);
                    for page in 0..range.length / bytes {
                        let at = pages.at(block, range.start + page * bytes).0;
                        prop_assert!(discarded.insert(at).unwrap());
                    }
                }
            }
            for page in 0..pages.total() {
                prop_assert_ne!(sent.has(page), discarded.has(page));
            }
        }
    }
}
