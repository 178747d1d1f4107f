//! Looks at every page of a block.

use super::{BlockPicture, Cell, RANGES_LIMIT};
use crate::contents::RamFile;
use crate::error::Error;
use crate::pages::is_zero;
use crate::progress::Meter;
use crate::size::to_usize;
use std::ops::Range;

/// Bits of information in a byte from which on a page counts as hard to compress.
pub(super) const HIGH_ENTROPY_BITS: f64 = 6.0;
/// What is read at once.
const PIECE_PAGES: u64 = 64;

/// A block, and what it is compared with.
pub(super) struct View<'a> {
    pub(super) ram: &'a RamFile,
    pub(super) block: usize,
    pub(super) page_size: u32,
    pub(super) pages: u64,
    pub(super) cell_pages: u64,
    pub(super) other: Option<(usize, &'a RamFile)>,
}

impl View<'_> {
    /// The first page from `page` on that may hold something, or came more than once.
    fn next_page(&self, page: u64) -> Result<Option<u64>, Error> {
        let page_size = u64::from(self.page_size.max(1));
        let data = |ram: &RamFile, block| {
            let found = ram.next_data(block, page * page_size).map_err(Error::io("reading RAM"))?;
            Ok::<_, Error>(found.map(|at| at / page_size))
        };
        let of_other = self.other.map_or(Ok(None), |(number, ram)| data(ram, number))?;
        let again = self.ram.next_again(self.block, page);
        Ok([data(self.ram, self.block)?, of_other, again].into_iter().flatten().min())
    }
}

/// Shannon's entropy of the bytes of a page, in bits for each.
fn entropy(page: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    page.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let total = f64::from(counts.iter().sum::<u32>());
    let of = |count: &u32| {
        let share = f64::from(*count) / total;
        -share * share.log2()
    };
    counts.iter().filter(|&&count| count > 0).map(of).sum()
}

/// Ranges of pages that were requested first, from ranges of bytes; in order, and none twice.
fn requested(hot: &[Range<u64>], page_size: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> =
        hot.iter().map(|range| range.start / page_size..range.end.div_ceil(page_size)).collect();
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// What gathers while pages pass by.
struct Drawing {
    result: BlockPicture,
    cell: Cell,
    /// Pages of the cell that are zero, of low and of high entropy.
    counts: [u64; 3],
}

impl Drawing {
    fn page(&mut self, number: u64, kind: usize, hot: bool, changed: bool, last_of_cell: bool) {
        let totals = &mut self.result.totals;
        totals.pages += 1;
        *[&mut totals.zero, &mut totals.low, &mut totals.high][kind] += 1;
        totals.hot += u64::from(hot);
        totals.changed += u64::from(changed);
        self.counts[kind] += 1;
        self.cell.hot |= hot;
        self.cell.changed |= changed;
        if changed {
            self.changed(number);
        }
        if last_of_cell {
            self.end_cell();
        }
    }

    fn end_cell(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        // A cell with any content is not shown as empty.
        self.cell.content = match counts {
            [_, 0, 0] => 0,
            [_, low, high] if high > low => 2,
            _ => 1,
        };
        self.result.cells.push(std::mem::take(&mut self.cell));
    }

    /// Pages of which nothing is to be said but that they are zero, of a block with so many; they
    /// are not gone over.
    fn zeros(&mut self, mut range: Range<u64>, pages: u64) {
        let cell_pages = self.result.cell_pages;
        while range.start < range.end {
            let end = (range.start + 1).next_multiple_of(cell_pages).min(range.end);
            let count = end - range.start;
            self.result.totals.pages += count;
            self.result.totals.zero += count;
            self.counts[0] += count;
            if end.is_multiple_of(cell_pages) || end == pages {
                self.end_cell();
            }
            range.start = end;
        }
    }

    fn changed(&mut self, number: u64) {
        let full = self.result.changed.len() == RANGES_LIMIT;
        match self.result.changed.last_mut() {
            Some((start, pages)) if *start + *pages == number => *pages += 1,
            _ => {
                self.result.changed_ranges += 1;
                if !full {
                    self.result.changed.push((number, 1));
                }
            }
        }
    }
}

/// Draws the block; `hot` are ranges of bytes that were requested first.
pub(super) fn draw(view: &View<'_>, hot: &[Range<u64>]) -> Result<BlockPicture, Error> {
    let View { ram, block, page_size, pages, cell_pages, other } = *view;
    let requested = requested(hot, u64::from(page_size.max(1)));
    let mut next_requested = requested.iter().peekable();
    let size = page_size as usize;
    let room = size * to_usize(PIECE_PAGES);
    let (mut piece, mut piece_of_other) = (vec![0; room], vec![0; room]);
    let mut drawing = Drawing {
        result: BlockPicture { cell_pages, compared: other.is_some(), ..BlockPicture::default() },
        cell: Cell::default(),
        counts: [0; 3],
    };
    let mut meter = Meter::new("drawing");
    let mut page = 0;
    while page < pages {
        meter.at(page * u64::from(page_size), Some(pages * u64::from(page_size)));
        while next_requested.next_if(|range| range.end <= page).is_some() {}
        let hot = next_requested.peek().map(|range| range.start.max(page));
        let next = view.next_page(page)?.into_iter().chain(hot).min().unwrap_or(pages).min(pages);
        drawing.zeros(page..next, pages);
        page = next;
        let count = PIECE_PAGES.min(pages - page);
        let bytes = size * to_usize(count);
        let any = |ram: &RamFile, block| (page..page + count).any(|page| ram.holds(block, page));
        let here = any(ram, block);
        let there = other.filter(|(number, ram)| any(ram, *number));
        let offset = page * u64::from(page_size);
        if here {
            ram.read(block, offset, &mut piece[..bytes]).map_err(Error::io("reading RAM"))?;
        } else if there.is_some() {
            piece[..bytes].fill(0);
        }
        if let Some((number, ram)) = there {
            ram.read(number, offset, &mut piece_of_other[..bytes]).map_err(Error::io("reading RAM"))?;
        } else if here {
            piece_of_other[..bytes].fill(0);
        }
        let both = piece[..bytes].chunks(size).zip(piece_of_other[..bytes].chunks(size));
        for (index, (content, content_of_other)) in both.enumerate() {
            let number = page + index as u64;
            let kind = match content {
                _ if !here || is_zero(content) => 0,
                content if entropy(content) < HIGH_ENTROPY_BITS => 1,
                _ => 2,
            };
            while next_requested.next_if(|range| range.end <= number).is_some() {}
            let hot = ram.came_again(block, number)
                || next_requested.peek().is_some_and(|range| range.contains(&number));
            let changed = other.is_some() && (here || there.is_some()) && content != content_of_other;
            let last_of_cell = (number + 1).is_multiple_of(cell_pages) || number + 1 == pages;
            drawing.page(number, kind, hot, changed, last_of_cell);
        }
        page += count;
    }
    Ok(drawing.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_pages_are_merged() {
        assert_eq!(
            requested(&[0x2000..0x3000, 0..0x1001, 0x2800..0x5000, 0x7000..0x8000], 4096),
            [0..5, 7..8]
        );
        assert_eq!(requested(&[0x2000..0x3000, 0..0x1000], 4096), [0..1, 2..3]);
    }
}
