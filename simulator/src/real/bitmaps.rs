//! Dirty bitmaps at a destination: QEMU's rules since 5.2, and those of the series of 2017.
//!
//! | | 5.2 and later | 2017 |
//! | --- | --- | --- |
//! | a bitmap of that name exists | error: it is cancelled | used, if its granularity is the same |
//! | unknown node or bitmap, wrong size | cancelled, and parsed on | the migration fails |
//! | the guest writes before COMPLETE | a successor collects it, and is merged | the same |
//!
//! After a semantic error the unfinished bitmaps are dropped; what follows is parsed and not applied.

use crate::size::to_usize;
use migration_stream::{ChunkKind, DirtyBitmapChunk, name_text};
use std::collections::BTreeMap;

const SECTOR_BYTES: u64 = 512;
const FLAG_ENABLED: u8 = 1;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BitmapRules {
    /// QEMU 5.2 and later
    #[default]
    #[value(name = "5.2")]
    Modern,
    /// The original series
    #[value(name = "2017")]
    Original,
}

/// A bitmap of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Bytes of disk per bit.
    pub granularity: u32,
    /// The bits, from the lowest on.
    pub bits: Vec<u64>,
    /// Bits in it.
    pub count: u64,
    /// Writes are recorded.
    pub enabled: bool,
    /// Its bits are still coming; the guest's own writes are collected here.
    loading: Option<Loading>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Loading {
    /// The bitmap is to be enabled when it is complete.
    enable: bool,
    successor: Vec<u64>,
}

