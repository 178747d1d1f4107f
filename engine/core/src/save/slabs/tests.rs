use super::*;
use snapshot_image::{Geometry, Identity, ImageBlock, RamLayout};

const PAGE_BYTES: usize = 4096;

/// Slabs of 1 MiB, with what is around them in a save.
struct Bed {
    slabs: Slabs,
    pool: Pool,
    writer: SnapshotWriter,
    index: PageIndex,
    ids: Ids,
}

impl Bed {
    fn new() -> Self {
        Self::of(Layout::Dense)
    }

    fn of(layout: Layout) -> Self {
        let geometry = Geometry::new(1 << 20, 16).unwrap();
        let identity = Identity { uuid: [0; 16], created_unix_s: 0 };
        let block = ImageBlock { name: b"pc.ram".to_vec(), used_length: 4 << 20, host_page_size: None };
        let ram = RamLayout::new(vec![block], 4096).unwrap();
        let (writer, _) = match layout {
            Layout::Dense => SnapshotWriter::create(geometry, 4 << 20, identity).unwrap(),
            Layout::Linear => SnapshotWriter::create_linear(geometry, &ram, identity).unwrap(),
        };
        Self {
            slabs: Slabs::new(4096, &writer, 64 << 20),
            pool: Pool::default(),
            writer,
            index: PageIndex::new(),
            ids: Ids::default(),
        }
    }

    /// Stores pages of the first slab, each full of `fill`, and sends them to disk: the pages of
    /// each piece, with the first byte of each.
    fn write(&mut self, pages: &[usize], fill: u8) -> Vec<Vec<(usize, u8)>> {
        self.store(pages, fill);
        self.flush().expect("something to write")
    }

    /// Stores pages of the first slab.
    fn store(&mut self, pages: &[usize], fill: u8) {
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
    }

    /// Sends what is stored to disk; `None` if there is nothing to be written.
    fn flush(&mut self) -> Option<Vec<Vec<(usize, u8)>>> {
        self.slabs.flush();
        let action =
            self.slabs.poll(&mut self.pool, &mut self.writer, &self.index, &mut self.ids).unwrap()?;
        let Action::Write { id, buffer, pieces } = action else { panic!("{action:?}") };
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
        Some(told)
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

#[test]
fn nothing_is_written_for_zero_pages_of_a_linear_image() {
    let mut bed = Bed::of(Layout::Linear);
    bed.store(&[7], 1);
    bed.store(&[7], 0);
    assert_eq!(bed.flush(), None, "it was never on disk");
    assert!(bed.slabs.is_idle() && bed.pool.taken_bytes() == 0);
    bed.store(&[4], 1);
    bed.store(&[4], 0);
    assert_eq!(bed.write(&[0, 2, 3, 5], 1), [vec![(0, 1)], vec![(2, 1), (3, 1)], vec![(5, 1)]]);
    assert_eq!(bed.write(&[3], 0), [[(3, 0)]], "what was there is written over");
    assert_eq!(bed.write(&[2, 4], 4), [[(2, 4)], [(4, 4)]]);
}

/// Boards of 32-bit ARM have pages of 1 KiB: four of them share a disk block.
#[test]
fn small_pages_of_one_block_are_written_together() {
    let set = |pages: &[usize]| {
        let mut set = PageSet::new(32);
        pages.iter().for_each(|&page| set.insert(page));
        set
    };
    for gaps in [Gaps::Fill(GAP_BYTES), Gaps::Fill(0), Gaps::Holes] {
        let mut bytes = vec![7; 32 << 10];
        let valid = set(&[0, 1, 2, 9, 17, 18]);
        let runs = runs(&valid, 1024, &mut bytes, gaps, |page| ![0, 2, 9, 18].contains(&page));
        let whole = std::iter::once(0..20 << 10);
        let expected: Vec<_> = match gaps {
            Gaps::Fill(GAP_BYTES) => whole.collect(),
            _ => vec![0..4 << 10, 8 << 10..12 << 10, 16 << 10..20 << 10],
        };
        assert_eq!(runs, expected, "{gaps:?}");
        for page in [0, 2, 9, 18] {
            assert!(
                bytes[page << 10..(page + 1) << 10].iter().all(|&byte| byte == 7),
                "{gaps:?}: page {page}"
            );
        }
    }
}
