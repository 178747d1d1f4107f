//! What can fail. An error says what was not done; its cause is its [`source`](std::error::Error::source).

use std::io;

/// What stops a background snapshot. The guest's memory is never changed by one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no userfaultfd for us.
    ///
    /// It needs root or `CAP_SYS_PTRACE`, or `sysctl vm.unprivileged_userfaultfd=1`, because the kernel's own
    /// writes to guest memory have to be caught too.
    #[error("userfaultfd")]
    Userfaultfd {
        /// Why.
        source: io::Error,
    },
    /// The kernel has no write protection by userfaultfd.
    #[error("userfaultfd has no write protection in this kernel, Linux 5.7 or later is needed")]
    NoWriteProtection,
    /// Memory that cannot be write-protected. Nothing was touched.
    #[error("region {region} ({length} bytes at {address:#x}) cannot be write-protected")]
    Unprotectable {
        /// Its index.
        region: usize,
        /// Where it is.
        address: usize,
        /// Its bytes.
        length: usize,
        /// Why.
        source: io::Error,
    },
    /// A region whose place or length is no multiple of its page size, or that overlaps another one.
    #[error("region {region} ({length} bytes at {address:#x}, pages of {page_size}): {why}")]
    Region {
        /// Its index.
        region: usize,
        /// Where it is.
        address: usize,
        /// Its bytes.
        length: usize,
        /// Bytes of its pages.
        page_size: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The kernel refused something that it should not.
    #[error("{step}")]
    Kernel {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Names the step that failed.
pub(crate) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel { step, source }
}
