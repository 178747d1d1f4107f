//! What can fail.

use std::io;

/// What stops a background snapshot. The guest's memory is never changed by one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no userfaultfd for us.
    #[error(
        "userfaultfd: {error} (it needs root or CAP_SYS_PTRACE, or sysctl vm.unprivileged_userfaultfd=1, for \
         the kernel's own writes to guest memory have to be caught too)"
    )]
    Userfaultfd {
        /// Why.
        error: io::Error,
    },
    /// The kernel has no write protection by userfaultfd.
    #[error("userfaultfd has no write protection in this kernel, Linux 5.7 or later is needed")]
    NoWriteProtection,
    /// Memory that cannot be write-protected. Nothing was touched.
    #[error("region {region} ({length} bytes at {address:#x}) cannot be write-protected: {error}")]
    Unprotectable {
        /// Its index.
        region: usize,
        /// Where it is.
        address: usize,
        /// Its bytes.
        length: usize,
        /// Why.
        error: io::Error,
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
    #[error("{step}: {error}")]
    Kernel {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        error: io::Error,
    },
}

/// Names the step that failed.
pub(crate) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Kernel { step, error }
}
