//! `qemu-args`: how a QEMU is started whose guest runs from an image's memory.
//!
//! A memory backend's id is the name of its RAM block (`host_memory_backend_memory_complete`,
//! backends/hostmem.c), which has to be that of the snapshot. Machine types up to 3.1 name such blocks by the
//! object's path (`hw_compat_3_1`, `x-use-canonical-path-for-ramblock-id`); the property says otherwise.

mod plan;
mod script;
mod version;

pub(crate) use plan::{Plan, Wishes, unknown_machine};
pub(crate) use script::script;
pub use version::Version;

#[cfg(test)]
mod tests;
