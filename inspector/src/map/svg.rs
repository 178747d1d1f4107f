//! The picture as SVG.

use super::Picture;
use super::colours::{Colour, Mark};
use super::scene::{Scene, Shape, WIDTH};
use crate::escape::html as escaped;
use std::collections::BTreeSet;
use std::fmt::Write;

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// A pattern that fills cells of this size with a mark each.
fn pattern_name(fill: Colour, mark: Mark, cell: usize) -> String {
    format!("m{}{:?}{cell}", &hex(fill)[1..], mark)
}

fn pattern(fill: Colour, mark: Mark, cell: usize) -> String {
    let (start, size) = (cell / 3, cell - 2 * (cell / 3));
    format!(
        "<pattern id=\"{}\" width=\"{cell}\" height=\"{cell}\" patternUnits=\"userSpaceOnUse\">\
         <path fill=\"{}\" d=\"M0 0h{cell}v{cell}h-{cell}z\"/>\
         <path fill=\"{}\" d=\"M{start} {start}h{size}v{size}h-{size}z\"/></pattern>\n",
        pattern_name(fill, mark, cell),
        hex(fill),
        hex(mark.colour().unwrap_or(fill)),
    )
}

/// The picture.
pub(crate) fn svg(picture: &Picture) -> String {
    let scene = Scene::of(picture);
    let (mut body, mut patterns, mut marked) = (String::new(), String::new(), BTreeSet::new());
    for shape in &scene.shapes {
        let _ = match shape {
            Shape::Rect { x, y, width, height, fill, mark, cell } => {
                let paint = match mark {
                    Mark::None => hex(*fill),
                    mark => {
                        let name = pattern_name(*fill, *mark, *cell);
                        let paint = format!("url(#{name})");
                        if marked.insert(name) {
                            patterns.push_str(&pattern(*fill, *mark, *cell));
                        }
                        paint
                    }
                };
                writeln!(body, "<path fill=\"{paint}\" d=\"M{x} {y}h{width}v{height}h-{width}z\"/>")
            }
            Shape::Text { x, y, text, strong } => {
                let weight = if *strong { " font-weight=\"bold\"" } else { "" };
                writeln!(body, "<text x=\"{x}\" y=\"{y}\"{weight}>{}</text>", escaped(text))
            }
        };
    }
    let height = scene.height;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"12\" shape-rendering=\"crispEdges\">\n\
         <title>{}</title>\n<defs>\n{patterns}</defs>\n<path fill=\"#ffffff\" d=\"M0 0h{WIDTH}v{height}h-{WIDTH}z\"/>\n\
         <g fill=\"#202020\">\n{body}</g>\n</svg>\n",
        escaped(&picture.title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{BlockPicture, Cell};

    fn picture(name: &str, cells: Vec<Cell>) -> Picture {
        let block = BlockPicture {
            name: name.to_owned(),
            bytes: 3 * 4096,
            cell_pages: 1,
            cells,
            ..BlockPicture::default()
        };
        Picture {
            title: "<x>".to_owned(),
            machine: "&".to_owned(),
            page_size: 4096,
            against: None,
            blocks: vec![block],
            left_out: 0,
            timeline: Vec::new(),
        }
    }

    #[test]
    fn names_of_a_stream_do_not_leave_their_text() {
        let svg =
            svg(&picture("a\"/><script>alert(1)</script>", vec![Cell { content: 1, ..Cell::default() }; 3]));
        assert!(!svg.contains("<script") && !svg.contains("<x>"), "{svg}");
        assert!(svg.contains("h36v12h-36z"), "three cells of one look are one rectangle: {svg}");
        assert!(svg.contains("<text x=\"12\" y=\"") && svg.contains("12 KiB"), "{svg}");
    }

    #[test]
    fn the_legend_shows_what_is_there() {
        let zero = svg(&picture("a", vec![Cell::default(); 3]));
        assert!(zero.contains(">zero<") && !zero.contains("hot") && !zero.contains(">changed<"), "{zero}");
        let hot = svg(&picture("a", vec![Cell { hot: true, ..Cell::default() }; 3]));
        assert!(hot.contains(">hot, and zero<") && hot.contains("url(#"), "{hot}");
    }
}
