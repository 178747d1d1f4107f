use super::{Invariant, Violation};

/// What a page is worth in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Neither sent nor discarded.
    Stale,
    /// It came.
    Came,
    /// It did not come, and reads as zero.
    Missing,
    /// A part of its host page came.
    Half,
}

/// In the end a page has come, or is zero and was meant to be.
pub(crate) fn no_lost_page(fate: Fate, is_zero: bool, place: impl Fn() -> String) -> Result<(), Violation> {
    let what = match fate {
        Fate::Came => return Ok(()),
        Fate::Missing if is_zero => return Ok(()),
        Fate::Missing => "never sent",
        Fate::Stale => "neither sent nor discarded",
        Fate::Half => "half a host page",
    };
    Err(Violation::new(Invariant::LostPage, format!("{}: {what}", place())))
}
