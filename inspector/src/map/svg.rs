//! The picture as SVG.

use super::{COLUMNS, LEGEND, Picture, colour};
use crate::escape::html as escaped;
use std::fmt::Write;

const CELL: usize = 3;
const LINE: usize = 18;

fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// The picture.
pub(crate) fn svg(picture: &Picture) -> String {
    let mut body = String::new();
    let mut top = LINE;
    let text = |top: usize, words: &str, body: &mut String| {
        let _ = writeln!(body, "<text x=\"0\" y=\"{top}\">{}</text>", escaped(words));
    };
    let against = picture.against.as_ref().map_or_else(String::new, |other| format!(", against {other}"));
    let title = format!("{} ({}), page size {}{against}", picture.title, picture.machine, picture.page_size);
    text(top, &title, &mut body);
    top += LINE;
    for (number, (words, cell)) in LEGEND.into_iter().enumerate() {
        let left = number * COLUMNS * CELL / LEGEND.len();
        let colour = hex(colour(cell));
        let _ = writeln!(
            body,
            "<rect x=\"{left}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\" stroke=\"#888\"/>\
             <text x=\"{}\" y=\"{top}\">{words}</text>",
            top - 10,
            left + 14
        );
    }
    for block in &picture.blocks {
        top += LINE + LINE / 2;
        let words = format!("{}: {} bytes, {} pages in a cell", block.name, block.bytes, block.cell_pages);
        text(top, &words, &mut body);
        top += LINE / 3;
        for (row, cells) in block.cells.chunks(COLUMNS).enumerate() {
            // Cells of one colour side by side are one rectangle.
            for run in runs(cells) {
                let (start, length, cell) = run;
                let _ = writeln!(
                    body,
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{CELL}\" fill=\"{}\"/>",
                    start * CELL,
                    top + row * CELL,
                    length * CELL,
                    hex(colour(cell))
                );
            }
        }
        top += block.rows() * CELL;
    }
    let (width, height) = (COLUMNS * CELL, top + LINE);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\" shape-rendering=\"crispEdges\">\n\
         {body}</svg>\n"
    )
}

/// Runs of equal cells: start, length, cell.
fn runs(cells: &[super::Cell]) -> Vec<(usize, usize, super::Cell)> {
    let mut runs: Vec<(usize, usize, super::Cell)> = Vec::new();
    for (number, &cell) in cells.iter().enumerate() {
        match runs.last_mut() {
            Some((_, length, last)) if *last == cell => *length += 1,
            _ => runs.push((number, 1, cell)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{BlockPicture, Cell};

    #[test]
    fn names_of_a_stranger_do_not_leave_their_text() {
        let cells = vec![Cell { content: 1, ..Cell::default() }; 3];
        let name = "a\"/><script>alert(1)</script>".to_owned();
        let picture = Picture {
            title: "<x>".to_owned(),
            machine: "&".to_owned(),
            page_size: 4096,
            against: None,
            blocks: vec![BlockPicture { name, bytes: 3 * 4096, cell_pages: 1, cells }],
            left_out: 0,
            timeline: Vec::new(),
        };
        let svg = svg(&picture);
        assert!(!svg.contains("<script") && !svg.contains("<x>"), "{svg}");
        assert!(svg.contains("<rect x=\"0\" y=\"69\" width=\"9\" height=\"3\" fill=\"#7fb0dc\"/>"), "{svg}");
    }
}
