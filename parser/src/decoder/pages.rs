//! The body of the `ram` section: block list and page records.

use super::{Decoder, Grammar, SectionType, State, UNKNOWN_LENGTH};
use crate::error::ErrorKind;
use crate::ram::block::{BlockListContext, RamBlock, block_list};
use crate::ram::page::{Page, PageContent};
use crate::ram::{
    ENCODING_FLAG_XBZRLE, RAM_SAVE_FLAG_COMPRESS_PAGE, RAM_SAVE_FLAG_CONTINUE, RAM_SAVE_FLAG_EOS,
    RAM_SAVE_FLAG_MEM_SIZE, RAM_SAVE_FLAG_MULTIFD_FLUSH, RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_XBZRLE,
    RAM_SAVE_FLAG_ZERO, compressed,
};
use crate::record::Record;
use crate::section::str8;
use crate::span::{Parsed, Span, take};
use nom::Parser;
use nom::number::streaming::{be_u8, be_u16, be_u32, be_u64};

/// The most blocks that are learned from their names.
pub(super) const LEARNED_LIMIT: usize = 1 << 16;

/// What is before the data of such a page: offset and flags.
pub(super) const PLAIN_HEADER_BYTES: usize = 8;

impl Decoder {
    /// The record that a stream consists of: a page of the same block as before. Everything else, and
    /// everything wrong, is left to the general way.
    #[inline]
    pub(crate) fn plain_page<'a>(&mut self, input: &'a [u8]) -> Option<Page<'a>> {
        if !matches!(self.state, State::Body { grammar: Grammar::Ram, .. }) {
            return None;
        }
        let (word, rest) = input.split_first_chunk::<PLAIN_HEADER_BYTES>()?;
        let word = u64::from_be_bytes(*word);
        let mask = u64::from(self.page_size) - 1;
        if word & mask != RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE {
            return None;
        }
        let block = self.current_block?;
        let offset = word & !mask;
        if offset >= self.blocks[block].used_length {
            return None;
        }
        let data = rest.get(..usize::from(self.page_size))?;
        self.offset += PLAIN_HEADER_BYTES as u64 + data.len() as u64;
        Some(Page { block, offset, named: false, content: PageContent::Raw(data) })
    }

    /// A record of the `ram` section's body.
    pub(super) fn ram<'a>(&mut self, input: Span<'a>, kind: SectionType) -> Parsed<'a, Record<'a>> {
        let (rest, word) = be_u64.parse(input)?;
        let mask = u64::from(self.page_size) - 1;
        let (flags, offset) = (word & mask, word & !mask);
        let (page_size, page_size_guessed) = (self.page_size.bytes(), self.page_size_guessed);
        let unknown = || input.reject(ErrorKind::PageFlags { flags, page_size, page_size_guessed });
        match flags & !RAM_SAVE_FLAG_CONTINUE {
            RAM_SAVE_FLAG_EOS if word == RAM_SAVE_FLAG_EOS => Ok((rest, Record::RamEndOfSection)),
            RAM_SAVE_FLAG_MULTIFD_FLUSH if word == RAM_SAVE_FLAG_MULTIFD_FLUSH => {
                Ok((rest, Record::RamMultifdFlush))
            }
            RAM_SAVE_FLAG_MEM_SIZE if flags == RAM_SAVE_FLAG_MEM_SIZE => {
                if !self.blocks.is_empty() || kind != SectionType::Start {
                    return Err(input.reject(ErrorKind::SecondBlockList));
                }
                let (rest, list) = block_list(rest, offset, self.block_list_context())?;
                self.set_blocks(list.blocks.clone());
                Ok((rest, Record::RamBlocks(list)))
            }
            kind @ (RAM_SAVE_FLAG_ZERO
            | RAM_SAVE_FLAG_PAGE
            | RAM_SAVE_FLAG_XBZRLE
            | RAM_SAVE_FLAG_COMPRESS_PAGE) => {
                self.page(input, rest, kind, offset, flags & RAM_SAVE_FLAG_CONTINUE == 0)
            }
            _ => Err(unknown()),
        }
    }

    /// What is known by now of a block list that comes.
    pub(super) fn block_list_context(&self) -> BlockListContext {
        BlockListContext {
            page_size: self.page_size,
            page_size_guessed: self.page_size_guessed,
            advised: self.advised,
            ignore_shared: self.configuration.as_ref().is_some_and(|c| c.has_capability("x-ignore-shared")),
            max_ram_bytes: self.options.max_ram_bytes,
        }
    }

    /// Takes a name into the block list; returns its index.
    pub(super) fn learn_block(&mut self, name: &[u8]) -> usize {
        let place = match self.block_named(name) {
            Ok(block) => return block,
            Err(place) => place,
        };
        let block = self.blocks.len();
        self.by_name.insert(place, block);
        self.blocks.push(RamBlock {
            idstr: name.to_vec(),
            used_length: UNKNOWN_LENGTH,
            host_page_size: None,
            guest_physical_address: None,
        });
        block
    }

    fn page<'a>(
        &mut self,
        input: Span<'a>,
        rest: Span<'a>,
        kind: u64,
        offset: u64,
        named: bool,
    ) -> Parsed<'a, Record<'a>> {
        if self.blocks.is_empty() && !self.learns_blocks {
            return Err(input.reject(ErrorKind::PageBeforeBlocks));
        }
        let (rest, block) = if named {
            let (after, name) = str8(rest)?;
            let block = match self.block_named(name) {
                Ok(block) => block,
                Err(_) if self.learns_blocks && !name.is_empty() && self.blocks.len() < LEARNED_LIMIT => {
                    self.learn_block(name)
                }
                Err(_) => return Err(rest.reject(ErrorKind::UnknownBlock { name: name.to_vec() })),
            };
            (after, block)
        } else {
            (rest, self.current_block.ok_or_else(|| input.reject(ErrorKind::ContinueFirst))?)
        };
        let length = self.blocks[block].used_length;
        if offset >= length {
            let name = self.blocks[block].idstr.clone();
            return Err(input.reject(ErrorKind::PageOutside { name, found: offset, length }));
        }
        let (rest, content) = match kind {
            RAM_SAVE_FLAG_ZERO => {
                let (after, fill) = be_u8.parse(rest)?;
                if fill != 0 {
                    return Err(rest.reject(ErrorKind::ZeroFill { found: fill }));
                }
                (after, PageContent::Zero)
            }
            RAM_SAVE_FLAG_PAGE => {
                let (after, data) = take(rest, usize::from(self.page_size))?;
                (after, PageContent::Raw(data))
            }
            RAM_SAVE_FLAG_XBZRLE => {
                let (at_length, encoding) = be_u8.parse(rest)?;
                if encoding != ENCODING_FLAG_XBZRLE {
                    let found = u64::from(encoding);
                    return Err(rest.reject(ErrorKind::Value {
                        what: "XBZRLE encoding",
                        found,
                        expected: "1",
                    }));
                }
                let (after, length) = be_u16.parse(at_length)?;
                if u32::from(length) > self.page_size.bytes() {
                    let (found, limit) = (u64::from(length), u64::from(self.page_size));
                    return Err(at_length.reject(ErrorKind::Limit { what: "XBZRLE length", found, limit }));
                }
                let (after, data) = take(after, usize::from(length))?;
                (after, PageContent::Xbzrle(data))
            }
            _ => {
                let (after, length) = be_u32.parse(rest)?;
                let limit = compressed::bound(self.page_size.bytes());
                if length > limit || length == 0 {
                    let (found, limit) = (u64::from(length), u64::from(limit));
                    return Err(rest.reject(ErrorKind::Limit {
                        what: "compressed page length",
                        found,
                        limit,
                    }));
                }
                let (after, data) = take(after, length as usize)?;
                (after, PageContent::Zlib(data))
            }
        };
        self.current_block = Some(block);
        Ok((rest, Record::Page(Page { block, offset, named, content })))
    }
}
