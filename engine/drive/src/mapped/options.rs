//! What the command line says of a mapped revert.

use clap::ValueEnum;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Which blocks are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// Each that the destination has mapped from the image; one at least.
    Mapped,
    /// Those with these names.
    Named(Vec<Vec<u8>>),
}

impl Blocks {
    /// Reads names between commas; no name at all: each that is mapped.
    ///
    /// # Errors
    ///
    /// A name is empty.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self::Mapped);
        }
        let names: Vec<_> = text.as_bytes().split(|&byte| byte == b',').map(<[u8]>::to_vec).collect();
        if names.iter().any(Vec::is_empty) {
            return Err("expected names of RAM blocks, as in pc.ram,dimm0");
        }
        Ok(Self::Named(names))
    }
}

/// When the pages of mapped blocks are compared with their checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// Before a byte is sent, unless this state of the image was verified already
    Before,
    /// While the guest runs; damage is named, and the exit status is 1
    After,
    /// Not at all
    No,
}
