//! `map`.

use super::progress;
use crate::cli::MapArgs;
use crate::contents::{Contents, RamFile, load};
use crate::error::Error;
use crate::escape::terminal;
use crate::input::OpenOptions;
use crate::map::{Hot, html, picture, png, svg};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

pub(super) fn run(args: &MapArgs) -> Result<u8, Error> {
    let ending = args.output.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if !["png", "svg", "html"].contains(&ending) {
        return Err(Error::Usage("the output's name ends in .png, .svg or .html".to_owned()));
    }
    let options = args.input.options();
    let read = |path: &Path, options: &OpenOptions| -> Result<Contents, Error> {
        load(path, options, Some(RamFile::temporary()?.watching()), progress::bar())
    };
    let contents = read(&args.file, &options)?;
    let alone = options.without_channels();
    let against = args.against.as_deref().map(|path| read(path, &alone)).transpose()?;
    let hot = args.hot.as_deref().map(|path| Hot::read(path, &alone)).transpose()?;
    let picture = picture(&contents, against.as_ref(), &hot.unwrap_or_default())?;
    let name = terminal(args.output.as_os_str().as_encoded_bytes());
    let mut out = BufWriter::new(File::create(&args.output).map_err(Error::io(&name))?);
    match ending {
        "png" => png(&picture, &mut out)?,
        "svg" => out.write_all(svg(&picture).as_bytes()).map_err(Error::io(&name))?,
        _ => out.write_all(html(&picture)?.as_bytes()).map_err(Error::io(&name))?,
    }
    out.flush().map_err(Error::io(&name))?;
    Ok(0)
}
