//! The snapshot image: a QCOW2 file in which every page of RAM has a fixed place and a checksum.
//!
//! Pure: no file is opened here. A reader or an [`Inspector`] says which bytes of the file it needs, and gets them
//! supplied; a [`SnapshotWriter`] says what to write and when to flush.
//!
//! | need | use |
//! | --- | --- |
//! | may a snapshot be written into this file? | [`Inspector`] |
//! | write one | [`SnapshotWriter`], whose module documents the commit protocol |
//! | read one | [`SnapshotReader`] |
//!
//! # What lies where
//!
//! | in the virtual disk | what |
//! | --- | --- |
//! | 0 | RAM blocks in the order of the stream's list, each at the next 1 MiB ([`RamLayout`]); zero pages take no space |
//! | start of the VM-state area (`vm_state_start` of [`Geometry`]) | header, leader, third region, device tail ([`VmState`]) |
//! | half an L1 entry's span behind that | the extension: root, leaves and index pages of the page checksums |
//!
//! The QCOW2 header has an extension of ours that leads to the root, and an autoclear feature bit that a program which
//! does not know us clears when it writes. Checksums are CRC-32C: they detect accidents, not malice.
#![forbid(unsafe_code)]

mod checksum;
mod disk;
mod error;
mod feature;
mod geometry;
mod inbox;
mod index;
mod inspect;
mod layout;
mod open;
mod qcow2;
mod reader;
mod root;
mod size;
mod types;
mod vm_state;
mod writer;

pub use checksum::crc32c;
pub use disk::Extent;
pub use error::ImageError;
pub use feature::Feature;
pub use geometry::Geometry;
pub use inbox::Lookup;
pub use index::PageIndex;
pub use inspect::{Container, Inspect, Inspection, Inspector};
pub use layout::{ImageBlock, PresentPage, RamLayout};
pub use open::Opener;
pub use reader::{ReadOptions, Snapshot, SnapshotReader, Verification};
pub use types::{ALIGNMENT_BYTES, GuestOffset, HostOffset, Identity};
pub use vm_state::{Form, VmState};
pub use writer::{Reserved, Sealed, SnapshotWriter, Step, Steps};
