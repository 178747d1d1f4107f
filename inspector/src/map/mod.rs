//! A picture of RAM: what each page holds, block by block.

mod hot;
mod html;
mod png;
mod svg;

pub(crate) use hot::Hot;
pub(crate) use html::html;
pub(crate) use png::png;
pub(crate) use svg::svg;

use crate::contents::{Contents, RamFile};
use crate::error::Error;
use crate::escape::json_text;
use crate::stat::is_zero;
use migration_stream::UNKNOWN_LENGTH;
use serde::Serialize;

/// Cells of one block at most: a cell stands for as many pages as it takes.
const CELLS_LIMIT: u64 = 1 << 16;
/// Cells side by side.
const COLUMNS: usize = 256;
/// Blocks that are drawn.
const BLOCKS_LIMIT: usize = 64;
/// Bits of information in a byte from which on a page counts as hard to compress.
const HIGH_ENTROPY_BITS: f64 = 6.0;
/// What is read at once.
const PIECE_PAGES: u64 = 64;

/// What a cell shows. The least of the two is what most of its pages hold; the flags are for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    /// 0: zero, 1: low entropy, 2: high entropy.
    pub(crate) content: u8,
    /// Came more than once, so the guest was writing it; or was requested first.
    pub(crate) hot: bool,
    /// Other than in the file that this one is compared with.
    pub(crate) changed: bool,
}

/// A block of the picture.
#[derive(Debug, Clone)]
pub(crate) struct BlockPicture {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) cell_pages: u64,
    pub(crate) cells: Vec<Cell>,
}

impl BlockPicture {
    pub(crate) fn rows(&self) -> usize {
        self.cells.len().div_ceil(COLUMNS)
    }
}

/// A stretch of the stream, for the timeline.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) name: String,
}

/// The picture.
#[derive(Debug)]
pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) machine: String,
    pub(crate) page_size: u32,
    pub(crate) against: Option<String>,
    pub(crate) blocks: Vec<BlockPicture>,
    pub(crate) left_out: usize,
    pub(crate) timeline: Vec<Stretch>,
}

/// Colours of a cell: zero, low, high entropy; the same where it is hot; changed.
pub(crate) fn colour(cell: Cell) -> [u8; 3] {
    match (cell.changed, cell.hot, cell.content) {
        (true, _, _) => [0xd6, 0x27, 0x28],
        (_, true, 0) => [0xff, 0xe0, 0xa0],
        (_, true, _) => [0xff, 0x9d, 0x00],
        (_, _, 0) => [0xf0, 0xf0, 0xf0],
        (_, _, 1) => [0x7f, 0xb0, 0xdc],
        _ => [0x12, 0x3f, 0x7a],
    }
}

/// What the colours stand for.
pub(crate) const LEGEND: [(&str, Cell); 6] = [
    ("zero", Cell { content: 0, hot: false, changed: false }),
    ("low entropy", Cell { content: 1, hot: false, changed: false }),
    ("high entropy", Cell { content: 2, hot: false, changed: false }),
    ("hot", Cell { content: 1, hot: true, changed: false }),
    ("hot, zero", Cell { content: 0, hot: true, changed: false }),
    ("changed", Cell { content: 1, hot: false, changed: true }),
];

/// Shannon's entropy of the bytes of a page, in bits for each.
fn entropy(page: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    page.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let total = f64::from(u32::try_from(page.len()).unwrap_or(u32::MAX));
    let of = |count: &u32| {
        let share = f64::from(*count) / total;
        -share * share.log2()
    };
    counts.iter().filter(|&&count| count > 0).map(of).sum()
}

