//! The QEMU migration stream: bytes to records and back.
//!
//! A virtual machine's RAM and devices leave QEMU as one stream of big-endian records. This crate is the
//! single place that knows its bytes; it performs no I/O by itself, reads no clock, and has no `unsafe`.
//!
//! | need | use |
//! | --- | --- |
//! | walk a stream that arrives piece by piece, in your own loop | [`Decoder`] and [`device_tail`] |
//! | read a stream from a file, pipe or socket | [`StreamReader`] |
//! | read a stream that is in memory | [`SliceReader`] |
//! | write one | the `put_*` functions, or [`Record::put`] |
//! | read the answers of a destination | [`return_path`] |
//! | name the bytes of device sections | [`device`] |
//! | read a multifd channel, or the block list of a mapped-ram file | [`ram::multifd`], [`ram::mapped`] |
//! | be a destination, or know what one refuses | [`protocol`] |
//!
//! The pages of each RAM block in a stream:
//!
//! ```
//! use migration_stream::{Options, Record, StreamReader, name_text};
//! use std::collections::BTreeMap;
//!
//! fn count_pages(source: impl std::io::Read) -> Result<BTreeMap<String, u64>, migration_stream::ReadError> {
//!     let mut pages = BTreeMap::new();
//!     let mut reader = StreamReader::new(source, Options::default());
//!     while let Some(entry) = reader.advance()? {
//!         if let Record::Page(page) = entry.record {
//!             let name = name_text(&entry.blocks[page.block].idstr);
//!             *pages.entry(name).or_default() += 1;
//!         }
//!     }
//!     Ok(pages)
//! }
//!
//! let packed = std::fs::read("../corpus/valid/qemu-7.2-pc.bin.zst")?;
//! let pages = count_pages(zstd::Decoder::new(&packed[..])?)?;
//! assert_eq!(pages["pc.bios"], 16);
//!
//! let error = count_pages(&b"\x1f\x8b\x08\x00"[..]).unwrap_err();
//! let text = "offset 0x0: not a migration stream: magic 0x1f8b0800 (gzip), expected 0x5145564d";
//! assert_eq!(error.to_string(), text);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a stream looks like
//!
//! A header and the *configuration*; sections, each START of which gives an id that PART and END repeat; the
//! `ram` section with a block list and pages; commands; device sections (FULL); EOF; and the *vmdesc*, JSON
//! that describes the device sections. Bodies have no lengths: a reader must know their grammar, or, for
//! device sections, have the vmdesc.
//!
//! # What it does not do
//!
//! The channels of multifd carry no names of devices and no order: putting the pages of several channels
//! together is the caller's business.
//! # Features
//!
//! The crate is `no_std` and needs `alloc`. `std` adds [`StreamReader`]; `vmdesc` adds what cuts
//! device tails ([`Vmdesc::parse`](device::Vmdesc::parse), [`device_tail::cut`]), and the readers,
//! which need it; `compress` unpacks pages that are compressed with zlib. All are on by default.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(all(feature = "std", feature = "vmdesc")),
    allow(dead_code, unused_imports, reason = "only the readers use them")
)]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

mod command;
mod configuration;
mod decoder;
pub mod device;
pub mod device_tail;
mod dirty_bitmap;
mod early;
mod error;
mod iterable;
#[cfg(feature = "vmdesc")]
mod json;
mod page_size;
mod prelude;
pub mod protocol;
pub mod ram;
#[cfg(feature = "vmdesc")]
mod reader;
mod record;
pub mod return_path;
mod section;
mod span;
mod width;

pub use command::{Command, DiscardRange, PostcopyAdvise, put_command};
pub use configuration::{Configuration, put_configuration, put_file_header};
pub use decoder::{
    ChannelKind, DEFAULT_MAX_RAM_BYTES, Decoder, DecoderBuilder, Options, Step, UNKNOWN_LENGTH,
};
pub use dirty_bitmap::{ChunkKind, DirtyBitmapChunk, put_dirty_bitmap_chunk};
pub use error::{EarlyDevicesError, Error, ErrorKind, Inside, TailError, name_text};
pub use iterable::{
    BLOCK_CHUNK_BYTES, BlockMigration, Htab, StorageAttributes, put_block_migration, put_htab,
    put_storage_attributes,
};
pub use page_size::PageSize;
pub use ram::block::{BlockList, RamBlock, put_ram_blocks};
pub use ram::page::{Page, PageContent};
pub use ram::{
    RAM_SECTION_VERSION, compressed, put_compressed_page, put_end_of_section, put_multifd_flush,
    put_page_header, put_xbzrle_page, put_zero_page, xbzrle,
};
#[cfg(feature = "vmdesc")]
pub use reader::{Entry, SliceReader};
#[cfg(all(feature = "std", feature = "vmdesc"))]
pub use reader::{ReadError, StreamReader};
pub use record::Record;
pub use section::{
    FOOTER_BYTES, QEMU_VM_EOF, SectionHeader, SectionId, VMDESC_HEADER_BYTES, put_section_end,
    put_section_footer, put_section_header, put_section_part, put_str8,
};
