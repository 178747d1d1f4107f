//! The snapshot itself: prepare, protect, take pages.

use crate::error::{Error, at};
use crate::handler::{Shared, run};
use crate::pages::{PageId, Pages, find, tables};
use crate::pool::Pool;
use crate::sys::{Fault, Region, Userfault};
use linux_raw_sys::general::{
    UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_FEATURE_WP_UNPOPULATED,
};
use rustix::event::EventfdFlags;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What happens to a page that the guest wants to write before it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// A thread copies it into a pool and lets the writer go on at once. While the pool is full,
    /// writers wait as with [`Priority`](Self::Priority).
    Copy {
        /// The most pages in the pool.
        pool_pages: usize,
    },
    /// It is the next page that is taken, and its writer waits until it is released. No thread, no memory.
    Priority,
}

/// How pages are covered that were never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpopulated {
    /// The kernel's `WP_UNPOPULATED` (Linux 6.4) if it is there, population otherwise.
    Auto,
    /// Every page is read before: takes time, and page tables for all memory.
    Populate,
    /// `WP_UNPOPULATED`, or an error.
    Protect,
}

/// How a snapshot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What write faults do.
    pub strategy: Strategy,
    /// What is done about untouched pages.
    pub unpopulated: Unpopulated,
    /// The most bytes in one [`Run`] (at least a page).
    pub run_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        let strategy = Strategy::Copy { pool_pages: 16384 };
        Self { strategy, unpopulated: Unpopulated::Auto, run_bytes: 64 << 10 }
    }
}

/// Why a run comes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is its turn.
    Background,
    /// The guest wants to write it, or has done so since.
    WriteFault,
}

/// Pages of a region that follow each other, as they were when the memory was protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Index of the region.
    pub region: usize,
    /// Byte offset in the region.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
    /// Why it comes now.
    pub cause: Cause,
}

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Write faults that found their page unsaved.
    pub faults: u64,
    /// Those of them that found the pool full.
    pub pool_full: u64,
    /// The most pages that were in the pool at one time.
    pub pool_peak_pages: usize,
}

/// Shows which pages are not taken yet, from any thread.
#[derive(Debug, Clone)]
pub struct Watch(Arc<[Pages]>);

impl Watch {
    /// Whether a write to this page would have to wait.
    #[must_use]
    pub fn is_unsaved(&self, region: usize, offset: usize) -> bool {
        self.0.get(region).is_some_and(|pages| {
            let page = offset / pages.region.page_size();
            page < pages.count() && !pages.is_taken(page)
        })
    }
}

/// Memory that is ready to be protected. Preparing may take long, and the guest need not stop for it.
#[derive(Debug)]
pub struct Prepared {
    shared: Shared,
    options: Options,
}

