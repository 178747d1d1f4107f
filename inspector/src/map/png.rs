//! The picture as PNG: blocks below each other, a line between them; what each is stands in the file as text.

use super::{BlockPicture, COLUMNS, Picture, colour};
use crate::error::Error;
use png::{BitDepth, ColorType, Encoder};
use std::io::Write;

/// Width and height of a cell.
const CELL_PIXELS: usize = 3;
/// Between two blocks.
const GAP_PIXELS: usize = 6;
const GAP: [u8; 3] = [0x30, 0x30, 0x30];

/// Writes the picture.
pub(crate) fn png(picture: &Picture, out: &mut dyn Write) -> Result<(), Error> {
    let wrong = |error: png::EncodingError| Error::Io {
        what: "writing the picture".to_owned(),
        error: std::io::Error::other(error),
    };
    let width = COLUMNS * CELL_PIXELS;
    let heights = picture.blocks.iter().map(|block| block.rows() * CELL_PIXELS + GAP_PIXELS);
    let height = heights.clone().sum::<usize>().max(1);
    let size = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let mut encoder = Encoder::new(out, size(width), size(height));
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut top = 0;
    let mut text = format!("{} ({}), page size {}\n", picture.title, picture.machine, picture.page_size);
    for (block, height) in picture.blocks.iter().zip(heights) {
        let lines =
            format!("{}: {} bytes, rows of pixels {top} to {}", block.name, block.bytes, top + height);
        text.push_str(&lines);
        text.push('\n');
        top += height;
    }
    encoder.add_itxt_chunk("Description".to_owned(), text).map_err(wrong)?;
    let mut writer = encoder.write_header().map_err(wrong)?;
    let mut pixels = Vec::with_capacity(width * height * 3);
    for block in &picture.blocks {
        rows(block, &mut pixels);
    }
    pixels.resize(width * height * 3, 0xff);
    writer.write_image_data(&pixels).map_err(wrong)?;
    writer.finish().map_err(wrong)
}

fn rows(block: &BlockPicture, pixels: &mut Vec<u8>) {
    for row in block.cells.chunks(COLUMNS) {
        let mut line = Vec::with_capacity(COLUMNS * CELL_PIXELS * 3);
        for cell in row {
            for _ in 0..CELL_PIXELS {
                line.extend_from_slice(&colour(*cell));
            }
        }
        line.resize(COLUMNS * CELL_PIXELS * 3, 0xff);
        for _ in 0..CELL_PIXELS {
            pixels.extend_from_slice(&line);
        }
    }
    for _ in 0..GAP_PIXELS * COLUMNS * CELL_PIXELS {
        pixels.extend_from_slice(&GAP);
    }
}
