//! `snapinspect extract --core` against QEMU's own `dump-guest-memory` of the same stopped guest.

pub(crate) mod boot;
mod elf;
mod linux;
mod memory;
