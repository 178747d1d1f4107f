//! The picture as rectangles and lines of text, for those who draw it: one arrangement for PNG and SVG.

use super::colours::{Colour, LEGEND, Mark, look};
use super::{BlockPicture, Cell, Picture};
use crate::escape::terminal_words;
use crate::text::{count, plural};
use snapshot_engine::size_text;

/// Columns of pixels of every block's cells.
const GRID: usize = 768;
/// Where cells begin: addresses stand before them. A multiple of all sizes of cells, so that marks
/// fall into their middles.
const LEFT: usize = 96;
const MARGIN: usize = 12;
pub(super) const WIDTH: usize = LEFT + GRID + 2 * MARGIN;
/// From one line of text to the next.
const LINE: usize = 16;
/// Pixels of a character, for text that has to fit.
pub(super) const CHARACTER: usize = 8;
/// Addresses are this far apart, at least.
const AXIS: usize = 36;

/// Something to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Rect {
        x: usize,
        y: usize,
        width: usize,
        height: usize,
        fill: Colour,
        mark: Mark,
        cell: usize,
    },
    /// `y` is its base line; `end` is where it ends if it is right-aligned.
    Text {
        x: usize,
        y: usize,
        text: String,
        strong: bool,
    },
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Scene {
    pub(super) height: usize,
    pub(super) shapes: Vec<Shape>,
}

impl Scene {
    pub(super) fn of(picture: &Picture) -> Self {
        let mut scene = Self { height: MARGIN, shapes: Vec::new() };
        scene.line(MARGIN, &terminal_words(&picture.title), true);
        scene.line(MARGIN, &terminal_words(&picture.subtitle()), false);
        scene.legend(picture);
        for block in &picture.blocks {
            scene.block(block, picture.page_size, picture.against.is_some());
        }
        if picture.left_out > 0 {
            let words = format!("{} that are not drawn", plural(picture.left_out as u64, "more block"));
            scene.line(MARGIN, &words, false);
        }
        scene.height = (scene.height + MARGIN).next_multiple_of(2);
        scene
    }

    /// A line of text below everything else.
    fn line(&mut self, x: usize, text: &str, strong: bool) {
        let room = (WIDTH - x - MARGIN) / CHARACTER;
        let text = shortened(text, room);
        self.height += LINE;
        self.shapes.push(Shape::Text { x, y: self.height - 4, text, strong });
    }

    fn swatch(&mut self, x: usize, y: usize, cell: Cell) {
        let (fill, mark) = look(cell);
        self.shapes.push(Shape::Rect { x, y, width: 12, height: 12, fill, mark, cell: 12 });
    }

    /// Only what is in the picture.
    fn legend(&mut self, picture: &Picture) {
        let looks = |sample: Cell| move |cell: &Cell| look(*cell) == look(sample);
        let present: Vec<_> = LEGEND.into_iter().filter(|(_, sample)| picture.has(looks(*sample))).collect();
        self.height += LINE / 2;
        let mut x = MARGIN;
        let mut top = self.height.next_multiple_of(12);
        for (words, sample) in present {
            let width = (16 + CHARACTER * (words.len() + 3)).next_multiple_of(12);
            if x > MARGIN && x + width > WIDTH - MARGIN {
                x = MARGIN;
                top += 24;
            }
            self.swatch(x, top, sample);
            self.shapes.push(Shape::Text { x: x + 18, y: top + 10, text: words.to_owned(), strong: false });
            x += width;
        }
        self.height = top + 12;
    }

    fn block(&mut self, block: &BlockPicture, page_size: u32, compared: bool) {
        self.height += LINE / 2;
        self.line(MARGIN, &terminal_words(&format!("{}: {}", block.name, size_text(block.bytes))), true);
        self.line(MARGIN, &totals(block, compared), false);
        self.line(MARGIN, &scale(block, page_size), false);
        let (columns, cell_bytes) = (block.columns(), block.cell_pages * u64::from(page_size));
        let cell = GRID / columns;
        // Offsets within a row, above the cells.
        self.height += LINE;
        for part in 0..4 {
            let column = part * columns / 4;
            if part > 0 && column >= block.cells.len() {
                break;
            }
            let text = format!("+{}", bytes_text(column as u64 * cell_bytes));
            let (x, y) = (LEFT + column * cell, self.height - 4);
            self.shapes.push(Shape::Text { x, y, text, strong: false });
        }
        let top = self.height.next_multiple_of(12);
        let every = AXIS.div_ceil(cell).next_power_of_two();
        for (row, cells) in block.cells.chunks(columns).enumerate() {
            let y = top + row * cell;
            if row.is_multiple_of(every) {
                let text = format!("{:#010x}", (row * columns) as u64 * cell_bytes);
                self.shapes.push(Shape::Text { x: MARGIN, y: y + 9, text, strong: false });
            }
            // Cells of one look side by side are one rectangle.
            for run in cells.chunk_by(|one, other| look(*one) == look(*other)).scan(0, |at, run| {
                let start = *at;
                *at += run.len();
                Some((start, run))
            }) {
                let (start, run) = run;
                let (fill, mark) = look(run[0]);
                let (x, width) = (LEFT + start * cell, run.len() * cell);
                self.shapes.push(Shape::Rect { x, y, width, height: cell, fill, mark, cell });
            }
        }
        self.height = top + (block.rows() * cell).max(LINE) + LINE / 2;
    }
}

/// `4 KiB` where it is that, and bytes otherwise.
fn bytes_text(bytes: u64) -> String {
    if bytes == 0 { "0".to_owned() } else { size_text(bytes) }
}

/// How many pages are what; the picture may be a comparison.
pub(super) fn totals(block: &BlockPicture, compared: bool) -> String {
    let totals = &block.totals;
    let share = |pages: u64| {
        let half = u128::from(totals.pages / 2);
        let thousandths =
            (u128::from(pages) * 1000 + half).checked_div(u128::from(totals.pages)).unwrap_or(0);
        format!("{} ({}.{} %)", count(pages), thousandths / 10, thousandths % 10)
    };
    let mut words = vec![
        plural(totals.pages, "page"),
        format!("zero {}", share(totals.zero)),
        format!("compressible {}", share(totals.low)),
        format!("not compressible {}", share(totals.high)),
    ];
    words.extend((totals.hot > 0).then(|| format!("hot {}", count(totals.hot))));
    words.extend(compared.then(|| match block.compared {
        true => format!("changed {}", count(totals.changed)),
        false => "not compared: the other file does not have it".to_owned(),
    }));
    words.join(", ")
}

/// What a cell and a row stand for.
pub(super) fn scale(block: &BlockPicture, page_size: u32) -> String {
    let cell_bytes = block.cell_pages * u64::from(page_size);
    let cell = format!("a cell is {} ({})", plural(block.cell_pages, "page"), size_text(cell_bytes));
    format!("{cell}, a row is {}", size_text(cell_bytes * block.columns() as u64))
}

/// A text without its middle, if it is too long.
fn shortened(text: &str, room: usize) -> String {
    if text.len() <= room || !text.is_ascii() || room < 8 {
        return text.to_owned();
    }
    let end = room / 2 - 2;
    format!("{}...{}", &text[..room - end - 3], &text[text.len() - end..])
}
