//! Everything in a QCOW2 image that refers to a place in the file.

use super::header::{Header, Place};
use super::{Problem, read};
use crate::input::{L2_COMPRESSED, OFFSET_MASK, be};
use crate::source::RandomAccess;

/// An L1 or L2 entry says that it is the only one for its cluster.
const COPIED: u64 = 1 << 63;
const SECTOR_BYTES: u64 = 512;
/// QEMU's own limits.
const SNAPSHOT_LIMIT: u64 = 65536;
const BITMAP_LIMIT: u64 = 65535;
const L1_LIMIT_BYTES: u64 = 32 << 20;
/// Tables of more bytes than this are not read, all together: L2 tables of 32 TiB in clusters of 64 KiB.
const TABLES_LIMIT_BYTES: u64 = 4 << 30;
/// Entries of a table that are held at once, in bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// What refers to a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    pub(super) place: Place,
    /// What is there.
    pub(super) structure: &'static str,
    /// Where the entry is that refers to it; 0: in the header.
    pub(super) from: u64,
    /// It begins at the start of a cluster, as everything but compressed data has to.
    pub(super) aligned: bool,
    /// What its entry says of being the only one, where that counts; compressed data is never marked.
    pub(super) copied: Option<bool>,
}

/// Goes over all references of an image.
pub(super) struct References<'a> {
    file: &'a dyn RandomAccess,
    header: &'a Header,
    take: &'a mut dyn FnMut(Reference) -> Result<(), Problem>,
    read_bytes: u64,
}

/// Entries of a piece of a table that is at `at`, with their places. What comes behind the
/// first eight bytes of a longer entry refers to nothing.
fn entries(at: u64, piece: &[u8], entry_bytes: usize) -> impl Iterator<Item = (u64, u64)> {
    let places = (at..).step_by(entry_bytes);
    places.zip(piece.chunks_exact(entry_bytes).map(|entry| be(&entry[..8])))
}

impl<'a> References<'a> {
    /// Hands every reference to `take`.
    ///
    /// # Errors
    ///
    /// What of the image cannot be followed.
    pub(super) fn walk(
        file: &'a dyn RandomAccess,
        header: &'a Header,
        take: &'a mut dyn FnMut(Reference) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut references = Self { file, header, take, read_bytes: 0 };
        references.one(Place { at: 0, bytes: 1 }, "header", 0)?;
        references.one(header.refcount_table, "refcount table", 0)?;
        // Those of an image that was not closed are out of date, and QEMU makes new ones.
        if !header.dirty {
            references.refcount_blocks()?;
        }
        references.l1(header.l1, 0, true)?;
        references.snapshots()?;
        references.bitmaps()?;
        match header.crypto {
            Some(place) => references.one(place, "encryption header", 0),
            None => Ok(()),
        }
    }

    fn one(&mut self, place: Place, structure: &'static str, from: u64) -> Result<(), Problem> {
        self.entry(place, structure, from, None)
    }

    fn entry(
        &mut self,
        place: Place,
        structure: &'static str,
        from: u64,
        copied: Option<bool>,
    ) -> Result<(), Problem> {
        if place.bytes == 0 {
            return Ok(());
        }
        (self.take)(Reference { place, structure, from, aligned: true, copied })
    }

    /// The next piece of a table, and where it is.
    fn piece(&mut self, table: Place, done: &mut u64) -> Result<Option<(u64, Vec<u8>)>, Problem> {
        let length = PIECE_BYTES.min(table.bytes - *done);
        if length == 0 {
            return Ok(None);
        }
        self.read_bytes += length;
        if self.read_bytes > TABLES_LIMIT_BYTES {
            return Err(Problem::Wrong(format!("more than {TABLES_LIMIT_BYTES} bytes of tables")));
        }
        let at = table.at.saturating_add(*done);
        *done += length;
        Ok(Some((at, read(self.file, at, length)?)))
    }

    fn refcount_blocks(&mut self) -> Result<(), Problem> {
        let (bytes, mut done) = (self.header.cluster_bytes(), 0);
        while let Some((at, piece)) = self.piece(self.header.refcount_table, &mut done)? {
            for (from, entry) in entries(at, &piece, 8).filter(|(_, entry)| *entry != 0) {
                self.one(Place { at: entry, bytes }, "refcount block", from)?;
            }
        }
        Ok(())
    }

