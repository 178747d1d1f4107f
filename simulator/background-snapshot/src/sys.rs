//! The kernel's side: mappings, accesses to memory that others write, and userfaultfd. The only
//! `unsafe` of the crate.
#![allow(unsafe_code, reason = "memory that is shared with a guest, and ioctls")]

mod userfault;

pub use userfault::{Fault, Userfault};

use linux_raw_sys::general::uffdio_range;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What a [`Mapping`] is made of.
#[derive(Debug)]
pub enum Backing<'a> {
    /// Private anonymous memory: a guest's RAM, usually.
    Anonymous,
    /// Shared memory without a name (memfd), as QEMU's `memory-backend-memfd`.
    Shared,
    /// Private anonymous pages of 2 MiB, from the reserved pool (`vm.nr_hugepages`).
    Huge,
    /// A regular file, shared. It cannot be write-protected on most file systems.
    File(&'a File),
    /// A part of a regular file, private: what is written stays in memory, and what is not is the
    /// file's. As QEMU's `memory-backend-file` with `share=off,readonly=on,rom=off`.
    Private {
        /// Need not be open for writing.
        file: &'a File,
        /// Where in the file, in bytes: a multiple of the page size.
        offset: u64,
    },
}

/// Memory of one's own, which threads may write while others read it.
///
/// Accesses are atomic by words, so that guest and snapshot can race without undefined behaviour.
/// An access blocks as long as a page of it is write-protected or missing.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    length: usize,
    page_size: usize,
    /// Its pages live in a file, which has to forget them too.
    shared: bool,
}

