use super::*;
use snapshot_image::{Geometry, Identity};

const PAGE_BYTES: usize = 4096;

/// Slabs of 256 pages, with what is around them in a save.
struct Bed {
    slabs: Slabs,
    pool: Pool,
    writer: SnapshotWriter,
    index: PageIndex,
    ids: Ids,
}

impl Bed {
    fn new() -> Self {
        let geometry = Geometry::new(1 << 20, 16).unwrap();
        let identity = Identity { uuid: [0; 16], created_unix_s: 0 };
        let (writer, _) = SnapshotWriter::create(geometry, 4 << 20, identity).unwrap();
        Self {
            slabs: Slabs::new(4096, writer.cluster_size(), 64 << 20),
            pool: Pool::default(),
            writer,
            index: PageIndex::new(),
            ids: Ids::default(),
        }
    }

    /// Stores pages of the first slab, each full of `fill`, and sends them to disk: the pages of
    /// each piece, with the first byte of each.
    fn write(&mut self, pages: &[usize], fill: u8) -> Vec<Vec<(usize, u8)>> {
        for &page in pages {
            let guest = GuestOffset((page * PAGE_BYTES) as u64);
            let Place::Ready(buffer, range) = self.slabs.place(&mut self.pool, guest, false).unwrap() else {
                panic!("no place for page {page}");
            };
            self.pool.bytes_mut(buffer)[range].fill(fill);
            match fill {
                0 => self.index.clear(page as u64),
                fill => self.index.set(page as u64, fill.into()),
            }
            self.slabs.stored(guest);
        }
        self.slabs.flush();
        let action = self.slabs.poll(&mut self.pool, &mut self.writer, &self.index, &mut self.ids).unwrap();
        let Some(Action::Write { id, buffer, pieces }) = action else { panic!("{action:?}") };
        let start = self.writer.host(GuestOffset(0)).unwrap().0;
        let told = pieces
            .iter()
            .map(|piece| {
                assert_eq!(piece.at.0 - start, piece.range.start as u64);
                let bytes = &self.pool.bytes(buffer)[piece.range.clone()];
                let first = piece.range.start / PAGE_BYTES;
                bytes.chunks(PAGE_BYTES).enumerate().map(|(at, page)| (first + at, page[0])).collect()
            })
            .collect();
        assert!(self.slabs.done(id, &mut self.pool) && self.slabs.is_idle());
        told
    }
}

#[test]
fn zero_pages_split_no_write() {
    let mut bed = Bed::new();
    assert_eq!(bed.write(&[0, 2], 1), [[(0, 1), (1, 0), (2, 1)]]);
    assert_eq!(bed.write(&[20, 22], 2), [[(20, 2), (21, 0), (22, 2)]], "the slab was on disk before");
    bed.write(&[21], 3);
    bed.write(&[21], 0);
    assert_eq!(bed.write(&[20, 22], 4), [[(20, 4), (21, 0), (22, 4)]], "it is zero again");
}

#[test]
fn what_was_written_before_stays() {
    let mut bed = Bed::new();
    bed.write(&[1], 1);
    assert_eq!(bed.write(&[0, 2], 2), [[(0, 2)], [(2, 2)]]);
}

#[test]
fn large_gaps_are_left_out() {
    let mut bed = Bed::new();
    assert_eq!(bed.write(&[0, 18], 1), [[(0, 1)], [(18, 1)]]);
    assert_eq!(bed.write(&[40, 57], 2)[0].len(), 18);
}
