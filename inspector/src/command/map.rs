//! `map`.

use crate::cli::MapArgs;
use crate::contents::{Contents, RamFile, load};
use crate::error::Error;
use crate::escape::terminal;
use crate::hint::presence_text;
use crate::input::OpenOptions;
use crate::map::{Hot, html, picture, png, svg};
use crate::progress;
use crate::sink;
use std::path::Path;

pub(super) fn run(args: &MapArgs, inputs: &[&Path]) -> Result<u8, Error> {
    let ending = args.output.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if !["png", "svg", "html"].contains(&ending) {
        return Err(Error::Usage("the output's name ends in .png, .svg or .html".to_owned()));
    }
    let mut out = sink::open(&args.output, inputs, args.force)?;
    let options = args.input.options();
    let read = |path: &Path, options: &OpenOptions| -> Result<Contents, Error> {
        load(path, options, Some(RamFile::temporary()?.watching()), progress::bar())
    };
    let contents = read(&args.file, &options)?;
    let alone = options.without_channels();
    drawable(&contents)?;
    let against = args.against.as_deref().map(|path| read(path, &alone)).transpose()?;
    if let Some(against) = &against {
        say_absent(against, "not compared");
    }
    let hot = args.hot.as_deref().map(|path| Hot::read(path, &alone)).transpose()?;
    let picture = picture(&contents, against.as_ref(), &hot.unwrap_or_default())?;
    match ending {
        "png" => {
            let mut bytes = Vec::new();
            png(&picture, &mut bytes)?;
            out.put(&bytes)?;
        }
        "svg" => out.put(svg(&picture).as_bytes())?,
        _ => out.put(html(&picture)?.as_bytes())?,
    }
    out.commit()?;
    Ok(0)
}

/// Whether there is something to draw; says what is not.
fn drawable(contents: &Contents) -> Result<(), Error> {
    let here = (0..contents.blocks.len()).any(|block| contents.is_here(block));
    match contents.blocks.first() {
        Some(first) if !here => Err(contents.presence(0).refusal(&contents.name, first)),
        _ => {
            say_absent(contents, "not drawn");
            Ok(())
        }
    }
}

fn say_absent(contents: &Contents, what: &str) {
    for (block, presence) in contents.absent() {
        let name = terminal(&block.idstr);
        let reason = presence_text(presence);
        eprintln!(
            "snapinspect: {}: block \"{name}\" is {what}: its RAM is not in it: {reason}",
            contents.name
        );
    }
}