// SAFETY: the mapping is owned, lives until drop, and is accessed through atomics or by the kernel only.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method hands out a reference into it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes.
    ///
    /// # Errors
    ///
    /// The kernel's; a length that is 0 or no multiple of the page size is `InvalidInput`.
    pub fn new(length: usize, backing: &Backing<'_>) -> io::Result<Self> {
        let page_size = match backing {
            Backing::Huge => HUGE_PAGE_BYTES,
            _ => rustix::param::page_size(),
        };
        if length == 0 || !length.is_multiple_of(page_size) {
            let text = format!("{length} bytes of memory, expected a multiple of its page size {page_size}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let memory = ProtFlags::READ | ProtFlags::WRITE;
        let anonymous = |flags| {
            // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, memory, flags) }
        };
        let shared = |fd: BorrowedFd<'_>| {
            // SAFETY: as above; what the file's other users do to its bytes is what the atomics are for.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, memory, MapFlags::SHARED, fd, 0) }
        };
        let private = |fd: BorrowedFd<'_>, offset| {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: as above.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, memory, flags, fd, offset) }
        };
        let address = match backing {
            Backing::Anonymous => anonymous(MapFlags::PRIVATE | MapFlags::NORESERVE)?,
            Backing::Huge => anonymous(MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB)?,
            Backing::Shared => {
                let file = rustix::fs::memfd_create("guest-ram", MemfdFlags::CLOEXEC)?;
                rustix::fs::ftruncate(&file, length as u64)?;
                shared(file.as_fd())?
            }
            Backing::File(file) => shared(file.as_fd())?,
            Backing::Private { file, offset } => private(file.as_fd(), *offset)?,
        };
        let address = NonNull::new(address.cast()).ok_or(Errno::NOMEM)?;
        let shared = matches!(backing, Backing::Shared | Backing::File(_));
        Ok(Self { address, length, page_size, shared })
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of a host page, the unit of protection and of faults.
    #[must_use]
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset < self.length,
            "word at {offset:#x} is outside or unaligned"
        );
        // SAFETY: the assertion keeps it inside the mapping, which is page-aligned, and aligned to 8.
        let pointer = unsafe { self.address.add(offset) };
        // SAFETY: valid for as long as `self` is borrowed, and only ever accessed atomically.
        unsafe { AtomicU64::from_ptr(pointer.as_ptr().cast()) }
    }

    /// Reads the word at `offset`.
    ///
    /// # Panics
    ///
    /// If it is outside of the mapping or not aligned to 8.
    #[must_use]
    pub fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// Writes the word at `offset`.
    ///
    /// # Panics
    ///
    /// As [`load`](Self::load).
    pub fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    /// Copies out of the mapping.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(
            offset.checked_add(out.len()).is_some_and(|end| end <= self.length),
            "read outside of memory"
        );
        // SAFETY: the assertion keeps it inside the mapping.
        let from = unsafe { self.address.add(offset) };
        // SAFETY: `from` is readable for `out.len()` bytes.
        unsafe { copy_out(from, out) };
    }

    /// Copies into the mapping.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(
            offset.checked_add(data.len()).is_some_and(|end| end <= self.length),
            "write outside of memory"
        );
        let aligned = offset.is_multiple_of(8);
        let (words, tail) = if aligned { data.as_chunks::<8>() } else { (&[][..], data) };
        for (number, word) in words.iter().enumerate() {
            self.store(offset + 8 * number, u64::from_ne_bytes(*word));
        }
        for (number, byte) in tail.iter().enumerate() {
            // SAFETY: the assertion above keeps it inside the mapping.
            let pointer = unsafe { self.address.add(offset + 8 * words.len() + number) };
            // SAFETY: inside of the mapping, and only ever accessed atomically.
            unsafe { AtomicU8::from_ptr(pointer.as_ptr()) }.store(*byte, Ordering::Relaxed);
        }
    }

    /// Lets the kernel write into the mapping, as device emulation does (`read(2)`); returns how
    /// many bytes it wrote.
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub fn read_from(&self, fd: impl AsFd, offset: usize, length: usize) -> io::Result<usize> {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.length), "read outside of memory");
        // SAFETY: the assertion keeps it inside the mapping.
        let to = unsafe { self.address.add(offset) };
        // SAFETY: the kernel writes at most `length` bytes there; no one holds a reference to them.
        let buffer = unsafe {
            std::slice::from_raw_parts_mut(to.as_ptr().cast::<std::mem::MaybeUninit<u8>>(), length)
        };
        let (read, _) = rustix::io::read(fd, buffer)?;
        Ok(read.len())
    }

    /// Drops the pages of a range: they are missing afterwards (`MADV_DONTNEED`, for shared memory
    /// `MADV_REMOVE`), and zero if no one handles that; of a private file they are the file's again.
    ///
    /// # Errors
    ///
    /// The kernel's, for a range that is not of whole pages too.
    ///
    /// # Panics
    ///
    /// If the range is not inside.
    pub fn discard(&self, offset: usize, length: usize) -> io::Result<()> {
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= self.length),
            "discard outside of memory"
        );
        // SAFETY: the assertion keeps it inside the mapping.
        let start = unsafe { self.address.add(offset) };
        let advice = if self.shared { Advice::LinuxRemove } else { Advice::LinuxDontNeed };
        // SAFETY: the range is ours, and no reference into it exists.
        Ok(unsafe { rustix::mm::madvise(start.as_ptr().cast(), length, advice) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` with this length, and regions of it keep it alive.
        let unmapped = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "munmap of a whole mapping");
    }
}

/// Copies memory that others may write meanwhile.
///
/// # Safety
///
/// `from` is readable for `out.len()` bytes, and written through atomics or from outside of the program only.
unsafe fn copy_out(from: NonNull<u8>, out: &mut [u8]) {
    let aligned = from.addr().get().is_multiple_of(8);
    let whole = if aligned { out.len() / 8 } else { 0 };
    let (words, tail) = out.split_at_mut(8 * whole);
    for (number, word) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: the caller's promise; aligned as checked above.
        let pointer = unsafe { from.add(8 * number) };
        // SAFETY: as above.
        let value = unsafe { AtomicU64::from_ptr(pointer.as_ptr().cast()) };
        *word = value.load(Ordering::Relaxed).to_ne_bytes();
    }
    for (number, byte) in tail.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let pointer = unsafe { from.add(8 * whole + number) };
        // SAFETY: as above.
        *byte = unsafe { AtomicU8::from_ptr(pointer.as_ptr()) }.load(Ordering::Relaxed);
    }
}

/// A piece of a guest's memory: the caller's, or a whole [`Mapping`].
#[derive(Debug, Clone)]
pub struct Region {
    address: NonNull<u8>,
    length: usize,
    page_size: usize,
    /// Keeps memory of our own mapped.
    _mapping: Option<Arc<Mapping>>,
}

// SAFETY: the memory stays mapped (the promise of `new`, or the mapping that is held), and is only
// read atomically.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Memory of the caller's.
    ///
    /// # Safety
    ///
    /// The range is mapped and readable for as long as the region and clones of it exist, and
    /// written only by atomic accesses, by the kernel, or by a guest (KVM).
    #[must_use]
    pub unsafe fn new(address: NonNull<u8>, length: usize, page_size: usize) -> Self {
        Self { address, length, page_size, _mapping: None }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address.addr().get()
    }

    /// Bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of a host page.
    #[must_use]
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Copies out of it.
    pub(crate) fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(
            offset.checked_add(out.len()).is_some_and(|end| end <= self.length),
            "read outside of a region"
        );
        // SAFETY: the assertion keeps it inside.
        let from = unsafe { self.address.add(offset) };
        // SAFETY: the promise of `new`.
        unsafe { copy_out(from, out) };
    }

    /// Has every page mapped, without changing it: the zero page where nothing was.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let start = self.address.as_ptr().cast();
        // SAFETY: the range is mapped; reading it changes nothing.
        match unsafe { rustix::mm::madvise(start, self.length, Advice::LinuxPopulateRead) } {
            // Before Linux 5.14: a byte of each page.
            Err(Errno::INVAL) => {
                let mut byte = [0];
                (0..self.length).step_by(self.page_size).for_each(|offset| self.read(offset, &mut byte));
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn range(&self, offset: usize, length: usize) -> uffdio_range {
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= self.length),
            "range outside of a region"
        );
        uffdio_range { start: (self.address() + offset) as u64, len: length as u64 }
    }
}

impl From<Arc<Mapping>> for Region {
    fn from(mapping: Arc<Mapping>) -> Self {
        let (address, length, page_size) = (mapping.address, mapping.length, mapping.page_size);
        Self { address, length, page_size, _mapping: Some(mapping) }
    }
}
