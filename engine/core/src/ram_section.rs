//! The section that RAM travels in.

/// Its idstr.
pub(crate) const RAM_IDSTR: &[u8] = b"ram";
