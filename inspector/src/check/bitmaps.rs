//! Dirty bitmaps: each is started, filled within its disk, and completed.

use super::Report;
use crate::escape::terminal;
use migration_stream::{ChunkKind, DirtyBitmapChunk};
use std::collections::BTreeMap;

const SECTOR_BYTES: u64 = 512;
/// QEMU rounds the bytes of a piece up to this.
const ROUNDED_BYTES: u64 = 32;
/// The most bitmaps that are followed.
const LIMIT: usize = 1 << 14;

#[derive(Debug)]
struct Bitmap {
    granularity: u32,
    complete: bool,
}

#[derive(Debug, Default)]
pub(super) struct Bitmaps {
    node: Vec<u8>,
    bitmap: Vec<u8>,
    known: BTreeMap<(Vec<u8>, Vec<u8>), Bitmap>,
}

impl Bitmaps {
    pub(super) fn chunk(&mut self, report: &mut Report<'_>, offset: u64, chunk: &DirtyBitmapChunk<'_>) {
        // Names that are left out are those of the chunk before, across sections.
        if let Some(node) = chunk.node {
            self.node = node.to_vec();
        }
        if let Some(bitmap) = chunk.bitmap {
            self.bitmap = bitmap.to_vec();
        }
        if chunk.kind == ChunkKind::EndOfSection {
            return;
        }
        let path = format!("bitmap \"{}\" of \"{}\"", terminal(&self.bitmap), terminal(&self.node));
        if self.node.is_empty() || self.bitmap.is_empty() {
            return report.error("bitmap-name", offset, "section \"dirty-bitmap\"", "a chunk without names");
        }
        let key = (self.node.clone(), self.bitmap.clone());
        let room = self.known.len() < LIMIT;
        match (&chunk.kind, self.known.get_mut(&key)) {
            (ChunkKind::Start { .. }, Some(_)) => {
                report.error("bitmap-twice", offset, &path, "started twice");
            }
            (ChunkKind::Start { granularity, .. }, None) if room => {
                self.known.insert(key, Bitmap { granularity: *granularity, complete: false });
            }
            (ChunkKind::Bits { .. } | ChunkKind::Complete, None) if room => {
                report.error("bitmap-unknown", offset, &path, "was not started");
            }
            (ChunkKind::Bits { sectors, bits: Some(bits), .. }, Some(bitmap)) => {
                let granules = (u64::from(*sectors) * SECTOR_BYTES).div_ceil(u64::from(bitmap.granularity));
                let needed = granules.div_ceil(8);
                let size = bits.len() as u64;
                if size < needed || size > needed.next_multiple_of(ROUNDED_BYTES) {
                    let text = format!("{size} bytes for {granules} granules, expected {needed}");
                    report.error("bitmap-size", offset, &path, text);
                }
            }
            (ChunkKind::Complete, Some(bitmap)) => bitmap.complete = true,
            _ => {}
        }
    }

    pub(super) fn finish(&self, report: &mut Report<'_>) {
        for ((node, bitmap), state) in &self.known {
            if !state.complete {
                let text = format!(
                    "bitmap \"{}\" of \"{}\" was not completed: the destination drops it",
                    terminal(bitmap),
                    terminal(node)
                );
                report.say(
                    "bitmap-complete",
                    crate::walk::Finding::new(crate::walk::Level::Warning, None, "", text),
                );
            }
        }
    }
}