/// Draws `contents`, compared with `against`.
pub(crate) fn picture(contents: &Contents, against: Option<&Contents>, hot: &Hot) -> Result<Picture, Error> {
    let mut blocks = Vec::new();
    let drawn = contents.blocks.iter().enumerate().filter(|(_, block)| block.used_length != UNKNOWN_LENGTH);
    for (number, block) in drawn.clone().take(BLOCKS_LIMIT) {
        let other = against.and_then(|other| {
            let number = other.blocks.iter().position(|candidate| candidate.idstr == block.idstr);
            number.zip(other.ram.as_ref())
        });
        let Some(ram) = &contents.ram else { continue };
        let pages = block.used_length / u64::from(contents.page_size.max(1));
        let cell_pages = pages.div_ceil(CELLS_LIMIT).max(1);
        let mut cells = cells(ram, number, contents.page_size, pages, cell_pages, other)?;
        let cell_bytes = cell_pages.saturating_mul(u64::from(contents.page_size.max(1)));
        for range in hot.of(number, block) {
            let first = usize::try_from(range.start / cell_bytes).unwrap_or(usize::MAX);
            let end = usize::try_from(range.end.div_ceil(cell_bytes)).unwrap_or(usize::MAX);
            let end = end.min(cells.len());
            cells.get_mut(first..end).unwrap_or_default().iter_mut().for_each(|cell| cell.hot = true);
        }
        blocks.push(BlockPicture {
            name: json_text(&block.idstr),
            bytes: block.used_length,
            cell_pages,
            cells,
        });
    }
    let machine = contents.configuration.as_ref().map(|configuration| json_text(&configuration.machine));
    Ok(Picture {
        title: contents.name.clone(),
        machine: machine.unwrap_or_else(|| "-".to_owned()),
        page_size: contents.page_size,
        against: against.map(|other| other.name.clone()),
        left_out: drawn.count().saturating_sub(blocks.len()),
        blocks,
        timeline: contents.timeline.clone(),
    })
}

fn cells(
    ram: &RamFile,
    block: usize,
    page_size: u32,
    pages: u64,
    cell_pages: u64,
    other: Option<(usize, &RamFile)>,
) -> Result<Vec<Cell>, Error> {
    let mut cells = Vec::new();
    let size = page_size as usize;
    let room = size * usize::try_from(PIECE_PAGES).unwrap_or(0);
    let (mut piece, mut piece_of_other) = (vec![0; room], vec![0; room]);
    let mut counts = [0u64; 3];
    let mut cell = Cell::default();
    let mut page = 0;
    while page < pages {
        let count = PIECE_PAGES.min(pages - page);
        let bytes = size * usize::try_from(count).unwrap_or(0);
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
            counts[kind] += 1;
            cell.hot |= ram.came_again(block, number);
            cell.changed |= other.is_some() && (here || there.is_some()) && content != content_of_other;
            if (number + 1).is_multiple_of(cell_pages) || number + 1 == pages {
                // A cell with any content is not shown as empty.
                cell.content = if counts[1] + counts[2] == 0 {
                    0
                } else if counts[2] > counts[1] {
                    2
                } else {
                    1
                };
                cells.push(std::mem::take(&mut cell));
                counts = [0; 3];
            }
        }
        page += count;
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::Context;
    use migration_stream::{RamBlock, Record};

    #[test]
    fn cells_show_content_repetition_and_change() {
        let block = RamBlock {
            idstr: b"a".to_vec(),
            used_length: 4 * 4096,
            host_page_size: None,
            guest_physical_address: None,
        };
        let blocks = [block];
        let context = Context { blocks: &blocks, page_size: 4096, configuration: None, channel: None };
        let noise: Vec<u8> = (0..4096u32).map(|at| at.wrapping_mul(0x9e37_79b1).to_be_bytes()[0]).collect();
        let load = |pages: &[(u64, &[u8])]| {
            let mut ram = RamFile::temporary().unwrap().watching();
            for &(offset, data) in pages {
                let record = Record::RamPage { block: 0, offset, named: true, data };
                ram.take("a", offset, &record, context).unwrap();
            }
            ram.flush().unwrap();
            let configuration = None;
            Contents {
                blocks: blocks.to_vec(),
                page_size: 4096,
                configuration,
                ram: Some(ram),
                ..Contents::default()
            }
        };
        let a = load(&[(0, &noise), (4096, &[7; 4096]), (4096, &[8; 4096])]);
        let b = load(&[(0, &noise), (4096, &[8; 4096]), (8192, &[1; 4096])]);
        let picture = picture(&a, Some(&b), &Hot::default()).unwrap();
        let cell = |content, hot, changed| Cell { content, hot, changed };
        assert_eq!(
            picture.blocks[0].cells,
            [cell(2, false, false), cell(1, true, false), cell(0, false, true), cell(0, false, false)]
        );
    }
}
