//! Live precopy: all pages, then again and again those that changed, then the rest with the guest stopped.

use super::sender::Sender;
use super::wire::{Advice, leader, put_ram_end};
use super::{Output, Source, bitmaps};
use crate::real::devices::Devices;
use crate::real::error::Error;
use crate::real::memory::{GuestMemory, TARGET_PAGE_BYTES};
use migration_stream::{Command, put_command};
use std::io::Write;
use std::time::{Duration, Instant};

/// What is assumed of a channel that has no limit, in bytes per second, until it has been measured.
const FIRST_ESTIMATE: u64 = 1 << 30;

impl Source<'_> {
    pub(super) fn precopy(
        &mut self,
        sender: &mut Sender<Output>,
        downtime: Duration,
        max_rounds: u32,
    ) -> Result<(), Error> {
        sender.raw(&leader(self.config, &self.memory, Advice::None))?;
        self.rounds(sender, downtime, max_rounds)?;
        let devices = self.stop(sender)?;
        let mut end = Vec::new();
        put_ram_end(&mut end);
        if !self.config.bitmaps.is_empty() {
            bitmaps::put_bits(&mut end, &self.config.bitmaps, false);
        }
        sender.raw(&end)?;
        sender.raw(&devices.tail)
    }

    /// RAM in precopy, then dirty bitmaps while the destination's guest runs already.
    pub(super) fn bitmap_postcopy(&mut self, sender: &mut Sender<Output>) -> Result<(), Error> {
        sender.raw(&leader(self.config, &self.memory, Advice::Bitmaps))?;
        self.rounds(sender, Duration::from_millis(300), 30)?;
        let devices = self.stop(sender)?;
        let mut end = Vec::new();
        put_ram_end(&mut end);
        let mut package = Vec::new();
        put_command(&mut package, &Command::PostcopyListen);
        package.extend_from_slice(devices.sections());
        put_command(&mut package, &Command::PostcopyRun);
        put_command(&mut end, &Command::Packaged(&package));
        // A second END of RAM, as QEMU sends it.
        put_ram_end(&mut end);
        if !self.config.bitmaps.is_empty() {
            bitmaps::put_bits(&mut end, &self.config.bitmaps, true);
        }
        end.push(migration_stream::QEMU_VM_EOF);
        sender.raw(&end)
    }

    /// Rounds until what is left can be sent within `downtime`.
    pub(super) fn rounds(
        &mut self,
        sender: &mut Sender<impl Write>,
        downtime: Duration,
        max_rounds: u32,
    ) -> Result<(), Error> {
        let memory = self.memory.clone();
        // What was written so far is in the first round.
        (0..memory.blocks().len()).for_each(|block| drop(memory.take_dirty(block)));
        let start = Instant::now();
        for (number, block) in memory.blocks().iter().enumerate() {
            let offsets = (0..block.mapping.length()).step_by(TARGET_PAGE_BYTES);
            send_pages(sender, &memory, number, offsets)?;
        }
        sender.flush()?;
        let mut sent = memory.pages() * TARGET_PAGE_BYTES as u64;
        loop {
            self.outcome.rounds += 1;
            let micros = start.elapsed().as_micros().max(1);
            let measured = u64::try_from(u128::from(sent) * 1_000_000 / micros).unwrap_or(FIRST_ESTIMATE);
            let budget = u128::from(measured) * downtime.as_micros() / 1_000_000;
            let left = u128::from(memory.dirty_pages()) * TARGET_PAGE_BYTES as u128;
            if left <= budget || self.outcome.rounds >= max_rounds {
                return Ok(());
            }
            sent += self.dirty_round(sender)?;
        }
    }

    /// Sends what was written since the last round; returns its bytes.
    fn dirty_round(&self, sender: &mut Sender<impl Write>) -> Result<u64, Error> {
        let mut pages = 0;
        for block in 0..self.memory.blocks().len() {
            let offsets = self.memory.take_dirty(block);
            pages += offsets.len() as u64;
            send_pages(sender, &self.memory, block, offsets.into_iter())?;
        }
        sender.flush()?;
        Ok(pages * TARGET_PAGE_BYTES as u64)
    }

    /// Stops the guest for good, sends the rest of RAM, and returns the devices' state.
    fn stop(&mut self, sender: &mut Sender<impl Write>) -> Result<Devices, Error> {
        let start = Instant::now();
        self.vcpus.pause();
        self.dirty_round(sender)?;
        let devices = Devices::at(self.config.load.seed, self.vcpus.accesses(), self.config.devices);
        self.outcome.downtime = start.elapsed();
        self.outcome.digest = self.digest(devices.checksum());
        Ok(devices)
    }
}

/// Sends pages of a block.
pub(super) fn send_pages(
    sender: &mut Sender<impl Write>,
    memory: &GuestMemory,
    block: usize,
    offsets: impl Iterator<Item = usize>,
) -> Result<(), Error> {
    let mut page = [0; TARGET_PAGE_BYTES];
    for offset in offsets {
        memory.blocks()[block].mapping.read(offset, &mut page);
        sender.page(block, offset, &page)?;
    }
    Ok(())
}
