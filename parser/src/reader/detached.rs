//! A record apart from the buffer that it was read into.

use crate::record::Record;
use core::ops::Range;

/// The most byte strings in one record: node, bitmap and bits of a dirty-bitmap chunk.
const PARTS: usize = 3;

/// A record whose byte strings are known by their places in a buffer. Unlike a [`Record`] it does not borrow
/// the buffer, so a reader can look for a record in a loop that refills the buffer.
#[derive(Debug)]
pub(super) struct Detached {
    /// Offset of the record in the stream.
    pub(super) offset: u64,
    record: Record<'static>,
    places: [Range<usize>; PARTS],
}

impl Detached {
    /// Detaches `record`, which is at `offset` of the stream, and was read from `buffer`.
    pub(super) fn new(offset: u64, record: Record<'_>, buffer: &[u8]) -> Self {
        let mut places = [const { 0..0 }; PARTS];
        let mut next = places.iter_mut();
        let record = record.map_bytes(&mut |part: &[u8]| {
            if let Some(place) = next.next()
                && !part.is_empty()
            {
                let start = part.as_ptr().addr() - buffer.as_ptr().addr();
                *place = start..start + part.len();
            }
            &[][..]
        });
        Self { offset, record, places }
    }

    /// The record again; `buffer` has the same bytes at the same places.
    pub(super) fn attach(self, buffer: &[u8]) -> Record<'_> {
        let mut places = self.places.into_iter();
        self.record.map_bytes(&mut |_| &buffer[places.next().unwrap_or_default()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;
    use crate::section::{SectionHeader, SectionId};
    use crate::{
        BlockMigration, ChunkKind, Command, DirtyBitmapChunk, Htab, Page, PageContent, StorageAttributes,
    };

    #[test]
    fn a_detached_record_is_the_same_with_the_bytes_of_another_buffer() {
        let buffer: Vec<u8> = (0..64).collect();
        let bytes = &buffer[..];
        let header =
            SectionHeader { section_id: SectionId(1), idstr: &bytes[3..9], instance_id: 2, version_id: 3 };
        let page = |content| Record::Page(Page { block: 1, offset: 4096, named: true, content });
        let bits = ChunkKind::Bits { first_sector: 1, sectors: 2, bits: Some(&bytes[20..30]) };
        let chunk = DirtyBitmapChunk { node: Some(&bytes[1..4]), bitmap: Some(&bytes[9..9]), kind: bits };
        for record in [
            Record::FileHeader,
            Record::EarlyDevices(bytes),
            Record::SectionStart(header),
            page(PageContent::Zero),
            page(PageContent::Raw(&bytes[1..])),
            page(PageContent::Xbzrle(&bytes[..1])),
            page(PageContent::Zlib(&bytes[60..])),
            Record::DirtyBitmap(chunk),
            Record::BlockMigration(BlockMigration::Chunk {
                sector: 1,
                device: &bytes[..5],
                data: Some(bytes),
            }),
            Record::Htab(Htab::Entries { index: 1, valid: 2, invalid: 3, data: &bytes[32..] }),
            Record::StorageAttributes(StorageAttributes::Values { frame: 7, values: &bytes[7..8] }),
            Record::Command(Command::PostcopyRamDiscard { block: &bytes[2..4], ranges: Vec::new() }),
            Record::Command(Command::Packaged(&bytes[10..20])),
            Record::Command(Command::RecvBitmap(&bytes[10..11])),
            Record::Full(header, &bytes[40..]),
            Record::VmDescription(&bytes[5..6]),
        ] {
            let moved = buffer.clone();
            let detached = Detached::new(5, record.clone(), bytes);
            assert_eq!(detached.offset, 5);
            assert_eq!(detached.attach(&moved), record);
        }
    }
}
