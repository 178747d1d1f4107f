//! The block list (`RAM_SAVE_FLAG_MEM_SIZE`): which RAM there is.

use crate::error::{ErrorKind, RAM_SIZE};
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::section::{put_str8, str8};
use crate::span::{Parsed, Span};
use alloc::collections::BTreeSet;
use nom::Parser;
use nom::number::streaming::be_u64;

use super::RAM_SAVE_FLAG_MEM_SIZE;

/// Blocks that a list can have. QEMU has some tens: one for each memory backend, DIMM and ROM; PCI has room
/// for 65536 functions with a ROM.
const BLOCK_LIMIT: usize = 1 << 17;

/// One RAM block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// Its name.
    pub idstr: Vec<u8>,
    /// Its length in bytes.
    pub used_length: u64,
    /// Host page size in bytes, where the source states it: postcopy-ram is on and the block has huge pages.
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
    pub(crate) page_size: PageSize,
    pub(crate) page_size_guessed: bool,
    /// POSTCOPY_ADVISE of postcopy-ram came before.
    pub(crate) advised: bool,
    /// Capability x-ignore-shared.
    pub(crate) ignore_shared: bool,
    pub(crate) max_ram_bytes: u64,
}

/// Parses the list behind its flag word, which gives the sum of all lengths: name (str8), length (be64), and
/// where they are sent host page size (be64), guest physical address (be64); until the sum is used up.
///
/// # Errors
///
/// `Limit` for the sum and the number of blocks, `EmptyName`, `BlockTwice`, `BlockLength`.
pub(crate) fn block_list(input: Span<'_>, total: u64, context: BlockListContext) -> Parsed<'_, BlockList> {
    if total > context.max_ram_bytes || total == 0 {
        let limit = context.max_ram_bytes;
        return Err(input.reject(ErrorKind::Limit { what: RAM_SIZE, found: total, limit }));
    }
    let mut rest = input;
    let mut remaining = total;
    let mut list = BlockList::default();
    let mut names = BTreeSet::new();
    while remaining > 0 {
        let at_name = rest;
        let (at_length, name) = str8(at_name)?;
        if name.is_empty() {
            return Err(at_name.reject(ErrorKind::EmptyName { what: "ram block name" }));
        }
        if list.blocks.len() == BLOCK_LIMIT {
            let (found, limit) = (BLOCK_LIMIT as u64 + 1, BLOCK_LIMIT as u64);
            return Err(at_name.reject(ErrorKind::Limit { what: "number of RAM blocks", found, limit }));
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
            let (page_size, page_size_guessed) = (context.page_size.bytes(), context.page_size_guessed);
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

/// Parses what is behind a block's length where the source sends it: host page size (be64), guest
/// physical address (be64).
pub(crate) fn optional_fields(
    input: Span<'_>,
    context: BlockListContext,
) -> Parsed<'_, (Option<u64>, Option<u64>)> {
    let mut rest = input;
    let (mut host_page_size, mut address) = (None, None);
    if context.advised {
        // Nothing else that can follow looks like a power of two from 4096 on: a name's length byte is not 0,
        // and EOS and FLUSH are smaller.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Reject;

    const CONTEXT: BlockListContext = BlockListContext {
        page_size: PageSize::DEFAULT,
        page_size_guessed: false,
        advised: false,
        ignore_shared: false,
        max_ram_bytes: 0x8000,
    };

    fn block(idstr: &[u8], used_length: u64) -> RamBlock {
        RamBlock { idstr: idstr.to_vec(), used_length, host_page_size: None, guest_physical_address: None }
    }

    /// The list behind its flag word.
    fn bytes(blocks: &[RamBlock]) -> Vec<u8> {
        let mut out = Vec::new();
        put_ram_blocks(&mut out, &BlockList { blocks: blocks.to_vec() });
        out.split_off(8)
    }

    /// The blocks and how many bytes are left behind them, or what is wrong.
    fn said(bytes: &[u8], total: u64, context: BlockListContext) -> Result<(Vec<RamBlock>, usize), String> {
        match block_list(Span::new(bytes, 0x100), total, context) {
            Ok((rest, list)) => Ok((list.blocks, rest.bytes.len())),
            Err(nom::Err::Incomplete(_)) => Err("more".to_owned()),
            Err(nom::Err::Error(Reject { offset, kind }) | nom::Err::Failure(Reject { offset, kind })) => {
                Err(format!("{offset:#x}: {kind}"))
            }
        }
    }

    #[test]
    fn ram_is_accepted_up_to_its_limit() {
        let list = [block(b"a", 0x8000)];
        assert_eq!(said(&bytes(&list), 0x8000, CONTEXT), Ok((list.to_vec(), 0)));
        for total in [0, 0x9000] {
            let expected = format!("0x100: RAM size is {total}, the limit is 32768");
            assert_eq!(said(&bytes(&list), total, CONTEXT), Err(expected));
        }
    }

    #[test]
    fn the_list_ends_where_its_sum_is_used_up() {
        let list = [block(b"a", 0x3000), block(b"b", 0x1000)];
        let right = bytes(&list);
        assert_eq!(said(&[&right[..], b"more"].concat(), 0x4000, CONTEXT), Ok((list.to_vec(), 4)));
        for cut in 0..right.len() {
            assert_eq!(said(&right[..cut], 0x4000, CONTEXT), Err("more".to_owned()), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_is_a_number_of_pages_that_the_sum_still_has() {
        for (length, why) in [
            (0, "expected at least one page"),
            (0xfff, "not a multiple of the page size"),
            (0x2000, "more than what is left of the list's sum"),
        ] {
            let list = bytes(&[block(b"a", 0x3000), block(b"b", length)]);
            let text = format!("0x10c: ram block \"b\" used length {length} bytes, {why}");
            assert_eq!(said(&list, 0x4000, CONTEXT), Err(text.clone()));
            let guessed = BlockListContext { page_size_guessed: true, ..CONTEXT };
            let hint = "; page size 4096 was assumed";
            assert_eq!(said(&list, 0x4000, guessed), Err(text + hint));
        }
    }

    #[test]
    fn each_block_has_a_name_of_its_own() {
        let twice = bytes(&[block(b"a", 0x1000), block(b"a", 0x1000)]);
        assert_eq!(said(&twice, 0x2000, CONTEXT), Err("0x10a: ram block \"a\" listed twice".to_owned()));
        let nameless = bytes(&[block(b"a", 0x1000), block(b"", 0x1000)]);
        assert_eq!(said(&nameless, 0x2000, CONTEXT), Err("0x10a: ram block name of length 0".to_owned()));
    }

    #[test]
    fn a_host_page_size_is_a_power_of_two_from_4096_to_2_55() {
        let advised = BlockListContext { advised: true, ..CONTEXT };
        let read = |word: u64| {
            let bytes = word.to_be_bytes();
            let (rest, fields) = optional_fields(Span::new(&bytes, 0), advised).unwrap();
            (rest.bytes.len(), fields)
        };
        for word in [4096, 2 << 20, 1 << 55] {
            assert_eq!(read(word), (0, (Some(word), None)), "{word:#x}");
        }
        for word in [0, 2048, 0x1800, 1 << 56] {
            assert_eq!(read(word), (8, (None, None)), "{word:#x}");
        }
    }

    #[test]
    fn what_stands_behind_a_length_is_read_where_it_is_sent() {
        let advised = BlockListContext { advised: true, ..CONTEXT };
        let huge = [RamBlock { host_page_size: Some(0x20_0000), ..block(b"a", 0x1000) }, block(b"b", 0x1000)];
        let behind = [&bytes(&huge)[..], &[0; 8]].concat();
        assert_eq!(said(&behind, 0x2000, advised), Ok((huge.to_vec(), 8)));
        let shared = BlockListContext { ignore_shared: true, ..CONTEXT };
        let placed = [0, 0x1000].map(|address| RamBlock {
            guest_physical_address: Some(address),
            ..block(if address == 0 { b"a" } else { b"b" }, 0x1000)
        });
        assert_eq!(said(&bytes(&placed), 0x2000, shared), Ok((placed.to_vec(), 0)));
        let both = BlockListContext { advised: true, ..shared };
        let list = [RamBlock { host_page_size: Some(4096), ..placed[1].clone() }];
        assert_eq!(said(&bytes(&list), 0x1000, both), Ok((list.to_vec(), 0)));
    }
}
