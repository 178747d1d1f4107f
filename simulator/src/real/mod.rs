//! The real world: memory, threads, userfaultfd, pipes and sockets.
//!
//! | need | use |
//! | --- | --- |
//! | a VM that writes its stream while its guest works | [`source::run`] |
//! | a VM that loads a stream and runs a guest on it | [`destination::run`] |
//! | to meet the other end | [`Address`] |
//! | an end that misbehaves | [`Fault`] |
//!
//! Both ends have blocking threads, as QEMU has; whatever may wait for the peer ends after a timeout.

mod backend;
pub mod bitmaps;
mod channel;
pub mod destination;
mod devices;
mod digest;
mod error;
mod faults;
mod guest;
mod memory;
mod report;
pub mod source;
mod stream;
mod vcpus;
mod workload;

pub use backend::FileBackend;
pub use channel::{Address, Connection, Input, Listener, Output};
pub use digest::{Digest, DigestError, page_checksum};
pub use error::Error;
pub use faults::{Fault, Faults};
pub use memory::{Block, GuestMemory, MemoryKind, TARGET_PAGE_BYTES, is_zero};
pub use report::{Report, Times};
pub use vcpus::{Access, Load, Vcpus};
pub use workload::Workload;
