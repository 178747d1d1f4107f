//! A disk in memory that loses what was not flushed.
//!
//! # The fault model
//!
//! A write that completed is there for every later read, but durable only after a flush that began
//! behind it has completed. When the power goes, each sector of each write that is not durable is
//! kept or lost on its own, as the seed has it; so is the file's length. Renames are durable when
//! they complete, for the driver syncs the directory.

use crate::rng::Rng;
use crate::size::to_usize;
use std::collections::BTreeMap;

/// What the disk keeps or loses as one, in bytes.
const SECTOR_BYTES: usize = 4096;

/// The bytes of a file, sparse.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimFile {
    sectors: BTreeMap<u64, Vec<u8>>,
    length: u64,
    /// Sectors as they were at the last flush, for those that changed since.
    unsynced: BTreeMap<u64, Option<Vec<u8>>>,
    synced_length: u64,
}

impl SimFile {
    /// A file of these bytes, all of them durable.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut file = Self::default();
        file.write(0, bytes);
        file.flush();
        file
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads; what lies behind the end is zero.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        for (number, place) in (at / SECTOR_BYTES as u64..).zip(out.chunks_mut(SECTOR_BYTES)) {
            match self.sectors.get(&number) {
                Some(sector) => place.copy_from_slice(&sector[..place.len()]),
                None => place.fill(0),
            }
        }
    }

    /// Writes at a multiple of the sector size.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        for (number, part) in (at / SECTOR_BYTES as u64..).zip(bytes.chunks(SECTOR_BYTES)) {
            let old = self.sectors.get(&number);
            self.unsynced.entry(number).or_insert_with(|| old.cloned());
            let sector = self.sectors.entry(number).or_insert_with(|| vec![0; SECTOR_BYTES]);
            sector[..part.len()].copy_from_slice(part);
        }
        self.length = self.length.max(at + bytes.len() as u64);
    }

    /// Sets the length.
    pub fn set_length(&mut self, length: u64) {
        self.length = length;
    }

    /// Everything is durable now.
    pub fn flush(&mut self) {
        self.unsynced.clear();
        self.synced_length = self.length;
    }

    /// Where the next data lies at `from` or behind.
    #[must_use]
    pub fn next_data(&self, from: u64) -> Option<std::ops::Range<u64>> {
        let sector = SECTOR_BYTES as u64;
        let (&first, _) = self.sectors.range(from / sector..).next()?;
        let mut end = first;
        while self.sectors.contains_key(&end) {
            end += 1;
        }
        Some((first * sector).max(from)..(end * sector).min(self.length).max(from))
    }

    /// The power goes: of what was not flushed, any part is lost.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        let keep_percent = [0, 50, 100][rng.index(3)];
        for (number, old) in std::mem::take(&mut self.unsynced) {
            if rng.chance(keep_percent) {
                continue;
            }
            match old {
                Some(sector) => self.sectors.insert(number, sector),
                None => self.sectors.remove(&number),
            };
        }
        if !rng.chance(keep_percent) {
            self.length = self.length.max(self.synced_length).min(self.synced_length);
        }
        self.synced_length = self.length;
    }

    /// Flips one bit.
    pub fn flip_bit(&mut self, at: u64, bit: u32) {
        let mut sector = vec![0; SECTOR_BYTES];
        let start = at - at % SECTOR_BYTES as u64;
        self.read(start, &mut sector);
        sector[to_usize(at - start)] ^= 1 << (bit % 8);
        self.write(start, &sector);
        self.flush();
    }

    /// Places with data, by sector.
    pub fn sectors(&self) -> impl Iterator<Item = u64> + '_ {
        self.sectors.keys().map(|number| number * SECTOR_BYTES as u64)
    }
}
