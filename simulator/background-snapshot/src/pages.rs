//! Who may take which page.

use crate::error::Error;
use crate::sys::Region;
use std::sync::atomic::{AtomicBool, Ordering};

/// A page of a region, by their indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageId {
    pub(crate) region: usize,
    pub(crate) page: usize,
}

/// A region and which of its pages are taken. A page is protected at least until whoever took it
/// has its bytes.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) region: Region,
    taken: Box<[AtomicBool]>,
}

impl Pages {
    pub(crate) fn count(&self) -> usize {
        self.taken.len()
    }

    /// Takes a page; false if another thread has.
    pub(crate) fn take(&self, page: usize) -> bool {
        // Acquire pairs with the release of `give_back`; the bytes themselves are ordered by the protection.
        !self.taken[page].swap(true, Ordering::AcqRel)
    }

    /// Undoes `take`.
    pub(crate) fn give_back(&self, page: usize) {
        self.taken[page].store(false, Ordering::Release);
    }

    pub(crate) fn is_taken(&self, page: usize) -> bool {
        self.taken[page].load(Ordering::Acquire)
    }
}

/// Checks regions and makes their tables.
pub(crate) fn tables(regions: Vec<Region>) -> Result<Vec<Pages>, Error> {
    let mut tables: Vec<Pages> = Vec::with_capacity(regions.len());
    for (number, region) in regions.into_iter().enumerate() {
        let (address, length, page_size) = (region.address(), region.length(), region.page_size());
        let wrong = |why| Error::Region { region: number, address, length, page_size, why };
        if !page_size.is_power_of_two() || page_size < rustix::param::page_size() {
            return Err(wrong("page size is not one of the host's"));
        }
        if length == 0 || !length.is_multiple_of(page_size) || !address.is_multiple_of(page_size) {
            return Err(wrong("not made of whole pages"));
        }
        let end = address.checked_add(length).ok_or_else(|| wrong("beyond the address space"))?;
        if tables.iter().any(|other| {
            let start = other.region.address();
            address < start + other.region.length() && start < end
        }) {
            return Err(wrong("overlaps another region"));
        }
        let taken = (0..length / page_size).map(|_| AtomicBool::new(false)).collect();
        tables.push(Pages { region, taken });
    }
    Ok(tables)
}

/// The page at an address.
pub(crate) fn find(tables: &[Pages], address: usize) -> Option<PageId> {
    tables.iter().enumerate().find_map(|(region, pages)| {
        let offset = address.checked_sub(pages.region.address())?;
        (offset < pages.region.length()).then(|| PageId { region, page: offset / pages.region.page_size() })
    })
}
