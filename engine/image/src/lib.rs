//! The snapshot image: a QCOW2 file in which every page of RAM has a fixed place and a checksum.
//!
//! The crate performs no I/O. A reader or an [`Inspector`] asks for the bytes of the file that it needs; a
//! [`SnapshotWriter`] says what to write and when to flush. So it runs behind io_uring, blocking files, or a
//! simulated disk that loses power.
//!
//! | need | use |
//! | --- | --- |
//! | find out whether a snapshot may be written into a file | [`Inspector`] |
//! | write one (with the commit protocol) | [`SnapshotWriter`] → [`Reserved`] → [`Sealed`] |
//! | read one by a closure | [`SnapshotReader::open_with`], [`SnapshotReader::ask_with`] |
//! | read one asynchronously | [`Opener`] → [`SnapshotReader`]; each question returns a [`Lookup`] |
//! | know where a page lies, and verify it | [`RamLayout`] |
//!
//! # Who verifies what
//!
//! The reader verifies everything that it reads before it returns anything of it: the header, the root, the
//! sections before and behind RAM, the index of the pages, each QCOW2 table that it follows;
//! [`SnapshotReader::finish`] verifies the tables that nothing needed. It never reads a page. **Whoever reads
//! a page verifies it**, with [`RamLayout::verify_page`] and the checksum that [`SnapshotReader::present`]
//! returned for it. A page that the index does not have is zero.
//!
//! An image whose checksums do not count is refused, unless [`ReadOptions::allow_unverified`] is set. One
//! that was made by a tool without checksums is read, and its [`Snapshot::verification`] says so.
//!
//! # Example
//!
//! A guest of ten pages, of which one is not zero, is saved into a file in memory; the page is read back and
//! verified.
//!
//! ```
//! use snapshot_image::{
//!     Geometry, GuestOffset, HostOffset, Identity, ImageBlock, PageIndex, RamLayout, ReadOptions,
//!     SnapshotReader, SnapshotWriter, Step, VmState, crc32c,
//! };
//! use std::io;
//! use std::sync::Arc;
//!
//! /// Does what the writer asks for.
//! fn carry_out(file: &mut Vec<u8>, steps: impl IntoIterator<Item = Step>) {
//!     for step in steps {
//!         match step {
//!             Step::Write { at: HostOffset(at), bytes } => {
//!                 let at = at as usize;
//!                 file.resize(file.len().max(at + bytes.len()), 0);
//!                 file[at..at + bytes.len()].copy_from_slice(&bytes);
//!             }
//!             Step::SetLength(length) => file.resize(length as usize, 0),
//!             // A file in memory is durable enough.
//!             Step::Ballast(_) | Step::Flush => {}
//!         }
//!     }
//! }
//!
//! let mut file = Vec::new();
//! let ram = ImageBlock { name: b"pc.ram".to_vec(), used_length: 10 * 4096, host_page_size: None };
//! let layout = RamLayout::new(vec![ram], 4096)?;
//!
//! // RAM.
//! let identity = Identity { uuid: *b"one of a kind...", created_unix_s: 1_700_000_000 };
//! let geometry = Geometry::fitting(layout.total_bytes());
//! let (mut writer, steps) = SnapshotWriter::create(geometry, layout.total_bytes(), identity)?;
//! carry_out(&mut file, steps);
//! let page = vec![7; 4096];
//! let GuestOffset(guest) = layout.guest(0, 5 * 4096);
//! let cluster = guest - guest % writer.cluster_size();
//! let HostOffset(host) = writer.host(GuestOffset(cluster))?;
//! let at = HostOffset(host + guest - cluster);
//! carry_out(&mut file, [Step::Write { at, bytes: page.clone() }]);
//! let mut index = PageIndex::new();
//! index.set(5, crc32c(&page));
//!
//! // What is before RAM in the stream, and what is behind it.
//! let vm_state = VmState {
//!     leader: b"header, configuration, block list".to_vec(),
//!     third: Vec::new(),
//!     ram_list_offset: 23,
//!     ram_start_is_last: true,
//!     footers: true,
//!     optional_fields: false,
//!     normal_pages: 1,
//! };
//! let (reserved, steps) = writer.reserve(vm_state, &layout, &Arc::new(index), 64 << 10)?;
//! carry_out(&mut file, steps);
//! let (_sealed, steps) = reserved.seal(b"device sections, end mark")?;
//! carry_out(&mut file, steps);
//!
//! // Reading: zeros behind the end of the file.
//! let read = |HostOffset(at), length| -> io::Result<Vec<u8>> {
//!     let mut bytes: Vec<u8> = file.iter().skip(at as usize).take(length).copied().collect();
//!     bytes.resize(length, 0);
//!     Ok(bytes)
//! };
//! let mut reader = SnapshotReader::open_with(file.len() as u64, ReadOptions::default(), read)?;
//! assert_eq!(reader.snapshot().tail, b"device sections, end mark");
//! let pages = reader.ask_with(read, |reader| reader.present(0, 10))?;
//! assert_eq!(pages.len(), 1, "all others are zero");
//! let guest = GuestOffset(pages[0].page * 4096);
//! let extents = reader.ask_with(read, |reader| reader.map(guest, 4096))?;
//! let bytes = read(extents[0].host.expect("a page that is not zero has a place"), 4096)?;
//! reader.layout().verify_page(&pages[0], &bytes)?;
//! assert_eq!(bytes, page);
//! reader.ask_with(read, SnapshotReader::finish)?;
//! # Ok::<_, io::Error>(())
//! ```
//!
//! `examples/read-page.rs` does the second half with a file.
//!
//! # Where things are
//!
//! | in the virtual disk | what |
//! | --- | --- |
//! | 0 | RAM blocks in the stream's order, each at the next 1 MiB; zero pages take no space |
//! | the VM-state area ([`Geometry::vm_state_start`]) | its header, then what [`Snapshot`] holds |
//! | half an L1 entry's span behind its start | root, leaves and index pages of the page checksums |
//!
//! In the file, clusters of a [`Layout::Dense`] image lie in the order in which they were written. In a
//! [`Layout::Linear`] image each RAM block lies in one piece, from [`SnapshotReader::linear_base`] on, with
//! holes for its zero pages; a guest's memory can be mapped from there. All else lies before or behind.
//!
//! The QCOW2 header has an extension of ours that leads to the root, and an autoclear feature bit that a
//! program which does not know it clears when it writes. Checksums are CRC-32C: they detect accidents, not
//! malice.
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
mod linear;
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
pub use linear::Layout;
pub use open::Opener;
pub use reader::{ReadOptions, Snapshot, SnapshotReader, Verification};
pub use types::{ALIGNMENT_BYTES, GuestOffset, HostOffset, Identity};
pub use vm_state::{Form, VmState};
pub use writer::{Reserved, Sealed, SnapshotWriter, Step, Steps};

/// The examples of README.md are run as this crate's are.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
