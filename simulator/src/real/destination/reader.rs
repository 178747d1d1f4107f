//! A destination's guest: it touches pages, and what it finds is compared with what it must be.

use super::shared::{PageBits, Shared, lock};
use crate::real::digest::{Digest, page_checksum};
use crate::real::guest::histogram;
use crate::real::memory::TARGET_PAGE_BYTES;
use crate::real::vcpus::Access;
use crate::rng::Rng;
use crate::size::{nanoseconds, to_usize};
use hdrhistogram::Histogram;
use migration_stream::name_text;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Wrong pages that are named; the others are counted.
const NAMED: usize = 10;

/// Accesses of the vCPUs, and the check of every page.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// What each page must be, where that is known.
    expected: Option<Vec<Option<u64>>>,
    /// A thread compares, or has compared, the page.
    claimed: PageBits,
    /// It is compared: from now on it may be written.
    verified: PageBits,
    wrong: AtomicU64,
    named: Mutex<Vec<String>>,
    /// Of 100 accesses, how many are writes.
    write_percent: u64,
    stalls: Vec<Mutex<Histogram<u64>>>,
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        digest: Option<&Digest>,
        threads: usize,
        write_percent: u64,
    ) -> Self {
        let pages = shared.memory.pages();
        let expected = digest.map(|digest| {
            let blocks = shared.memory.blocks().iter();
            let page = |name: &[u8], number: u64| {
                digest.page(name, to_usize(number).saturating_mul(TARGET_PAGE_BYTES))
            };
            blocks.flat_map(|block| (0..block.pages()).map(|number| page(&block.name, number))).collect()
        });
        Self {
            shared,
            expected,
            claimed: PageBits::new(pages),
            verified: PageBits::new(pages),
            wrong: AtomicU64::new(0),
            named: Mutex::default(),
            write_percent,
            stalls: (0..threads).map(|_| Mutex::new(histogram())).collect(),
        }
    }

    /// Compares a page, once.
    fn verify(&self, page: u64) {
        let Some(expected) = &self.expected else { return };
        if !self.claimed.set(page) {
            return;
        }
        let mut data = [0; TARGET_PAGE_BYTES];
        self.shared.memory.read_page(page, &mut data);
        let found = page_checksum(&data);
        let expected = usize::try_from(page).ok().and_then(|page| expected.get(page).copied().flatten());
        if expected != Some(found) {
            self.wrong.fetch_add(1, Ordering::Relaxed);
            let (block, offset) = self.shared.memory.locate(page);
            let name = name_text(&self.shared.memory.blocks()[block].name);
            let arrived = if self.shared.received.has(page) { "" } else { ", which never arrived" };
            let mut named = lock(&self.named);
            if named.len() < NAMED {
                let expected = expected.map_or("not known".to_owned(), |sum| format!("{sum:016x}"));
                named.push(format!(
                    "page {offset:#x} of block \"{name}\"{arrived}: checksum {found:016x}, expected {expected}"
                ));
            }
        }
        self.verified.set(page);
    }

    /// Touches a page as device emulation does while its state is loaded.
    pub(super) fn touch(&self, page: u64) {
        let (block, offset) = self.shared.memory.locate(page);
        let _ = self.shared.memory.blocks()[block].mapping.load(offset);
        self.verify(page);
    }

    /// Compares what no vCPU touched. The guest must have ended, and every page must be there.
    pub(super) fn verify_rest(&self) {
        (0..self.shared.memory.pages()).for_each(|page| self.verify(page));
    }

    /// Pages compared, pages wrong, and the first of these.
    pub(super) fn verdict(&self) -> (u64, u64, Vec<String>) {
        (self.verified.count(), self.wrong.load(Ordering::Relaxed), lock(&self.named).clone())
    }

    /// How long vCPUs waited for missing pages.
    pub(super) fn stalls(&self) -> Histogram<u64> {
        let mut all = histogram();
        self.stalls.iter().for_each(|stalls| all += &*lock(stalls));
        all
    }
}

impl Access<()> for Reader {
    fn access(&self, (): &(), thread: usize, page: u64, rng: &mut Rng) {
        let missing = !self.shared.received.has(page);
        let start = missing.then(Instant::now);
        let (block, offset) = self.shared.memory.locate(page);
        let _ = self.shared.memory.blocks()[block].mapping.load(offset);
        if let Some(start) = start {
            let nanoseconds = nanoseconds(start.elapsed());
            lock(&self.stalls[thread]).saturating_record(nanoseconds);
        }
        self.verify(page);
        // A page is written only when no thread compares it any more.
        let may_write = self.expected.is_none() || self.verified.has(page);
        if may_write && rng.chance(self.write_percent) {
            self.shared.memory.write_word(page, rng.index(512), rng.next_u64());
        }
    }
}