impl Prepared {
    /// Makes sure that all of the memory can be protected, and covers untouched pages.
    ///
    /// # Errors
    ///
    /// [`Error::Userfaultfd`], [`Error::NoWriteProtection`], [`Error::Region`], and
    /// [`Error::Unprotectable`] before anything was touched; [`Error::Kernel`].
    pub fn new(regions: Vec<Region>, options: Options) -> Result<Self, Error> {
        let pages = tables(regions)?;
        let mut wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        if options.unpopulated != Unpopulated::Populate {
            wanted |= UFFD_FEATURE_WP_UNPOPULATED;
        }
        let userfault = Userfault::open(wanted).map_err(|source| Error::Userfaultfd { source })?;
        if !userfault.has(UFFD_FEATURE_PAGEFAULT_FLAG_WP) {
            return Err(Error::NoWriteProtection);
        }
        for (number, Pages { region, .. }) in pages.iter().enumerate() {
            userfault.register(region, true).map_err(|source| Error::Unprotectable {
                region: number,
                address: region.address(),
                length: region.length(),
                source,
            })?;
        }
        if !userfault.has(UFFD_FEATURE_WP_UNPOPULATED) {
            if options.unpopulated == Unpopulated::Protect {
                let error = std::io::ErrorKind::Unsupported.into();
                return Err(at("userfaultfd feature WP_UNPOPULATED (Linux 6.4)")(error));
            }
            for Pages { region, .. } in &pages {
                region.populate().map_err(at("populate memory"))?;
            }
        }
        let pool_pages = match options.strategy {
            Strategy::Copy { pool_pages } => pool_pages,
            Strategy::Priority => 0,
        };
        let buffer_bytes = pages.iter().map(|pages| pages.region.page_size()).max().unwrap_or(0);
        let stop =
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| at("eventfd")(error.into()))?;
        let shared =
            Shared { userfault, pages: pages.into(), pool: Pool::new(pool_pages, buffer_bytes), stop };
        Ok(Self { shared, options })
    }

    /// Protects all memory: this is the moment of the snapshot. The guest must stand still now, and
    /// may go on as soon as this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`]; the memory is not protected then.
    pub fn protect(self) -> Result<BackgroundSnapshot, Error> {
        let Self { shared, options } = self;
        for Pages { region, .. } in &*shared.pages {
            // After an error everything is unprotected by closing the descriptor.
            shared.userfault.write_protect(region, 0, region.length(), true).map_err(at("protect memory"))?;
        }
        let remaining = shared.pages.iter().map(Pages::count).sum();
        let shared = Arc::new(shared);
        let handler = match options.strategy {
            Strategy::Priority => None,
            Strategy::Copy { .. } => {
                let shared = Arc::clone(&shared);
                let thread = std::thread::Builder::new().name("write-faults".to_owned());
                Some(thread.spawn(move || run(&shared)).map_err(at("start a thread"))?)
            }
        };
        Ok(BackgroundSnapshot {
            shared,
            handler,
            options,
            cursor: PageId { region: 0, page: 0 },
            remaining,
            held: None,
            faults: Vec::new(),
            urgent: VecDeque::new(),
            fault_count: 0,
        })
    }
}

/// Protected memory whose pages are being taken.
///
/// Dropping it releases all threads that wait for a page, whatever was taken.
#[derive(Debug)]
pub struct BackgroundSnapshot {
    shared: Arc<Shared>,
    handler: Option<JoinHandle<()>>,
    options: Options,
    cursor: PageId,
    /// Pages that have not been handed to the caller.
    remaining: usize,
    /// Handed out and still protected.
    held: Option<Run>,
    faults: Vec<Fault>,
    urgent: VecDeque<PageId>,
    fault_count: u64,
}

impl BackgroundSnapshot {
    /// Takes the next pages, every page once, and puts their bytes into `data`; `None` after the last one.
    ///
    /// With strategy *priority* they stay protected until [`release`](Self::release) or the next call.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`]. The snapshot is lost, and to be dropped.
    pub fn next_run(&mut self, data: &mut Vec<u8>) -> Result<Option<Run>, Error> {
        self.release()?;
        if self.remaining == 0 {
            return Ok(None);
        }
        let run = match self.options.strategy {
            Strategy::Priority => self.next_by_priority(data)?,
            Strategy::Copy { .. } => self.next_with_copies(data)?,
        };
        self.remaining -= run.length / self.shared.pages[run.region].region.page_size();
        Ok(Some(run))
    }

    /// The bytes of the last run are where they should be: whoever waits for these pages may write them.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`].
    pub fn release(&mut self) -> Result<(), Error> {
        let Some(run) = self.held.take() else { return Ok(()) };
        let region = &self.shared.pages[run.region].region;
        self.shared
            .userfault
            .write_protect(region, run.offset, run.length, false)
            .map_err(at("unprotect saved pages"))
    }

