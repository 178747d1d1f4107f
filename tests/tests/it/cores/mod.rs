//! `snapinspect extract --core` against QEMU's own `dump-guest-memory` of the same stopped guest.

mod elf;
mod memory;
