//! The picture as PNG.

use super::Picture;
use super::colours::Colour;
use super::scene::{CHARACTER, Scene, Shape, WIDTH};
use crate::error::Error;
use font8x8::legacy::BASIC_LEGACY;
use png::{BitDepth, ColorType, Encoder};
use std::io::Write;

const BACKGROUND: Colour = [0xff, 0xff, 0xff];
const INK: Colour = [0x20, 0x20, 0x20];

/// Rows of pixels, top down.
struct Canvas {
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        if x < WIDTH && y < self.height {
            let at = (y * WIDTH + x) * 3;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Rect { x, y, width, height, fill, mark, cell } => {
                let middle = cell / 3..cell - cell / 3;
                for (row, column) in (0..*height).flat_map(|row| (0..*width).map(move |column| (row, column)))
                {
                    let is_middle = middle.contains(&(row % cell)) && middle.contains(&(column % cell));
                    let colour = mark.colour().filter(|_| is_middle).unwrap_or(*fill);
                    self.set(x + column, y + row, colour);
                }
            }
            Shape::Text { x, y, text, strong } => {
                for (number, character) in text.chars().enumerate() {
                    self.character(x + number * CHARACTER, y.saturating_sub(7), character, *strong);
                }
            }
        }
    }

    fn character(&mut self, left: usize, top: usize, character: char, strong: bool) {
        let known = |character: char| BASIC_LEGACY.get(character as usize);
        let Some(rows) = known(character).or_else(|| known('?')) else { return };
        for (row, bits) in rows.iter().enumerate() {
            for column in (0..8).filter(|column| bits & 1 << column != 0) {
                self.set(left + column, top + row, INK);
                if strong {
                    self.set(left + column + 1, top + row, INK);
                }
            }
        }
    }
}

/// Writes the picture.
pub(crate) fn png(picture: &Picture, out: &mut dyn Write) -> Result<(), Error> {
    let wrong = |error: png::EncodingError| Error::Io {
        what: "writing the picture".to_owned(),
        source: std::io::Error::other(error),
    };
    let scene = Scene::of(picture);
    let mut canvas = Canvas { height: scene.height, pixels: BACKGROUND.repeat(WIDTH * scene.height) };
    scene.shapes.iter().for_each(|shape| canvas.draw(shape));
    let size = |pixels: usize| {
        u32::try_from(pixels).map_err(|_| Error::Usage(format!("a picture {pixels} pixels high is no PNG")))
    };
    let mut encoder = Encoder::new(out, size(WIDTH)?, size(scene.height)?);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    // For those who do not see it: all words of the picture.
    let words = scene.shapes.iter().filter_map(|shape| match shape {
        Shape::Text { text, .. } => Some(&text[..]),
        Shape::Rect { .. } => None,
    });
    let words = words.collect::<Vec<_>>().join("\n");
    encoder.add_itxt_chunk("Description".to_owned(), words).map_err(wrong)?;
    let mut writer = encoder.write_header().map_err(wrong)?;
    writer.write_image_data(&canvas.pixels).map_err(wrong)?;
    writer.finish().map_err(wrong)
}
