//! Placeholder front page; written with the crate.

/// An offset into the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostOffset(pub u64);
