//! Both ends of a migration without QEMU: generated VMs with their streams, and a simulated disk and channel.
//!
//! | need | use |
//! | --- | --- |
//! | a VM of any kind, its stream, and what must come out in the end | [`Vm`] |
//! | to drive the engine's machines under one seed, with faults | [`World`] |
//! | the other end of a revert, with a guest that touches pages | [`Destination`] |
//! | all of this by the thousand, with faults | [`explore`] |
//! | a source or a destination with real memory, threads and page faults | [`real`] |
//!
//! The binary `snapsim` is the last of these for the command line. `cargo demo` shows everything together.
#![forbid(unsafe_code)]

mod checks;
mod destination;
mod disk;
pub mod explore;
mod generate;
pub mod real;
mod rng;
mod size;
mod trace;
mod world;

pub use checks::{Invariant, Violation, mapped_view};
pub use destination::{Destination, DestinationConfig, PreemptEnd};
pub use disk::SimFile;
pub use generate::{Style, Vm, VmConfig};
pub use rng::Rng;
pub use trace::Trace;
pub use world::{Fault, Planted, World};
