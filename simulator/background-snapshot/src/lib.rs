//! The RAM of a running virtual machine, as it was at one moment.
//!
//! The guest is stopped for as long as it takes to write-protect its memory
//! ([`Prepared::protect`]); then it goes on, while [`BackgroundSnapshot::next_run`] hands out page
//! after page with the bytes of that moment. A page that the guest wants to write first is copied,
//! or handed out next ([`Strategy`]).
//!
//! | need | use |
//! | --- | --- |
//! | a snapshot of memory of your own VMM | [`Region::new`], [`Prepared`], [`BackgroundSnapshot`] |
//! | memory to try it with | [`Mapping`] |
//! | page faults of the other kind (missing pages, for postcopy) | [`Userfault`] |
//!
//! ```
//! use background_snapshot::{Backing, Mapping, Options, Prepared};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ram = Arc::new(Mapping::new(1 << 20, &Backing::Anonymous)?);
//! ram.store(0x1000, 1);
//! let prepared = match Prepared::new(vec![ram.clone().into()], Options::default()) {
//!     Err(background_snapshot::Error::Userfaultfd { source }) => {
//!         return Ok(eprintln!("skipped: no userfaultfd: {source}"));
//!     }
//!     other => other?,
//! };
//! // Stop the guest here,
//! let mut snapshot = prepared.protect()?;
//! // and let it go on.
//! ram.store(0x1000, 2);
//! let (mut saved, mut data) = (vec![0; ram.length()], Vec::new());
//! while let Some(run) = snapshot.next_run(&mut data)? {
//!     saved[run.offset..][..run.length].copy_from_slice(&data);
//! }
//! assert_eq!(saved[0x1000..0x1008], 1u64.to_ne_bytes());
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! Pages that are dropped during the snapshot (`madvise`, a balloon) are lost to it: stop that
//! before. Devices that write memory past the page tables of this process (VFIO) are not seen.
#![deny(unsafe_code)]

mod error;
mod handler;
mod pages;
mod pool;
mod snapshot;
mod sys;

/// The program of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use error::Error;
pub use snapshot::{
    BackgroundSnapshot, Cause, Counters, Options, Prepared, Run, Strategy, Unpopulated, Watch,
};
pub use sys::{Backing, Fault, Mapping, Region, Userfault};
