//! `stat`: counts, as text or as one JSON object.

use super::output::Output;
use crate::cli::StatArgs;
use crate::error::Error;
use crate::escape::{json_line, terminal};
use crate::hint::{self, presence_text};
use crate::input::{Kind, open};
use crate::linear;
use crate::presence::Presence;
use crate::progress;
use crate::stat::{Counter, SectionStat, Stat};
use crate::text::{Layout, count, plural};
use crate::walk::walk;
use snapshot_engine::size_text;

/// Columns of a block's name; a longer one has a line of its own.
const NAME_COLUMNS: usize = 22;
/// Where the names of commands begin.
const COMMANDS_COLUMN: usize = 10;

pub(super) fn run(args: &StatArgs) -> Result<u8, Error> {
    let options = args.input.options();
    let opened = open(&args.file, &options)?;
    let image = opened.image.as_ref().filter(|_| opened.snapshots.is_empty());
    let layout = match image {
        Some(file) => linear::layout_of(&opened.name, file, options.reading())?,
        None => None,
    };
    let mut counter = Counter::new(opened.kind.name());
    walk(opened, &options, &mut counter, progress::bar())?;
    let mut stat = counter.finish();
    stat.layout = layout.map(|layout| layout.to_string());
    stat.error = stat.error.take().map(|error| hint::with(error, stat.advice.as_ref()));
    let mut output = Output::stdout();
    if args.json {
        let json = serde_json::to_string(&stat).map_err(|error| Error::Usage(error.to_string()))?;
        output.line(&json_line(&json))?;
    } else {
        text(&stat, &mut output)?;
    }
    output.flush()?;
    Ok(u8::from(stat.error.is_some()))
}

fn text(stat: &Stat, output: &mut Output) -> Result<(), Error> {
    if let (Some(error), true) = (&stat.error, stat.blocks.is_empty() && stat.sections.is_empty()) {
        // Nothing was counted.
        return output.line(&format!("{}: error: {error}", stat.kind));
    }
    let machine = stat.machine.as_ref().map_or_else(|| "-".to_owned(), |name| terminal(name.as_bytes()));
    let size = match size_text(stat.bytes) {
        size if size.ends_with("bytes") => size,
        size => format!("{size} ({} bytes)", count(stat.bytes)),
    };
    let page_size = size_text(stat.page_size.into());
    let layout = stat.layout.as_ref().map_or_else(String::new, |layout| format!(", {layout} layout"));
    output.line(&format!("{}: {size}, machine {machine}, pages of {page_size}{layout}", stat.kind))?;
    blocks(stat, output)?;
    let order = stat.order;
    output.line(&format!(
        "\norder: {} follow the one before, {} lie further on, {} back, {} in another block",
        plural(order.following, "page"),
        count(order.forward),
        count(order.backward),
        count(order.other_block)
    ))?;
    content(stat, output)?;
    sections(output, "section", &stat.sections)?;
    sections(output, "device", &stat.devices)?;
    if !stat.commands.is_empty() {
        let commands: Vec<_> = stat.commands.iter().map(|(name, count)| format!("{name} {count}")).collect();
        output.line("")?;
        let rows = Layout::new().wrapped("commands:".to_owned(), COMMANDS_COLUMN, &commands, ", ");
        rows.iter().try_for_each(|row| output.line(row))?;
    }
    output.line(&format!("vmdesc: {}", size_text(stat.vmdesc_bytes)))?;
    if let Some(error) = &stat.error {
        output.line(&format!("error: {error}"))?;
    }
    Ok(())
}

/// The table of blocks, and what its headings mean.
fn blocks(stat: &Stat, output: &mut Output) -> Result<(), Error> {
    if stat.blocks.is_empty() {
        return Ok(());
    }
    let head = ["block", "size", "normal", "zero", "xbzrle", "compressed", "repeated", "never"];
    let row = |cells: [&str; 8], place: &str| {
        let [name, size, normal, zero, xbzrle, compressed, repeated, never] = cells;
        let row = format!(
            "{name:<NAME_COLUMNS$} {size:>10} {normal:>11} {zero:>11} {xbzrle:>8} {compressed:>10} {repeated:>9} {never:>10} {place}"
        );
        row.trim_end().to_owned()
    };
    output.line("")?;
    output.line(&row(head, ""))?;
    for block in &stat.blocks {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), count);
        let mut name = terminal(block.name.as_bytes());
        if name.len() > NAME_COLUMNS {
            output.line(&std::mem::take(&mut name))?;
        }
        let cells = [
            name,
            block.bytes.map_or_else(|| "-".to_owned(), size_text),
            count(block.normal),
            count(block.zero),
            count(block.xbzrle),
            count(block.compressed),
            count(block.repeated),
            number(block.missing),
        ];
        let place = if block.ram.is_here() { "" } else { block.ram.name() };
        output.line(&row(cells.each_ref().map(String::as_str), place))?;
    }
    LEGEND.iter().try_for_each(|line| output.line(line))?;
    if stat.kind == Kind::Image.name() {
        output.line(ZERO_IN_AN_IMAGE)?;
    }
    for presence in elsewhere(stat) {
        output.line(&format!("{}: not in this file; {}", presence.name(), presence_text(presence)))?;
    }
    Ok(())
}

/// The save counts a page that never arrived as one that is zero.
const ZERO_IN_AN_IMAGE: &str =
    "(an image: zero, or never sent, as with a balloon or virtio-mem: it does not say which)";

/// What the columns of the blocks count.
const LEGEND: [&str; 3] = [
    "(normal: pages with their content; zero: pages that are zero, without it; xbzrle: as a difference",
    "to what was sent before; compressed: with zlib; repeated: pages that had arrived before; never:",
    "pages that did not arrive)",
];

fn content(stat: &Stat, output: &mut Output) -> Result<(), Error> {
    let content = stat.content;
    let about = if content.distinct_is_exact { "" } else { "about " };
    let packed = content.compressed_percent.map_or_else(
        || "none compressed to see".to_owned(),
        |percent| format!("zstd -1 makes {percent:.1} % of {} sampled ones", count(content.sampled)),
    );
    output.line(&format!(
        "content: {}, {} of them zero, {about}{} different ones; {packed}",
        plural(content.pages, "page"),
        count(content.zero),
        count(content.distinct)
    ))
}

/// Where blocks are that are not in the file, each place once.
fn elsewhere(stat: &Stat) -> Vec<Presence> {
    let mut places = Vec::new();
    for block in stat.blocks.iter().filter(|block| !block.ram.is_here()) {
        if !places.contains(&block.ram) {
            places.push(block.ram);
        }
    }
    places
}

fn sections(output: &mut Output, what: &str, sections: &[SectionStat]) -> Result<(), Error> {
    if !sections.is_empty() {
        output.line(&format!("\n{what:<40} instance version   count          bytes"))?;
    }
    for section in sections {
        output.line(&format!(
            "{:<40} {:>8} {:>7} {:>7} {:>14}",
            terminal(section.name.as_bytes()),
            section.instance,
            section.version,
            count(section.sections),
            count(section.bytes)
        ))?;
    }
    Ok(())
}
