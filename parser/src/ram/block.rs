//! The block list (`RAM_SAVE_FLAG_MEM_SIZE`): which RAM there is.

use crate::error::ErrorKind;
use crate::section::{put_str8, str8};
use crate::span::{Parsed, Span};
use nom::Parser;
use nom::number::streaming::be_u64;
use std::collections::HashSet;

use super::RAM_SAVE_FLAG_MEM_SIZE;

/// One RAM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// Its name.
    pub idstr: Vec<u8>,
    /// Its length in bytes.
    pub used_length: u64,
    /// Host page size in bytes, where the source tells it: postcopy-ram is on and the block has huge pages.
    pub host_page_size: Option<u64>,
    /// Guest physical address, with capability x-ignore-shared.
    pub guest_physical_address: Option<u64>,
}

/// The block list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockList {
    /// The blocks, in the order of the stream.
    pub blocks: Vec<RamBlock>,
}

/// What the rest of the stream says about the list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockListContext {
    pub(crate) page_size: u32,
    pub(crate) page_size_guessed: bool,
    /// POSTCOPY_ADVISE of postcopy-ram came before.
    pub(crate) advised: bool,
    /// Capability x-ignore-shared.
    pub(crate) ignore_shared: bool,
    pub(crate) max_ram_bytes: u64,
}

/// Parses the list behind its flag word, which gives the sum of all lengths: name (str8), length (be64), and where
/// they are sent host page size (be64), guest physical address (be64); until the sum is used up.
///
/// # Errors
///
/// `Limit` for the sum, `EmptyName`, `BlockTwice`, `BlockLength`.
pub(crate) fn block_list(input: Span<'_>, total: u64, context: BlockListContext) -> Parsed<'_, BlockList> {
    if total > context.max_ram_bytes || total == 0 {
        let limit = context.max_ram_bytes;
        return Err(input.reject(ErrorKind::Limit { what: "RAM size (--max-ram)", found: total, limit }));
    }
    let mut rest = input;
    let mut remaining = total;
    let mut list = BlockList::default();
    let mut names = HashSet::new();
    while remaining > 0 {
        let at_name = rest;
        let (at_length, name) = str8(at_name)?;
        if name.is_empty() {
            return Err(at_name.reject(ErrorKind::EmptyName { what: "ram block name" }));
        }
        if !names.insert(name) {
            return Err(at_name.reject(ErrorKind::BlockTwice { name: name.to_vec() }));
        }
        let (after, used_length) = be_u64.parse(at_length)?;
        let page_size = u64::from(context.page_size);
        let why = match used_length {
            0 => Some("expected at least one page"),
            _ if used_length > remaining => Some("more than what is left of the list's sum"),
            _ if used_length % page_size != 0 => Some("not a multiple of the page size"),
            _ => None,
        };
        if let Some(why) = why {
            let (page_size, page_size_guessed) = (context.page_size, context.page_size_guessed);
            let kind = ErrorKind::BlockLength {
                name: name.to_vec(),
                found: used_length,
                why,
                page_size,
                page_size_guessed,
            };
            return Err(at_length.reject(kind));
        }
        remaining -= used_length;
        rest = after;
        let (after, (host_page_size, guest_physical_address)) = optional_fields(rest, context)?;
        rest = after;
        list.blocks.push(RamBlock {
            idstr: name.to_vec(),
            used_length,
            host_page_size,
            guest_physical_address,
        });
    }
    Ok((rest, list))
}

/// Parses what stands behind a block's length where the source sends it: host page size (be64), guest physical address
/// (be64).
pub(crate) fn optional_fields(
    input: Span<'_>,
    context: BlockListContext,
) -> Parsed<'_, (Option<u64>, Option<u64>)> {
    let mut rest = input;
    let (mut host_page_size, mut address) = (None, None);
    if context.advised {
        // Nothing else that can follow looks like a power of two from 4096 on: a name's length byte is not 0, and EOS
        // and FLUSH are smaller.
        let (after, word) = be_u64.parse(rest)?;
        if word.is_power_of_two() && (4096..1 << 56).contains(&word) {
            (rest, host_page_size) = (after, Some(word));
        }
    }
    if context.ignore_shared {
        let (after, word) = be_u64.parse(rest)?;
        (rest, address) = (after, Some(word));
    }
    Ok((rest, (host_page_size, address)))
}

/// Writes the list with its flag word.
pub fn put_ram_blocks(out: &mut Vec<u8>, list: &BlockList) {
    let total: u64 = list.blocks.iter().map(|block| block.used_length).sum();
    out.extend_from_slice(&(total | RAM_SAVE_FLAG_MEM_SIZE).to_be_bytes());
    for block in &list.blocks {
        put_str8(out, &block.idstr);
        out.extend_from_slice(&block.used_length.to_be_bytes());
        for optional in [block.host_page_size, block.guest_physical_address].into_iter().flatten() {
            out.extend_from_slice(&optional.to_be_bytes());
        }
    }
}
