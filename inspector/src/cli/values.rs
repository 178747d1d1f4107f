//! Values of options.

use std::num::ParseIntError;

/// Why a value of `--place` or `--dimm` is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("expected NAME=ADDRESS or NAME=none")]
    Shape,
    #[error("expected NAME=ADDRESS")]
    Dimm,
    #[error(transparent)]
    Address(#[from] ParseIntError),
}

/// A block and its address, or `none`. A block's name may have a = in it.
pub(super) fn place(text: &str) -> Result<(String, Option<u64>), PlaceError> {
    let (name, address) = text.rsplit_once('=').ok_or(PlaceError::Shape)?;
    let address = if address == "none" { None } else { Some(number(address)?) };
    Ok((name.to_owned(), address))
}

/// A block and its address.
pub(super) fn dimm(text: &str) -> Result<(String, u64), PlaceError> {
    let (name, address) = text.rsplit_once('=').ok_or(PlaceError::Dimm)?;
    Ok((name.to_owned(), number(address)?))
}

/// A number, decimal or with 0x.
pub(super) fn number(text: &str) -> Result<u64, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    }
}
