//! The picture as one page of HTML, which loads nothing from anywhere.

use super::{COLUMNS, LEGEND, Picture, colour};
use crate::error::Error;
use crate::escape::{html as escaped, script_json};
use serde_json::json;

const PAGE: &str = include_str!("page.html");

/// The page.
pub(crate) fn html(picture: &Picture) -> Result<String, Error> {
    let blocks: Vec<_> = picture
        .blocks
        .iter()
        .map(|block| {
            // One digit for each cell: content, and 3 more for hot, 6 more for changed.
            let cells: String = block
                .cells
                .iter()
                .map(|cell| {
                    let flags = if cell.changed { 6 } else { 3 * u8::from(cell.hot) };
                    char::from(b'0' + cell.content + flags)
                })
                .collect();
            json!({
                "name": block.name, "bytes": block.bytes, "cellPages": block.cell_pages, "cells": cells,
            })
        })
        .collect();
    let colours: Vec<_> = (0..9u8)
        .map(|digit| {
            let cell = super::Cell { content: digit % 3, hot: (3..6).contains(&digit), changed: digit >= 6 };
            let [red, green, blue] = colour(cell);
            format!("#{red:02x}{green:02x}{blue:02x}")
        })
        .collect();
    let legend: Vec<_> = LEGEND
        .iter()
        .map(|(words, cell)| {
            let [red, green, blue] = colour(*cell);
            json!({ "words": words, "colour": format!("#{red:02x}{green:02x}{blue:02x}") })
        })
        .collect();
    let data = json!({
        "title": picture.title, "machine": picture.machine, "pageSize": picture.page_size,
        "against": picture.against, "columns": COLUMNS, "blocks": blocks, "colours": colours, "legend": legend,
        "leftOut": picture.left_out, "timeline": picture.timeline,
    });
    let data = serde_json::to_string(&data).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(PAGE.replacen("{{title}}", &escaped(&picture.title), 1).replacen("{{data}}", &script_json(&data), 1))
}