impl Bitmap {
    /// An empty one.
    #[must_use]
    pub fn new(disk_bytes: u64, granularity: u32, enabled: bool) -> Self {
        let count = disk_bytes.div_ceil(u64::from(granularity.max(1)));
        let words = to_usize(count.div_ceil(64));
        Self { granularity, bits: vec![0; words], count, enabled, loading: None }
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn has(&self, bit: u64) -> bool {
        usize::try_from(bit / 64)
            .ok()
            .and_then(|word| self.bits.get(word))
            .is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Set bits.
    #[must_use]
    pub fn set_bits(&self) -> u64 {
        self.bits.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether it is still being loaded: no one else may use it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.loading.is_some()
    }
}

fn set(bits: &mut [u64], bit: u64) {
    if let Some(word) = usize::try_from(bit / 64).ok().and_then(|word| bits.get_mut(word)) {
        *word |= 1 << (bit % 64);
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its bytes.
    pub bytes: u64,
    /// Its bitmaps.
    pub bitmaps: BTreeMap<Vec<u8>, Bitmap>,
}

/// All disks of a destination, and the state of the bitmap section.
#[derive(Debug, Clone, Default)]
pub struct Bitmaps {
    rules: BitmapRules,
    nodes: BTreeMap<Vec<u8>, Node>,
    /// The node and the bitmap that chunks without names mean.
    current: (Option<Vec<u8>>, Option<Vec<u8>>),
    /// Bitmaps that were begun here, in the order of their beginning.
    begun: Vec<(Vec<u8>, Vec<u8>)>,
    /// Why nothing is applied any more.
    cancelled: Option<String>,
}

impl Bitmaps {
    /// Disks by name and size.
    #[must_use]
    pub fn new(rules: BitmapRules, nodes: BTreeMap<Vec<u8>, Node>) -> Self {
        Self { rules, nodes, ..Self::default() }
    }

    /// The disks.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<Vec<u8>, Node> {
        &self.nodes
    }

    /// Why the bitmaps were given up, if they were.
    #[must_use]
    pub fn cancelled(&self) -> Option<&str> {
        self.cancelled.as_deref()
    }

    /// A write of the running guest's.
    pub fn guest_writes(&mut self, node: &[u8], offset: u64, length: u64) {
        let Some(node) = self.nodes.get_mut(node) else { return };
        let end = offset.saturating_add(length).min(node.bytes);
        for bitmap in node.bitmaps.values_mut() {
            let bits = match &mut bitmap.loading {
                Some(loading) if loading.enable => &mut loading.successor,
                None if bitmap.enabled => &mut bitmap.bits,
                _ => continue,
            };
            let granularity = u64::from(bitmap.granularity);
            if offset < end {
                (offset / granularity..end.div_ceil(granularity)).for_each(|bit| set(bits, bit));
            }
        }
    }

    /// Takes a chunk.
    ///
    /// # Errors
    ///
    /// What fails the migration: a first chunk without names, and by the rules of 2017 every semantic error.
    pub fn chunk(&mut self, chunk: &DirtyBitmapChunk<'_>) -> Result<(), String> {
        if chunk.kind == ChunkKind::EndOfSection {
            return Ok(());
        }
        if let Some(node) = chunk.node {
            self.current.0 = Some(node.to_vec());
        }
        if let Some(bitmap) = chunk.bitmap {
            self.current.1 = Some(bitmap.to_vec());
        }
        let (Some(node), Some(name)) = self.current.clone() else {
            return Err("dirty bitmap chunk without a node or a bitmap before it".to_owned());
        };
        if self.cancelled.is_some() {
            return Ok(());
        }
        match self.apply(&node, &name, &chunk.kind) {
            Ok(()) => Ok(()),
            Err(why) => {
                let why =
                    format!("dirty bitmap \"{}\" of node \"{}\": {why}", name_text(&name), name_text(&node));
                if self.rules == BitmapRules::Original {
                    return Err(why);
                }
                self.cancel(why);
                Ok(())
            }
        }
    }

    fn apply(&mut self, node_name: &[u8], name: &[u8], kind: &ChunkKind<'_>) -> Result<(), String> {
        let node = self.nodes.get_mut(node_name).ok_or("unknown node")?;
        match kind {
            ChunkKind::Start { granularity, flags } => {
                let enable = flags & FLAG_ENABLED != 0;
                match node.bitmaps.get_mut(name) {
                    Some(known)
                        if self.rules == BitmapRules::Original && known.granularity == *granularity =>
                    {
                        known.enabled = false;
                        known.loading = Some(Loading { enable, successor: vec![0; known.bits.len()] });
                    }
                    Some(known) if self.rules == BitmapRules::Original => {
                        let granularity_here = known.granularity;
                        return Err(format!("granularity {granularity}, it exists with {granularity_here}"));
                    }
                    Some(_) => return Err("it exists already".to_owned()),
                    None => {
                        let mut bitmap = Bitmap::new(node.bytes, *granularity, false);
                        bitmap.loading = Some(Loading { enable, successor: vec![0; bitmap.bits.len()] });
                        node.bitmaps.insert(name.to_vec(), bitmap);
                    }
                }
                self.begun.push((node_name.to_vec(), name.to_vec()));
            }
            ChunkKind::Bits { first_sector, sectors, bits } => {
                let bitmap = loading(node, name)?;
                put_bits(bitmap, *first_sector, *sectors, *bits)?;
            }
            ChunkKind::Complete => {
                let bitmap = loading(node, name)?;
                if let Some(loading) = bitmap.loading.take() {
                    bitmap.enabled = loading.enable;
                    bitmap.bits.iter_mut().zip(loading.successor).for_each(|(word, more)| *word |= more);
                }
            }
            ChunkKind::EndOfSection => {}
            other => return Err(format!("unexpected chunk {other:?}")),
        }
        Ok(())
    }

    fn cancel(&mut self, why: String) {
        self.drop_unfinished();
        self.cancelled = Some(why);
    }

    /// The stream ended or broke: finished bitmaps stay, the others go. Returns how many went.
    pub fn drop_unfinished(&mut self) -> usize {
        let mut dropped = 0;
        for (node, name) in std::mem::take(&mut self.begun) {
            if let Some(node) = self.nodes.get_mut(&node)
                && node.bitmaps.get(&name).is_some_and(Bitmap::is_busy)
            {
                node.bitmaps.remove(&name);
                dropped += 1;
            }
        }
        dropped
    }
}

fn loading<'a>(node: &'a mut Node, name: &[u8]) -> Result<&'a mut Bitmap, String> {
    let bitmap = node.bitmaps.get_mut(name).ok_or("unknown bitmap")?;
    if bitmap.is_busy() { Ok(bitmap) } else { Err("it is complete already".to_owned()) }
}

