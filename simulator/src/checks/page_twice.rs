use super::{Invariant, Violation};

/// In postcopy only a missing page may come: the kernel says EEXIST of any other.
pub(crate) fn no_page_twice(was_missing: bool, place: &str) -> Result<(), Violation> {
    let twice = || Violation::new(Invariant::PageTwice, format!("{place}: was there already (EEXIST)"));
    was_missing.then_some(()).ok_or_else(twice)
}
