//! The page record of a `ram` section.

use super::{compressed, put_compressed_page, put_page_header, put_xbzrle_page, put_zero_page, xbzrle};
use crate::error::ErrorKind;
use crate::prelude::*;

/// A page of RAM, as one record of the stream carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<'a> {
    /// Index of its block in the block list.
    pub block: usize,
    /// Byte offset in the block.
    pub offset: u64,
    /// Whether the record names the block; otherwise it is the block of the page before (CONTINUE).
    pub named: bool,
    /// What the page contains.
    pub content: PageContent<'a>,
}

/// The form in which a record carries the content of a page (`ram_load_precopy`, migration/ram.c).
///
/// Exhaustive on purpose: a program that restores RAM must handle every form. QEMU removed forms in recent
/// releases, and adds new ones to multifd packets only ([`multifd`](super::multifd)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageContent<'a> {
    /// All bytes are zero.
    Zero,
    /// The page itself.
    Raw(&'a [u8]),
    /// The difference to the content before, for [`xbzrle::decode`].
    Xbzrle(&'a [u8]),
    /// One zlib stream, for [`compressed::inflate`] (up to QEMU 9.0).
    Zlib(&'a [u8]),
}

impl<'a> Page<'a> {
    pub(crate) fn map_bytes<'b>(self, map: &mut impl FnMut(&'a [u8]) -> &'b [u8]) -> Page<'b> {
        let Self { block, offset, named, content } = self;
        let content = match content {
            PageContent::Zero => PageContent::Zero,
            PageContent::Raw(bytes) => PageContent::Raw(map(bytes)),
            PageContent::Xbzrle(bytes) => PageContent::Xbzrle(map(bytes)),
            PageContent::Zlib(bytes) => PageContent::Zlib(map(bytes)),
        };
        Page { block, offset, named, content }
    }
}

impl<'a> PageContent<'a> {
    /// The bytes that the record carries; none for a zero page.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        match *self {
            Self::Zero => &[],
            Self::Raw(bytes) | Self::Xbzrle(bytes) | Self::Zlib(bytes) => bytes,
        }
    }

    /// Brings `page`, which has the content before this record, up to date.
    ///
    /// # Errors
    ///
    /// `Xbzrle` or `Compressed` if the bytes are no content of that form; `Value` if `page` has another
    /// length than a raw page.
    pub fn apply(&self, page: &mut [u8]) -> Result<(), ErrorKind> {
        match *self {
            Self::Zero => page.fill(0),
            Self::Raw(bytes) if bytes.len() == page.len() => page.copy_from_slice(bytes),
            Self::Raw(bytes) => {
                let found = bytes.len() as u64;
                return Err(ErrorKind::Value { what: "length of a page", found, expected: "the page size" });
            }
            Self::Xbzrle(delta) => xbzrle::decode(delta, page)?,
            Self::Zlib(zlib) => compressed::inflate(zlib, page)?,
        }
        Ok(())
    }
}

/// Writes a page record; `block` is the block's name if the record names it.
pub(crate) fn put_page(out: &mut Vec<u8>, block: Option<&[u8]>, offset: u64, content: &PageContent<'_>) {
    match content {
        PageContent::Zero => put_zero_page(out, block, offset),
        PageContent::Raw(bytes) => {
            put_page_header(out, block, offset);
            out.extend_from_slice(bytes);
        }
        PageContent::Xbzrle(delta) => put_xbzrle_page(out, block, offset, delta),
        PageContent::Zlib(zlib) => put_compressed_page(out, block, offset, zlib),
    }
}
