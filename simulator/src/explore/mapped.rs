//! A destination that has mapped blocks of a linear image, privately, before the stream arrives.
//!
//! What the proof of such a mapping does not cover has to be sent: pages of which the destination
//! has a copy already (firmware, an incoming stream that failed), and blocks that it has not mapped.

use super::{Run, Scenario};
use crate::disk::SimFile;
use crate::rng::Rng;
use crate::size::to_usize;
use crate::world::{Fault, Planted};
use snapshot_engine::MappedBlock;
use snapshot_image::{HostOffset, ReadOptions, SnapshotReader};
use std::io;
use std::ops::Range;

impl Run {
    /// A mapped revert under a fault: the guest has everything, or the revert fails. Only of a
    /// linear image.
    pub(super) fn mapped(&mut self, scenario: &Scenario, image: &SimFile) -> Result<(), String> {
        let bases = bases(image)?;
        let mut destination = scenario.destination();
        let mut mapped = Vec::new();
        for (block, base) in bases.iter().enumerate() {
            let Some(base) = base.filter(|_| self.rng.chance(70)) else { continue };
            let (name, length) = &scenario.vm().config().blocks[block];
            let mut bytes = vec![0; to_usize(*length)];
            image.read(base, &mut bytes);
            destination.map(block, &bytes);
            let copied = copies(&mut self.rng, *length);
            copied.iter().for_each(|range| destination.copy(block, range));
            mapped.push(MappedBlock { name: name.clone(), copied });
        }
        if mapped.is_empty() {
            return Ok(());
        }
        if self.planted == Some(Planted::CopyNotSent) {
            mapped.iter_mut().for_each(|block| block.copied.truncate(block.copied.len().saturating_sub(1)));
        }
        let at = self.rng.below(40);
        let fault = [Fault::Error(at), Fault::Dead(at), Fault::PeerGone(at), Fault::None][self.rng.index(4)];
        let config = scenario.revert_config(image, None).with(|config| {
            config.mapped = mapped;
        });
        self.deliver(scenario, image, config, destination, fault)
    }
}

/// Where each block can be mapped from.
fn bases(image: &SimFile) -> Result<Vec<Option<u64>>, String> {
    let read = |HostOffset(at), length| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        image.read(at, &mut bytes);
        Ok(bytes)
    };
    let reader = SnapshotReader::open_with(image.length(), ReadOptions::default(), read);
    let reader = reader.map_err(|error| format!("an image that was reverted cannot be opened: {error}"))?;
    let base = |block| reader.linear_base(block).map(|HostOffset(base)| base);
    Ok((0..reader.layout().blocks().len()).map(base).collect())
}

/// Ranges of bytes of which the destination has copies.
fn copies(rng: &mut Rng, length: u64) -> Vec<Range<u64>> {
    let one = |rng: &mut Rng| {
        let start = rng.below(length);
        start..(start + 1 + rng.below(20_000)).min(length)
    };
    (0..rng.below(4)).map(|_| one(rng)).collect()
}
