//! userfaultfd: pages that are missing or write-protected.

use super::Region;
use linux_raw_sys::general::{
    _UFFDIO_WRITEPROTECT, UFFD_API, UFFD_EVENT_PAGEFAULT, UFFD_PAGEFAULT_FLAG_WP, UFFD_USER_MODE_ONLY,
    UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP, uffdio_api, uffdio_copy, uffdio_register,
    uffdio_writeprotect, uffdio_zeropage,
};
use linux_raw_sys::ioctl::{
    UFFDIO_API, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT,
    UFFDIO_ZEROPAGE,
};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl};
use rustix::mm::UserfaultfdFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `UFFDIO_WRITEPROTECT_MODE_WP` (linux/userfaultfd.h); linux-raw-sys leaves out macros with casts.
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1;
/// `sizeof(struct uffd_msg)`.
const MESSAGE_BYTES: usize = 32;
/// Events taken with one read.
const EVENTS: usize = 16;

/// A fault that the kernel reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The page's address (of the base page, also in huge pages).
    pub address: usize,
    /// A write to a protected page; otherwise the page is missing.
    pub write_protect: bool,
}

/// A userfaultfd.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    features: u64,
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Has `place` fill what is missing, from the bytes on that are done already, until it was not
/// interrupted. False if a page is there already.
fn until_placed(length: usize, mut place: impl FnMut(usize) -> (Result<(), Errno>, i64)) -> io::Result<bool> {
    let mut done = 0;
    while done < length {
        match place(done) {
            (Ok(()), _) => break,
            // Interrupted; the kernel says how much was placed.
            // A negative number: nothing was.
            (Err(Errno::AGAIN), placed) => {
                if let Ok(placed) = usize::try_from(placed) {
                    done += placed;
                }
            }
            (Err(Errno::EXIST), _) => return Ok(false),
            (Err(error), _) => return Err(error.into()),
        }
    }
    Ok(true)
}

impl Userfault {
    /// Opens one with the features `wanted`, as far as the kernel has them.
    ///
    /// # Errors
    ///
    /// The kernel's: `PermissionDenied` without the right to handle faults of the kernel.
    pub fn open(wanted: u32) -> io::Result<Self> {
        Self::open_with(wanted, UserfaultfdFlags::empty())
    }

