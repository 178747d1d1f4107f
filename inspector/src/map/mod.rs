//! A picture of RAM: what each page holds, block by block.

mod block;
mod colours;
mod hot;
mod html;
mod png;
mod scene;
mod svg;

pub(crate) use hot::Hot;
pub(crate) use html::html;
pub(crate) use png::png;
pub(crate) use svg::svg;

use crate::contents::{Contents, Stretch};
use crate::error::Error;
use crate::escape::json_text;
use migration_stream::UNKNOWN_LENGTH;
use serde::Serialize;
use snapshot_engine::size_text;

/// Cells of one block at most: a cell stands for as many pages as it takes.
const CELLS_LIMIT: u64 = 1 << 16;
/// Blocks that are drawn.
const BLOCKS_LIMIT: usize = 64;
/// Changed ranges that are listed of one block.
const RANGES_LIMIT: usize = 500;

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

/// How many pages of a block are what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) pages: u64,
    pub(crate) zero: u64,
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) hot: u64,
    pub(crate) changed: u64,
}

/// A block of the picture.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockPicture {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) cell_pages: u64,
    pub(crate) cells: Vec<Cell>,
    pub(crate) totals: Totals,
    /// Pages that changed: the first of each range, and how many; not all of them if there are too many.
    pub(crate) changed: Vec<(u64, u64)>,
    /// How many ranges there are.
    pub(crate) changed_ranges: u64,
    /// The file that this one is compared with has the block's RAM.
    pub(crate) compared: bool,
}

impl BlockPicture {
    /// Cells side by side: a power of two, so that a row is a round number of bytes, and fewer
    /// where there are few cells.
    pub(crate) fn columns(&self) -> usize {
        match self.cells.len() {
            0..=512 => 64,
            513..=2048 => 128,
            _ => 256,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.cells.len().div_ceil(self.columns())
    }
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

impl Picture {
    /// Whether a cell of this kind is in it: a legend shows only what is there.
    pub(crate) fn has(&self, shown: impl Fn(&Cell) -> bool) -> bool {
        self.blocks.iter().flat_map(|block| &block.cells).any(shown)
    }

    /// One line about the whole of it.
    pub(crate) fn subtitle(&self) -> String {
        let against =
            self.against.as_ref().map_or_else(String::new, |other| format!(", compared with {other}"));
        let size = size_text(self.page_size.into());
        format!("machine {}, pages of {size}{against}", self.machine)
    }
}

/// Draws `contents`, compared with `against`.
pub(crate) fn picture(contents: &Contents, against: Option<&Contents>, hot: &Hot) -> Result<Picture, Error> {
    let mut blocks = Vec::new();
    let drawn = contents.blocks.iter().enumerate().filter(|(_, block)| block.used_length != UNKNOWN_LENGTH);
    for (number, block) in drawn.clone().take(BLOCKS_LIMIT) {
        // For each of the few that are drawn.
        let other = against.and_then(|other| {
            let number = other.blocks.iter().position(|candidate| candidate.idstr == block.idstr);
            let number = number.filter(|&number| other.is_here(number));
            number.zip(other.ram.as_ref())
        });
        let Some(ram) = contents.ram.as_ref().filter(|_| contents.is_here(number)) else { continue };
        let pages = block.used_length / u64::from(contents.page_size.max(1));
        let cell_pages = pages.div_ceil(CELLS_LIMIT).max(1);
        let view =
            block::View { ram, block: number, page_size: contents.page_size, pages, cell_pages, other };
        let mut drawn = block::draw(&view, &hot.of(number, block))?;
        drawn.name = json_text(&block.idstr);
        drawn.bytes = block.used_length;
        blocks.push(drawn);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::RamFile;
    use crate::walk::Context;
    use migration_stream::{Page, PageContent, RamBlock, Record};

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
                let content = PageContent::Raw(data);
                let record = Record::Page(Page { block: 0, offset, named: true, content });
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
        let totals = Totals { pages: 4, zero: 2, low: 1, high: 1, hot: 1, changed: 1 };
        assert_eq!(picture.blocks[0].totals, totals);
        assert_eq!((&picture.blocks[0].changed[..], picture.blocks[0].changed_ranges), (&[(2, 1)][..], 1));
    }
}
