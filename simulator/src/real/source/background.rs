//! A background snapshot: RAM as it was at one moment.
//!
//! 1. prepare: everything that takes long, or can fail;
//! 2. stop the guest; device state goes to a buffer, RAM is write-protected;
//! 3. the guest goes on, RAM is sent;
//! 4. device state is sent.

use super::sender::Sender;
use super::wire::{Advice, leader};
use super::{Output, Source};
use crate::real::devices::Devices;
use crate::real::error::Error;
use crate::real::memory::TARGET_PAGE_BYTES;
use background_snapshot::{Options, Prepared, Strategy, Unpopulated};
use std::time::{Duration, Instant};

const RUN_BYTES: usize = 64 << 10;

impl Source<'_> {
    pub(super) fn background(
        &mut self,
        sender: &mut Sender<Output>,
        strategy: Strategy,
        unpopulated: Unpopulated,
    ) -> Result<(), Error> {
        let options = Options { strategy, unpopulated, run_bytes: RUN_BYTES };
        let prepared = Prepared::new(self.memory.regions(), options)?;
        let stopped = self.vcpus.stopped(|watch| -> Result<_, Error> {
            let start = Instant::now();
            let devices = Devices::at(self.config.load.seed, self.vcpus.accesses(), self.config.devices);
            let saved = start.elapsed();
            let digest = self.digest(devices.checksum());
            let start = Instant::now();
            let snapshot = prepared.protect()?;
            *watch = Some(snapshot.watch());
            Ok((devices, digest, snapshot, saved + start.elapsed()))
        });
        let (devices, digest, mut snapshot, downtime): (_, _, _, Duration) = stopped?;
        self.outcome.digest = digest;
        self.outcome.downtime = downtime;
        sender.raw(&leader(self.config, &self.memory, Advice::None))?;
        let mut data = Vec::new();
        while let Some(run) = snapshot.next_run(&mut data)? {
            for (number, page) in data.chunks(TARGET_PAGE_BYTES).enumerate() {
                sender.page(run.region, run.offset + number * TARGET_PAGE_BYTES, page)?;
            }
            if strategy == Strategy::Priority {
                // Pages are released when they are on their way.
                sender.flush()?;
            }
        }
        let counters = snapshot.counters();
        // A buffer of the pool takes any page.
        let page = self.memory.blocks().iter().map(|block| block.mapping.page_size()).max().unwrap_or(0);
        let pool_bytes = (counters.pool_peak_pages * page) as u64;
        self.outcome.faults = (counters.faults, counters.pool_full, pool_bytes);
        drop(snapshot);
        self.vcpus.stopped(|watch| *watch = None);
        sender.raw(&devices.tail)
    }
}