    /// Opens one that needs no right, because faults of the kernel (a `read(2)` into the memory)
    /// fail instead of waiting.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn open_user_mode(wanted: u32) -> io::Result<Self> {
        Self::open_with(wanted, UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY))
    }

    fn open_with(wanted: u32, flags: UserfaultfdFlags) -> io::Result<Self> {
        // The kernel answers with all features that it has, whatever is switched on; and only the
        // first handshake of a descriptor counts.
        let (_, supported) = Self::handshake(0, flags)?;
        let features = u64::from(wanted) & supported;
        let (fd, _) = Self::handshake(features, flags)?;
        Ok(Self { fd, features })
    }

    fn handshake(features: u64, flags: UserfaultfdFlags) -> io::Result<(OwnedFd, u64)> {
        let flags = flags | UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: memory changes only through the ioctls below, each of which says why it is sound.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }?;
        let mut api = uffdio_api { api: u64::from(UFFD_API), features, ioctls: 0 };
        // SAFETY: UFFDIO_API takes this structure.
        let request = unsafe { Updater::<{ UFFDIO_API }, _>::new(&mut api) };
        // SAFETY: it changes nothing but the structure.
        unsafe { ioctl(&fd, request) }?;
        Ok((fd, api.features))
    }

    /// Whether a feature is on.
    #[must_use]
    pub fn has(&self, feature: u32) -> bool {
        self.features & u64::from(feature) != 0
    }

    /// Has faults in the region reported: of pages that are missing, or of writes to protected pages.
    ///
    /// # Errors
    ///
    /// The kernel's; `Unsupported` if the memory is of a kind that cannot be protected.
    pub fn register(&self, region: &Region, write_protect: bool) -> io::Result<()> {
        let mode = if write_protect { UFFDIO_REGISTER_MODE_WP } else { UFFDIO_REGISTER_MODE_MISSING };
        let range = region.range(0, region.length);
        let mut argument = uffdio_register { range, mode: u64::from(mode), ioctls: 0 };
        // SAFETY: UFFDIO_REGISTER takes this structure.
        let request = unsafe { Updater::<{ UFFDIO_REGISTER }, _>::new(&mut argument) };
        // SAFETY: the range is the region's; accesses may block from now on, but find the same bytes.
        unsafe { ioctl(&self.fd, request) }?;
        if write_protect && argument.ioctls & (1 << _UFFDIO_WRITEPROTECT) == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }

    /// Protects pages against writing, or ends that and wakes who waits.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn write_protect(&self, region: &Region, offset: usize, length: usize, on: bool) -> io::Result<()> {
        let mode = if on { UFFDIO_WRITEPROTECT_MODE_WP } else { 0 };
        loop {
            let mut argument = uffdio_writeprotect { range: region.range(offset, length), mode };
            // SAFETY: UFFDIO_WRITEPROTECT takes this structure.
            let request = unsafe { Updater::<{ UFFDIO_WRITEPROTECT }, _>::new(&mut argument) };
            // SAFETY: the range is the region's, and its bytes do not change.
            match unsafe { ioctl(&self.fd, request) } {
                // The layout of the address space is just changing (a fork, for instance).
                Err(Errno::AGAIN) => std::thread::yield_now(),
                other => return Ok(other?),
            }
        }
    }

    /// Places pages that are missing, atomically, and wakes who waits. False if a page is there already.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn copy(&self, region: &Region, offset: usize, data: &[u8]) -> io::Result<bool> {
        until_placed(data.len(), |done| {
            let range = region.range(offset + done, data.len() - done);
            let source = data[done..].as_ptr().addr() as u64;
            let mut argument =
                uffdio_copy { dst: range.start, src: source, len: range.len, mode: 0, copy: 0 };
            // SAFETY: UFFDIO_COPY takes this structure.
            let request = unsafe { Updater::<{ UFFDIO_COPY }, _>::new(&mut argument) };
            // SAFETY: it fills missing pages of the region only, which no one can have read yet,
            // from readable bytes.
            let result = unsafe { ioctl(&self.fd, request) };
            (result, argument.copy)
        })
    }

    /// Places zero pages where they are missing, and wakes who waits. False if a page is there already.
    ///
    /// # Errors
    ///
    /// The kernel's: huge pages have no zero page.
    pub fn zero_page(&self, region: &Region, offset: usize, length: usize) -> io::Result<bool> {
        until_placed(length, |done| {
            let range = region.range(offset + done, length - done);
            let mut argument = uffdio_zeropage { range, mode: 0, zeropage: 0 };
            // SAFETY: UFFDIO_ZEROPAGE takes this structure.
            let request = unsafe { Updater::<{ UFFDIO_ZEROPAGE }, _>::new(&mut argument) };
            // SAFETY: it fills missing pages of the region only.
            let result = unsafe { ioctl(&self.fd, request) };
            (result, argument.zeropage)
        })
    }

    /// Has no more faults of the region reported, and wakes who waits: missing pages are zero from now on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn unregister(&self, region: &Region) -> io::Result<()> {
        let mut range = region.range(0, region.length);
        // SAFETY: UFFDIO_UNREGISTER takes this structure.
        let request = unsafe { Updater::<{ UFFDIO_UNREGISTER }, _>::new(&mut range) };
        // SAFETY: the range is the region's; accesses to it go on as if it had never been registered.
        Ok(unsafe { ioctl(&self.fd, request) }?)
    }

    /// Wakes who waits for a page of the range, to try again.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn wake(&self, region: &Region, offset: usize, length: usize) -> io::Result<()> {
        let mut range = region.range(offset, length);
        // SAFETY: UFFDIO_WAKE takes this structure.
        let request = unsafe { Updater::<{ UFFDIO_WAKE }, _>::new(&mut range) };
        // SAFETY: it changes no memory.
        Ok(unsafe { ioctl(&self.fd, request) }?)
    }

    /// Takes the faults that are there, without waiting.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn read_faults(&self, faults: &mut Vec<Fault>) -> io::Result<()> {
        let mut buffer = [0u8; EVENTS * MESSAGE_BYTES];
        loop {
            let length = match rustix::io::read(&self.fd, &mut buffer) {
                Ok(length) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            // event (u8), 7 reserved bytes, flags (u64), address (u64), in the host's order.
            let (messages, _) = buffer[..length].as_chunks::<MESSAGE_BYTES>();
            for message in messages {
                let (words, _) = message.as_chunks::<8>();
                if u32::from(message[0]) == UFFD_EVENT_PAGEFAULT {
                    let flags = u64::from_ne_bytes(words[1]);
                    let write_protect = flags & u64::from(UFFD_PAGEFAULT_FLAG_WP) != 0;
                    faults.push(Fault { address: usize::from_ne_bytes(words[2]), write_protect });
                }
            }
            if messages.len() < EVENTS {
                return Ok(());
            }
        }
    }
}
