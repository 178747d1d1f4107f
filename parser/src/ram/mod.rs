//! The `ram` section: flag words and what follows them.
//!
//! A body is a run of records, each a be64 whose low bits (below the page size) are flags and whose rest is
//! the page's byte offset in its block; an EOS record ends it. The block of a page is named in its record, or
//! it is the one of the record before (CONTINUE), across section boundaries.

pub mod block;
pub mod compressed;
pub mod mapped;
pub mod multifd;
pub(crate) mod page;
pub mod page_size;
pub mod xbzrle;

use crate::prelude::*;
use crate::section::{counted16, counted32, put_str8};

/// Zero page: fill byte follows.
pub const RAM_SAVE_FLAG_ZERO: u64 = 0x002;
/// The block list.
pub const RAM_SAVE_FLAG_MEM_SIZE: u64 = 0x004;
/// The page follows.
pub const RAM_SAVE_FLAG_PAGE: u64 = 0x008;
/// The body ends.
pub const RAM_SAVE_FLAG_EOS: u64 = 0x010;
/// Same block as the record before.
pub const RAM_SAVE_FLAG_CONTINUE: u64 = 0x020;
/// An XBZRLE delta follows.
pub const RAM_SAVE_FLAG_XBZRLE: u64 = 0x040;
/// One zlib stream follows (up to 9.0).
pub const RAM_SAVE_FLAG_COMPRESS_PAGE: u64 = 0x100;
/// Synchronise the multifd channels (8.1 and later).
pub const RAM_SAVE_FLAG_MULTIFD_FLUSH: u64 = 0x200;
/// The only encoding that an XBZRLE record has (`ENCODING_FLAG_XBZRLE`).
pub const ENCODING_FLAG_XBZRLE: u8 = 1;
/// Version of the section.
pub const RAM_SECTION_VERSION: u32 = 4;

fn put_flag_word(out: &mut Vec<u8>, block: Option<&[u8]>, offset: u64, flag: u64) {
    let flags = if block.is_none() { flag | RAM_SAVE_FLAG_CONTINUE } else { flag };
    out.extend_from_slice(&(offset | flags).to_be_bytes());
    if let Some(idstr) = block {
        put_str8(out, idstr);
    }
}

/// Writes the header of a page record; the page's bytes go behind it. `block` is its name where it changes.
pub fn put_page_header(out: &mut Vec<u8>, block: Option<&[u8]>, offset: u64) {
    put_flag_word(out, block, offset, RAM_SAVE_FLAG_PAGE);
}

/// Writes a zero page.
pub fn put_zero_page(out: &mut Vec<u8>, block: Option<&[u8]>, offset: u64) {
    put_flag_word(out, block, offset, RAM_SAVE_FLAG_ZERO);
    out.push(0);
}

/// Writes an XBZRLE record.
pub fn put_xbzrle_page(out: &mut Vec<u8>, block: Option<&[u8]>, offset: u64, delta: &[u8]) {
    put_flag_word(out, block, offset, RAM_SAVE_FLAG_XBZRLE);
    out.push(ENCODING_FLAG_XBZRLE);
    let (length, delta) = counted16(delta);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(delta);
}

/// Writes a compressed page.
pub fn put_compressed_page(out: &mut Vec<u8>, block: Option<&[u8]>, offset: u64, zlib: &[u8]) {
    put_flag_word(out, block, offset, RAM_SAVE_FLAG_COMPRESS_PAGE);
    let (length, zlib) = counted32(zlib);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(zlib);
}

/// Writes the record that ends a body.
pub fn put_end_of_section(out: &mut Vec<u8>) {
    out.extend_from_slice(&RAM_SAVE_FLAG_EOS.to_be_bytes());
}

/// Writes the record that synchronises multifd channels.
pub fn put_multifd_flush(out: &mut Vec<u8>) {
    out.extend_from_slice(&RAM_SAVE_FLAG_MULTIFD_FLUSH.to_be_bytes());
}
