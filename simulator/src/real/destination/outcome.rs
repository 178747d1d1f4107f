//! What came of a destination.

use crate::real::bitmaps::Bitmaps;
use crate::real::digest::Digest;
use crate::real::error::Error;
use crate::real::report::{Report, Times};
use std::time::Duration;

/// What was loaded, how long it took, and whether it was right.
#[derive(Debug, Clone, Default)]
pub struct DestinationOutcome {
    /// Pages of RAM.
    pub pages: u64,
    /// Pages that arrived, at least once.
    pub arrived: u64,
    /// Page records in precopy.
    pub precopy_records: u64,
    /// Pages that were compared.
    pub verified: u64,
    /// Pages that were not what they must be.
    pub wrong: u64,
    /// The first of them, in words.
    pub wrong_pages: Vec<String>,
    /// Requests that were sent.
    pub requests: u64,
    /// Pages that came again after they had been placed.
    pub duplicates: u64,
    /// From a request to its page.
    pub latency: Times,
    /// How long vCPUs waited for missing pages.
    pub stalls: Times,
    /// From the beginning until the guest ran.
    pub time_to_run: Duration,
    /// From the beginning until everything was there.
    pub time_to_complete: Duration,
    /// From the beginning until the source was answered.
    pub total: Duration,
    /// How long the guest ran.
    pub guest_time: Duration,
    /// Its accesses.
    pub accesses: u64,
    /// Whether it was postcopy.
    pub postcopy: bool,
    /// How often the main channel was replaced.
    pub recoveries: u32,
    /// Checksum of the device sections.
    pub devices: Option<u64>,
    /// What it must be.
    pub expected_devices: Option<u64>,
    /// Names of the devices, where the stream has them.
    pub device_names: Vec<String>,
    /// Bitmaps of disks.
    pub bitmaps: Bitmaps,
    /// Bitmaps that were not complete in the end.
    pub bitmaps_dropped: usize,
    /// What was loaded, if that was asked for.
    pub digest: Option<Digest>,
}

impl DestinationOutcome {
    /// Everything, to be printed.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        report.add("pages", self.pages);
        report.add("arrived", self.arrived);
        report.add("verified", self.verified);
        report.add("wrong", self.wrong);
        report.add("duplicates", self.duplicates);
        report.add("postcopy", self.postcopy);
        report.add_time("time_to_run_ms", self.time_to_run);
        report.add_time("time_to_complete_ms", self.time_to_complete);
        report.add("guest_accesses", self.accesses);
        if self.postcopy {
            report.add("requests", self.requests);
            report.add("recoveries", self.recoveries);
            report.add_times("request_us", &self.latency);
            report.add_times("stall_us", &self.stalls);
        }
        for (node, disk) in self.bitmaps.nodes() {
            for (name, bitmap) in &disk.bitmaps {
                let text = format!(
                    "\"{}\" of \"{}\": {} of {} bits",
                    migration_stream::name_text(name),
                    migration_stream::name_text(node),
                    bitmap.set_bits(),
                    bitmap.count
                );
                report.add("bitmap", text);
            }
        }
        if let Some(why) = self.bitmaps.cancelled() {
            report.add("bitmaps_cancelled", why);
        }
        report
    }

    /// Whether what was loaded is what it must be.
    pub(super) fn verdict(&self) -> Result<(), Error> {
        if self.wrong > 0 {
            let named = self.wrong_pages.join("; ");
            return Err(Error::Wrong(format!("{} of {} pages are wrong: {named}", self.wrong, self.pages)));
        }
        match (self.devices, self.expected_devices) {
            (found, Some(expected)) if found != Some(expected) => {
                let found = found.map_or("none".to_owned(), |sum| format!("{sum:016x}"));
                Err(Error::Wrong(format!("device sections: checksum {found}, expected {expected:016x}")))
            }
            _ => Ok(()),
        }
    }
}
