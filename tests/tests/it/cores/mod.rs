//! `snapinspect extract --core` against QEMU's own `dump-guest-memory` of the same stopped guest.

mod boot;
mod elf;
mod linux;
mod memory;
