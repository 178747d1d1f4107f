//! Both ends of a migration without QEMU: generated VMs with their streams, and a simulated disk and channel.
//!
//! | need | use |
//! | --- | --- |
//! | a VM of any kind, its stream, and what must come out in the end | [`Vm`] |
//! | to drive the engine's machines under one seed, with faults | [`World`] |
//! | the other end of a revert, with a guest that touches pages | [`Destination`] |
//!
//! `cargo demo` saves and reverts a generated VM for real. A source and a destination with real page faults are still to
//! come.
#![forbid(unsafe_code)]

mod destination;
mod disk;
mod generate;
mod rng;
mod world;

pub use destination::{Destination, DestinationConfig, Violation};
pub use disk::SimFile;
pub use generate::{Style, Vm, VmConfig};
pub use rng::Rng;
pub use world::{Fault, World};
