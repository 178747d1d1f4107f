//! Counts the pages of each RAM block in a migration stream.
//!
//! ```sh
//! cargo run -p migration-stream --example count_pages -- vm.stream
//! ```
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "an example reads a file")]

use migration_stream::{Options, PageContent, ReadError, Record, StreamReader, name_text};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

/// Page records of one block.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Pages of zeros.
    pub(crate) zero: u64,
    /// All others.
    pub(crate) normal: u64,
}

/// Counts the page records of a stream by the names of their blocks.
pub(crate) fn count_pages(source: impl Read) -> Result<BTreeMap<String, Pages>, ReadError> {
    let mut blocks: BTreeMap<String, Pages> = BTreeMap::new();
    let mut reader = StreamReader::new(source, Options::default());
    while let Some(entry) = reader.advance()? {
        if let Record::Page(page) = entry.record {
            let pages = blocks.entry(name_text(&entry.blocks[page.block].idstr)).or_default();
            match page.content {
                PageContent::Zero => pages.zero += 1,
                _ => pages.normal += 1,
            }
        }
    }
    Ok(blocks)
}

#[allow(dead_code, reason = "a test of the crate includes this file")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: count_pages FILE")?;
    for (name, pages) in count_pages(File::open(path)?)? {
        println!("{name}: {} pages, {} of zeros", pages.normal + pages.zero, pages.zero);
    }
    Ok(())
}
