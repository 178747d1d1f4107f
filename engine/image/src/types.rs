//! Offsets that cannot be mistaken for each other, and what identifies a snapshot.

/// An offset into the image file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostOffset(pub u64);

/// An offset into the virtual disk (and the VM-state area behind it), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestOffset(pub u64);

/// Metadata is read and written in multiples of this many bytes: what `O_DIRECT` needs.
pub const ALIGNMENT_BYTES: u64 = 4096;

/// What makes a snapshot this one and no other. The caller chooses both: this crate has no clock
/// and no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// When it was made: seconds since 1970.
    pub created_unix_s: u64,
}
