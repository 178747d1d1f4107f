//! `stat`: counts, as text or as one JSON object.

use super::output::Output;
use crate::cli::StatArgs;
use crate::error::Error;
use crate::escape::{json_line, terminal};
use crate::input::open;
use crate::presence::Presence;
use crate::progress;
use crate::stat::{Counter, SectionStat, Stat};
use crate::walk::walk;

pub(super) fn run(args: &StatArgs) -> Result<u8, Error> {
    let options = args.input.options();
    let opened = open(&args.file, &options)?;
    let mut counter = Counter::new(opened.kind.name());
    walk(opened, &options, &mut counter, progress::bar())?;
    let stat = counter.finish();
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
    let machine = stat.machine.as_ref().map_or_else(|| "-".to_owned(), |name| terminal(name.as_bytes()));
    output.line(&format!(
        "{}: {} bytes, machine {machine}, page size {}",
        stat.kind, stat.bytes, stat.page_size
    ))?;
    if !stat.blocks.is_empty() {
        output.line("\nblock                            bytes     normal       zero     xbzrle compressed   repeated      never")?;
    }
    for block in &stat.blocks {
        let elsewhere = if block.ram.is_here() { "" } else { block.ram.name() };
        let number = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        output.line(
            format!(
                "{:<24} {:>13} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {elsewhere}",
                terminal(block.name.as_bytes()),
                number(block.bytes),
                block.normal,
                block.zero,
                block.xbzrle,
                block.compressed,
                block.repeated,
                number(block.missing),
            )
            .trim_end(),
        )?;
    }
    for presence in elsewhere(stat) {
        output.line(&format!("{}: not in this file; {}", presence.name(), presence.reason()))?;
    }
    let order = stat.order;
    output.line(&format!(
        "\norder: {} pages follow the one before, {} further on, {} back, {} of another block",
        order.following, order.forward, order.backward, order.other_block
    ))?;
    let content = stat.content;
    let about = if content.distinct_is_exact { "" } else { "about " };
    let packed = content.compressed_percent.map_or_else(
        || "none compressed to see".to_owned(),
        |percent| format!("zstd -1 makes {percent:.1} % of {} sampled ones", content.sampled),
    );
    output.line(&format!(
        "content: {} pages, {} of them zero, {about}{} different ones; {packed}",
        content.pages, content.zero, content.distinct
    ))?;
    sections(output, "section", &stat.sections)?;
    sections(output, "device", &stat.devices)?;
    if !stat.commands.is_empty() {
        let commands: Vec<_> = stat.commands.iter().map(|(name, count)| format!("{name} {count}")).collect();
        output.line(&format!("\ncommands: {}", commands.join(", ")))?;
    }
    output.line(&format!("vmdesc: {} bytes", stat.vmdesc_bytes))?;
    if let Some(error) = &stat.error {
        output.line(&format!("error: {error}"))?;
    }
    Ok(())
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
        output.line(&format!("\n{what:<40} instance version  count        bytes"))?;
    }
    for section in sections {
        output.line(&format!(
            "{:<40} {:>8} {:>7} {:>6} {:>12}",
            terminal(section.name.as_bytes()),
            section.instance,
            section.version,
            section.sections,
            section.bytes
        ))?;
    }
    Ok(())
}
