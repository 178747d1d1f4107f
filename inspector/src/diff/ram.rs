//! Pages that differ, block by block.

use super::{Emit, line};
use crate::contents::{Contents, RamFile};
use crate::error::Error;
use crate::line::Value;
use crate::size::to_usize;
use migration_stream::{RamBlock, UNKNOWN_LENGTH};
use std::collections::HashMap;

/// What is compared at once.
const PIECE_BYTES: u64 = 1 << 20;
/// Ranges of one block that are reported one by one.
const RANGES_TOLD: u64 = 1000;

/// Compares block lists and pages.
pub(crate) fn blocks(a: &Contents, b: &Contents, emit: &mut Emit<'_>) -> Result<(), Error> {
    let (by_name_a, by_name_b) = (by_name(a), by_name(b));
    for (number, block) in a.blocks.iter().enumerate() {
        let Some(&other) = by_name_b.get(&block.idstr[..]) else {
            emit(line("block").with("name", Value::name(&block.idstr)).with("only", Value::Word("a")))?;
            continue;
        };
        attributes(block, &b.blocks[other], emit)?;
        // RAM that is not in one of the files, or in neither, is not the same.
        let (of_a, of_b) = (a.presence(number).presence, b.presence(other).presence);
        if !of_a.is_here() || !of_b.is_here() {
            let line = line("not_compared").with("block", Value::name(&block.idstr));
            emit(line.with("a", Value::Word(of_a.name())).with("b", Value::Word(of_b.name())))?;
            continue;
        }
        if let (Some(ram_a), Some(ram_b)) = (&a.ram, &b.ram) {
            let length = block.used_length.min(b.blocks[other].used_length);
            let page_size = u64::from(a.page_size.max(b.page_size).max(1));
            if length != UNKNOWN_LENGTH {
                pages(block, page_size, length, (ram_a, number), (ram_b, other), emit)?;
            }
        }
    }
    for block in &b.blocks {
        if !by_name_a.contains_key(&block.idstr[..]) {
            emit(line("block").with("name", Value::name(&block.idstr)).with("only", Value::Word("b")))?;
        }
    }
    let common = |of: &Contents, other: &HashMap<&[u8], usize>| {
        let names = of.blocks.iter().map(|block| block.idstr.clone());
        names.filter(|name| other.contains_key(&name[..])).collect::<Vec<_>>()
    };
    if common(a, &by_name_b) != common(b, &by_name_a) {
        emit(line("block_order"))?;
    }
    Ok(())
}

fn by_name(contents: &Contents) -> HashMap<&[u8], usize> {
    contents.blocks.iter().enumerate().map(|(number, block)| (&block.idstr[..], number)).collect()
}

fn attributes(a: &RamBlock, b: &RamBlock, emit: &mut Emit<'_>) -> Result<(), Error> {
    let optional = |value: Option<u64>| value.map_or(Value::Null, Value::Hex);
    for (property, of_a, of_b) in [
        ("bytes", Value::Hex(a.used_length), Value::Hex(b.used_length)),
        ("host_page_size", optional(a.host_page_size), optional(b.host_page_size)),
        ("physical_address", optional(a.guest_physical_address), optional(b.guest_physical_address)),
    ] {
        if of_a != of_b {
            let line =
                line("block").with("name", Value::name(&a.idstr)).with("property", Value::Word(property));
            emit(line.with("a", of_a).with("b", of_b))?;
        }
    }
    Ok(())
}

/// Compares the pages of one block; runs of pages that differ are one line each.
fn pages(
    block: &RamBlock,
    page_size: u64,
    length: u64,
    a: (&RamFile, usize),
    b: (&RamFile, usize),
    emit: &mut Emit<'_>,
) -> Result<(), Error> {
    // Most of many blocks have no page at all.
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    let (mut pages, mut ranges, mut run) = (0, 0, None::<(u64, u64)>);
    let mut end_run = |run: &mut Option<(u64, u64)>, emit: &mut Emit<'_>| {
        let Some((start, count)) = run.take() else { return Ok(()) };
        ranges += 1;
        if ranges > RANGES_TOLD {
            return Ok(());
        }
        let line = line("pages").with("block", Value::name(&block.idstr)).with("start", Value::Hex(start));
        emit(line.with("pages", Value::Decimal(count)))
    };
    let next =
        |(ram, block): (&RamFile, usize), at| ram.next_data(block, at).map_err(Error::io("reading RAM"));
    let mut meter = crate::progress::Meter::new("comparing");
    let mut at = 0;
    loop {
        meter.at(at, Some(length));
        // What is zero in both is passed over.
        let found = next(a, at)?.into_iter().chain(next(b, at)?).min();
        let Some(found) = found.filter(|&found| found < length) else { break };
        let start = found / page_size * page_size;
        if start > at {
            end_run(&mut run, emit)?;
        }
        at = start.max(at);
        let bytes = to_usize(PIECE_BYTES.min(length - at));
        of_a.resize(bytes, 0);
        of_b.resize(bytes, 0);
        a.0.read(a.1, at, &mut of_a).map_err(Error::io("reading RAM"))?;
        b.0.read(b.1, at, &mut of_b).map_err(Error::io("reading RAM"))?;
        let page = to_usize(page_size);
        for (number, (x, y)) in of_a.chunks(page).zip(of_b.chunks(page)).enumerate() {
            let start = at + number as u64 * page_size;
            if x == y {
                end_run(&mut run, emit)?;
            } else {
                pages += 1;
                run.get_or_insert((start, 0)).1 += 1;
            }
        }
        at += bytes as u64;
    }
    end_run(&mut run, emit)?;
    if pages > 0 {
        let total = length / page_size;
        let line =
            line("block_pages").with("block", Value::name(&block.idstr)).with("pages", Value::Decimal(pages));
        emit(line.with("of", Value::Decimal(total)).with("ranges", Value::Decimal(ranges)))?;
    }
    Ok(())
}
