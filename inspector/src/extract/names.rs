//! Names of blocks in messages.

/// Names that a message has at most.
const NAMES_SHOWN: usize = 32;

/// Names in a message: a hostile file can have a million.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