    /// An L1 table and all that is behind it.
    fn l1(&mut self, table: Place, from: u64, active: bool) -> Result<(), Problem> {
        self.one(table, "L1 table", from)?;
        let (bytes, mut done) = (self.header.cluster_bytes(), 0);
        while let Some((at, piece)) = self.piece(table, &mut done)? {
            for (from, entry) in entries(at, &piece, 8) {
                let l2 = Place { at: entry & OFFSET_MASK, bytes };
                if l2.at != 0 {
                    let copied = active.then_some(entry & COPIED != 0);
                    self.entry(l2, "L2 table", from, copied)?;
                    // Who counts reports what is no table, and not followed.
                    if l2.at.is_multiple_of(bytes) && l2.at < self.file.size_bytes() {
                        self.l2(l2, active)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn l2(&mut self, table: Place, active: bool) -> Result<(), Problem> {
        let entry_bytes = if self.header.extended_l2 { 16 } else { 8 };
        let (bytes, mut done) = (self.header.cluster_bytes(), 0);
        while let Some((at, piece)) = self.piece(table, &mut done)? {
            for (from, entry) in entries(at, &piece, entry_bytes).filter(|(_, entry)| *entry != 0) {
                if entry & L2_COMPRESSED != 0 {
                    let place = self.compressed(entry);
                    let structure = "compressed data";
                    let copied = (entry & COPIED != 0).then_some(true);
                    (self.take)(Reference { place, structure, from, aligned: false, copied })?;
                } else if entry & OFFSET_MASK != 0 && !self.header.data_file {
                    let place = Place { at: entry & OFFSET_MASK, bytes };
                    self.entry(place, "data cluster", from, active.then_some(entry & COPIED != 0))?;
                }
            }
        }
        Ok(())
    }

    /// Where compressed data lies: an offset, and how many sectors there are behind its first one.
    fn compressed(&self, entry: u64) -> Place {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let at = entry & ((1 << offset_bits) - 1);
        let sectors = (entry & (L2_COMPRESSED - 1)) >> offset_bits;
        Place { at, bytes: (sectors + 1) * SECTOR_BYTES - at % SECTOR_BYTES }
    }

    /// The table of internal snapshots, and their L1 tables. See `input::savevm` for the fields.
    fn snapshots(&mut self) -> Result<(), Problem> {
        let (count, start) = (self.header.snapshots, self.header.snapshots_at);
        if count > SNAPSHOT_LIMIT {
            return Err(Problem::Wrong(format!("{count} internal snapshots")));
        }
        let mut at = start;
        for _ in 0..count {
            let entry = read(self.file, at, 40)?;
            let field = |from: usize, length: usize| be(&entry[from..from + length]);
            let l1 = Place { at: field(0, 8), bytes: field(8, 4) * 8 };
            if l1.bytes > L1_LIMIT_BYTES {
                return Err(Problem::Wrong(format!(
                    "an L1 table of {} bytes of an internal snapshot",
                    l1.bytes
                )));
            }
            self.l1(l1, at, false)?;
            let names = field(12, 2) + field(14, 2) + field(36, 4);
            at = at.saturating_add((40 + names).next_multiple_of(8));
        }
        self.one(Place { at: start, bytes: at.saturating_sub(start) }, "snapshot table", 0)
    }

    /// The directory of persistent bitmaps; each entry: offset (be64) and entries (be32) of a
    /// table, flags (be32), type and granularity (u8 each), lengths of name (be16) and extra data
    /// (be32); extra data, name, padding to 8.
    fn bitmaps(&mut self) -> Result<(), Problem> {
        let Some((count, directory)) = self.header.bitmaps else { return Ok(()) };
        if count > BITMAP_LIMIT {
            return Err(Problem::Wrong(format!("{count} bitmaps")));
        }
        self.one(directory, "bitmap directory", 0)?;
        let (bytes, mut at) = (self.header.cluster_bytes(), directory.at);
        for _ in 0..count {
            let entry = read(self.file, at, 24)?;
            let field = |from: usize, length: usize| be(&entry[from..from + length]);
            let table = Place { at: field(0, 8), bytes: field(8, 4) * 8 };
            self.one(table, "bitmap table", at)?;
            let mut done = 0;
            while let Some((at, piece)) = self.piece(table, &mut done)? {
                for (from, entry) in entries(at, &piece, 8).filter(|(_, entry)| entry & OFFSET_MASK != 0) {
                    self.one(Place { at: entry & OFFSET_MASK, bytes }, "bitmap data", from)?;
                }
            }
            at = at.saturating_add((24 + field(18, 2) + field(20, 4)).next_multiple_of(8));
        }
        Ok(())
    }
}