    /// Shows other threads what is not taken yet.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared.pages))
    }

    /// Pages that are still to come.
    #[must_use]
    pub fn remaining_pages(&self) -> usize {
        self.remaining
    }

    /// What it took so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let handover = self.shared.pool.lock();
        Counters {
            faults: handover.faults + self.fault_count,
            pool_full: handover.pool_full,
            pool_peak_pages: handover.peak_pages,
        }
    }

    fn next_by_priority(&mut self, data: &mut Vec<u8>) -> Result<Run, Error> {
        self.shared.userfault.read_faults(&mut self.faults).map_err(at("read write faults"))?;
        for fault in self.faults.drain(..) {
            // A page that was taken meanwhile is unprotected already: the report was late.
            let unsaved = find(&self.shared.pages, fault.address)
                .filter(|id| !self.shared.pages[id.region].is_taken(id.page));
            if let Some(id) = unsaved {
                self.fault_count += 1;
                self.urgent.push_back(id);
            }
        }
        while let Some(id) = self.urgent.pop_front() {
            if self.shared.pages[id.region].take(id.page) {
                return Ok(self.hand_out(id, 1, Cause::WriteFault, data));
            }
        }
        self.scan(data).ok_or_else(|| at("pages left, but none untaken")(std::io::ErrorKind::Other.into()))
    }

    fn next_with_copies(&mut self, data: &mut Vec<u8>) -> Result<Run, Error> {
        loop {
            let mut handover = self.shared.pool.lock();
            if let Some(failure) = handover.failure.take() {
                return Err(failure);
            }
            if let Some(id) = handover.urgent.pop_front() {
                drop(handover);
                if self.shared.pages[id.region].take(id.page) {
                    let run = self.hand_out(id, 1, Cause::WriteFault, data);
                    self.release()?;
                    return Ok(run);
                }
                continue;
            }
            if let Some((id, copy)) = handover.copies.pop_front() {
                let page_size = self.shared.pages[id.region].region.page_size();
                data.clear();
                data.extend_from_slice(&copy[..page_size]);
                handover.recycle(copy);
                let cause = Cause::WriteFault;
                return Ok(Run { region: id.region, offset: id.page * page_size, length: page_size, cause });
            }
            drop(handover);
            if let Some(run) = self.scan(data) {
                // The bytes are safe with the caller, so no thread has to wait for them any more.
                self.release()?;
                return Ok(run);
            }
            // The rest is being copied by the handler.
            drop(self.shared.pool.wait());
        }
    }

    /// The next untaken pages in order.
    fn scan(&mut self, data: &mut Vec<u8>) -> Option<Run> {
        let shared = Arc::clone(&self.shared);
        while let Some(pages) = shared.pages.get(self.cursor.region) {
            let most = (self.options.run_bytes / pages.region.page_size()).max(1);
            while self.cursor.page < pages.count() {
                let first = self.cursor;
                let taken =
                    (first.page..pages.count()).take(most).take_while(|&page| pages.take(page)).count();
                // A page that ends the run belongs to another thread.
                self.cursor.page += taken.max(1);
                if taken > 0 {
                    return Some(self.hand_out(first, taken, Cause::Background, data));
                }
            }
            self.cursor = PageId { region: self.cursor.region + 1, page: 0 };
        }
        None
    }

    /// Reads pages that were taken, and holds them.
    fn hand_out(&mut self, first: PageId, count: usize, cause: Cause, data: &mut Vec<u8>) -> Run {
        let region = &self.shared.pages[first.region].region;
        let page_size = region.page_size();
        let (offset, length) = (first.page * page_size, count * page_size);
        data.resize(length, 0);
        region.read(offset, data);
        let run = Run { region: first.region, offset, length, cause };
        self.held = Some(run);
        run
    }
}

impl Drop for BackgroundSnapshot {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            // Both can fail only if the handler is gone already.
            let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
            let _ = handler.join();
        }
        // Now the last owner of the descriptor goes: the kernel unprotects what still is, and wakes
        // who waits.
    }
}
