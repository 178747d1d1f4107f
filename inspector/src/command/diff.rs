//! `diff`: one difference per line.

use super::output::Output;
use super::progress;
use crate::cli::DiffArgs;
use crate::contents::{RamFile, load};
use crate::diff::diff;
use crate::error::Error;

pub(super) fn run(args: &DiffArgs) -> Result<u8, Error> {
    if args.a == args.b && args.a.as_os_str() == "-" {
        return Err(Error::Usage("only one of the two can be stdin".to_owned()));
    }
    let options = args.input.options();
    let a = load(&args.a, &options, Some(RamFile::temporary()?), progress::bar())?;
    let b = load(&args.b, &options.without_channels(), Some(RamFile::temporary()?), progress::bar())?;
    let mut output = Output::stdout();
    let mut differs = false;
    diff(&a, &b, &mut |line| {
        differs = true;
        output.line(&if args.format.or_json(args.json) == crate::cli::Shown::Json {
            line.json()
        } else {
            line.text()
        })
    })?;
    output.flush()?;
    Ok(u8::from(differs))
}
