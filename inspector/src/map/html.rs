//! The picture as one page of HTML, which loads nothing from anywhere.

use super::scene::{scale, totals};
use super::{Cell, Picture};
use crate::error::Error;
use crate::escape::{html as escaped, script_json};
use serde_json::json;
use snapshot_engine::size_text;

const PAGE: &str = include_str!("page.html");

/// One digit for each cell: content, and 3 more for hot, 6 more for changed.
fn digit(cell: &Cell) -> char {
    let flags = if cell.changed { 6 } else { 3 * u8::from(cell.hot) };
    char::from(b'0' + cell.content + flags)
}

/// The page.
pub(crate) fn html(picture: &Picture) -> Result<String, Error> {
    let compared = picture.against.is_some();
    let blocks: Vec<_> = picture
        .blocks
        .iter()
        .map(|block| {
            json!({
                "name": block.name,
                "size": size_text(block.bytes),
                "cellPages": block.cell_pages,
                "columns": block.columns(),
                "scale": scale(block, picture.page_size),
                "words": totals(block, compared),
                "totals": block.totals,
                "compared": block.compared,
                "changed": block.changed,
                "changedRanges": block.changed_ranges,
                "cells": block.cells.iter().map(digit).collect::<String>(),
            })
        })
        .collect();
    let data = json!({
        "title": picture.title,
        "subtitle": picture.subtitle(),
        "pageSize": picture.page_size,
        "against": picture.against,
        "blocks": blocks,
        "leftOut": picture.left_out,
        "timeline": picture.timeline,
    });
    let data = serde_json::to_string(&data).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(PAGE.replacen("{{title}}", &escaped(&picture.title), 1).replacen("{{data}}", &script_json(&data), 1))
}