fn put_bits(bitmap: &mut Bitmap, first_sector: u64, sectors: u32, data: Option<&[u8]>) -> Result<(), String> {
    let granularity = u64::from(bitmap.granularity);
    let start = first_sector.checked_mul(SECTOR_BYTES).ok_or("range ends behind the disk")?;
    let end = start.checked_add(u64::from(sectors) * SECTOR_BYTES).ok_or("range ends behind the disk")?;
    if !start.is_multiple_of(granularity) || end.div_ceil(granularity) > bitmap.count {
        return Err(format!(
            "sectors {first_sector} to {} are not of this disk",
            first_sector + u64::from(sectors)
        ));
    }
    let range = start / granularity..end.div_ceil(granularity);
    if let Some(data) = data {
        let needed = (range.end - range.start).div_ceil(8);
        let found = data.len() as u64;
        if found < needed || found > needed.next_multiple_of(32) {
            return Err(format!("{found} bytes of bits, expected {needed} and at most 31 more"));
        }
    }
    for (number, bit) in range.enumerate() {
        let on = data.is_some_and(|data| data[number / 8] >> (number % 8) & 1 == 1);
        if on {
            set(&mut bitmap.bits, bit);
        } else if let Some(word) = usize::try_from(bit / 64).ok().and_then(|word| bitmap.bits.get_mut(word)) {
            *word &= !(1 << (bit % 64));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: ChunkKind<'static> = ChunkKind::Start { granularity: 65536, flags: 1 };

    fn named<'a>(node: &'a [u8], bitmap: &'a [u8], kind: ChunkKind<'a>) -> DirtyBitmapChunk<'a> {
        DirtyBitmapChunk { node: Some(node), bitmap: Some(bitmap), kind }
    }

    fn bits(data: &[u8]) -> ChunkKind<'_> {
        ChunkKind::Bits { first_sector: 0, sectors: 2048, bits: Some(data) }
    }

    fn disks(rules: BitmapRules) -> Bitmaps {
        let node = Node { bytes: 1 << 20, bitmaps: BTreeMap::new() };
        Bitmaps::new(rules, BTreeMap::from([(b"disk0".to_vec(), node)]))
    }

    fn set_bits(bitmaps: &Bitmaps, name: &[u8]) -> Vec<u64> {
        let bitmap = &bitmaps.nodes()[&b"disk0"[..]].bitmaps[name];
        (0..bitmap.count).filter(|&bit| bitmap.has(bit)).collect()
    }

    #[test]
    fn a_successor_collects_writes_until_complete() {
        let mut bitmaps = disks(BitmapRules::Modern);
        bitmaps.chunk(&named(b"disk0", b"b", START)).unwrap();
        bitmaps.guest_writes(b"disk0", 15 << 16, 1);
        let mut data = [0; 32];
        data[0] = 0b101;
        // Names carry over.
        bitmaps.chunk(&DirtyBitmapChunk { node: None, bitmap: None, kind: bits(&data) }).unwrap();
        assert_eq!(set_bits(&bitmaps, b"b"), [0, 2]);
        bitmaps.chunk(&named(b"disk0", b"b", ChunkKind::Complete)).unwrap();
        assert_eq!(set_bits(&bitmaps, b"b"), [0, 2, 15]);
        bitmaps.guest_writes(b"disk0", (4 << 16) - 1, 2);
        assert_eq!(set_bits(&bitmaps, b"b"), [0, 2, 3, 4, 15]);
        assert_eq!(bitmaps.drop_unfinished(), 0);
    }

    #[test]
    fn a_disabled_bitmap_records_nothing() {
        let mut bitmaps = disks(BitmapRules::Modern);
        let start = ChunkKind::Start { granularity: 65536, flags: 0 };
        bitmaps.chunk(&named(b"disk0", b"b", start)).unwrap();
        bitmaps.guest_writes(b"disk0", 0, 1);
        bitmaps.chunk(&named(b"disk0", b"b", ChunkKind::Complete)).unwrap();
        bitmaps.guest_writes(b"disk0", 0, 1);
        assert_eq!(set_bits(&bitmaps, b"b"), [0u64; 0]);
    }

    #[test]
    fn semantic_errors_cancel_and_parsing_goes_on() {
        let check = |chunks: &[DirtyBitmapChunk<'_>], expected: &str| {
            let mut bitmaps = disks(BitmapRules::Modern);
            bitmaps.chunk(&named(b"disk0", b"done", START)).unwrap();
            bitmaps.chunk(&named(b"disk0", b"done", ChunkKind::Complete)).unwrap();
            bitmaps.chunk(&named(b"disk0", b"open", START)).unwrap();
            chunks.iter().for_each(|chunk| bitmaps.chunk(chunk).unwrap());
            assert_eq!(bitmaps.cancelled(), Some(expected));
            bitmaps.chunk(&named(b"disk0", b"later", START)).unwrap();
            // The finished one stays, the unfinished one goes, nothing new comes.
            let names: Vec<_> = bitmaps.nodes()[&b"disk0"[..]].bitmaps.keys().cloned().collect();
            assert_eq!(names, [b"done".to_vec()]);

            let mut original = disks(BitmapRules::Original);
            original.chunk(&named(b"disk0", b"done", START)).unwrap();
            original.chunk(&named(b"disk0", b"done", ChunkKind::Complete)).unwrap();
            let result: Result<Vec<()>, String> = chunks.iter().map(|chunk| original.chunk(chunk)).collect();
            if !expected.ends_with("exists already") {
                assert_eq!(result.unwrap_err(), expected);
            }
        };
        let text = |rest: &str| format!("dirty bitmap \"x\" of node {rest}");
        check(&[named(b"disk9", b"x", START)], &text("\"disk9\": unknown node"));
        check(&[named(b"disk0", b"x", ChunkKind::Complete)], &text("\"disk0\": unknown bitmap"));
        check(
            &[named(b"disk0", b"done", START)],
            "dirty bitmap \"done\" of node \"disk0\": it exists already",
        );
        check(
            &[named(b"disk0", b"x", START), named(b"disk0", b"x", bits(&[0]))],
            &text("\"disk0\": 1 bytes of bits, expected 2 and at most 31 more"),
        );
        let far = ChunkKind::Bits { first_sector: 2048, sectors: 1, bits: None };
        check(
            &[named(b"disk0", b"x", START), named(b"disk0", b"x", far)],
            &text("\"disk0\": sectors 2048 to 2049 are not of this disk"),
        );
    }

    #[test]
    fn the_rules_of_2017_use_an_existing_bitmap() {
        let mut bitmaps = disks(BitmapRules::Original);
        for _ in 0..2 {
            bitmaps.chunk(&named(b"disk0", b"b", START)).unwrap();
            bitmaps.chunk(&named(b"disk0", b"b", ChunkKind::Complete)).unwrap();
        }
        let other = ChunkKind::Start { granularity: 4096, flags: 1 };
        assert_eq!(
            bitmaps.chunk(&named(b"disk0", b"b", other)).unwrap_err(),
            "dirty bitmap \"b\" of node \"disk0\": granularity 4096, it exists with 65536"
        );
    }

    #[test]
    fn a_first_chunk_needs_names() {
        let chunk = DirtyBitmapChunk { node: None, bitmap: Some(b"b"), kind: START };
        let error = disks(BitmapRules::Modern).chunk(&chunk).unwrap_err();
        assert_eq!(error, "dirty bitmap chunk without a node or a bitmap before it");
    }

    #[test]
    fn what_is_not_complete_goes_when_the_stream_breaks() {
        let mut bitmaps = disks(BitmapRules::Modern);
        bitmaps.chunk(&named(b"disk0", b"a", START)).unwrap();
        bitmaps.chunk(&named(b"disk0", b"b", START)).unwrap();
        bitmaps.chunk(&named(b"disk0", b"a", ChunkKind::Complete)).unwrap();
        assert_eq!(bitmaps.drop_unfinished(), 1);
        assert!(bitmaps.nodes()[&b"disk0"[..]].bitmaps.contains_key(&b"a"[..]));
    }
}
