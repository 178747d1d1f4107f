//! Page records in PART sections, at no more than a given rate.

use super::wire::{RAM, footer};
use crate::real::error::{Error, at};
use crate::real::memory::is_zero;
use migration_stream::{put_end_of_section, put_page_header, put_section_part, put_zero_page};
use std::io::Write;
use std::time::{Duration, Instant};

/// Bytes gathered into one section.
const SECTION_BYTES: usize = 256 << 10;

/// Sends pages.
#[derive(Debug)]
pub(super) struct Sender<W> {
    pub(super) out: W,
    names: Vec<Vec<u8>>,
    bytes: Vec<u8>,
    block: Option<usize>,
    /// Pages stand in sections; they do not on the preempt channel.
    sections: bool,
    bandwidth: Option<Bandwidth>,
    pub(super) normal: u64,
    pub(super) zero: u64,
}

impl<W: Write> Sender<W> {
    /// Of blocks with these names; `bandwidth` in bytes per second.
    pub(super) fn new(out: W, names: Vec<Vec<u8>>, sections: bool, bandwidth: Option<u64>) -> Self {
        let bandwidth = bandwidth.map(Bandwidth::new);
        Self { out, names, bytes: Vec::new(), block: None, sections, bandwidth, normal: 0, zero: 0 }
    }

    /// Sends bytes that stand outside of sections.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.flush()?;
        self.out.write_all(bytes).map_err(at("write the stream"))
    }

    /// A page.
    pub(super) fn page(&mut self, block: usize, offset: usize, data: &[u8]) -> Result<(), Error> {
        if self.bytes.is_empty() && self.sections {
            put_section_part(&mut self.bytes, RAM);
        }
        let name = (self.block.replace(block) != Some(block)).then(|| &self.names[block][..]);
        if is_zero(data) {
            put_zero_page(&mut self.bytes, name, offset as u64);
            self.zero += 1;
        } else {
            put_page_header(&mut self.bytes, name, offset as u64);
            self.bytes.extend_from_slice(data);
            self.normal += 1;
        }
        if self.bytes.len() < SECTION_BYTES { Ok(()) } else { self.flush() }
    }

    /// Sends what has been gathered.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        if self.sections {
            put_end_of_section(&mut self.bytes);
            footer(&mut self.bytes, RAM);
        }
        self.out.write_all(&self.bytes).map_err(at("write the stream"))?;
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.spend(self.bytes.len() as u64);
        }
        self.bytes.clear();
        Ok(())
    }
}

/// Keeps to a rate by pauses.
#[derive(Debug)]
struct Bandwidth {
    per_second: u64,
    /// When everything so far would have been sent.
    due: Instant,
}

impl Bandwidth {
    fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), due: Instant::now() }
    }

    fn spend(&mut self, bytes: u64) {
        let now = Instant::now();
        let micros = bytes.saturating_mul(1_000_000) / self.per_second;
        // Time that was not used is not made up for.
        self.due = self.due.max(now) + Duration::from_micros(micros);
        std::thread::sleep(self.due.saturating_duration_since(now));
    }
}
