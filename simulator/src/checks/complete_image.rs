use super::{Invariant, Violation};

/// After a save: what it reported, and whether the image is accepted by a revert. A save that
/// reported success left a snapshot; a power cut may leave one or none.
pub(crate) fn accepted_only_if_complete(
    reported: Option<bool>,
    accepted: bool,
    whole: bool,
) -> Result<(), Violation> {
    let what = match (reported, accepted) {
        (_, true) if !whole => "an image is accepted that does not hold the snapshot",
        (Some(true), false) => "a save reported success, and there is no snapshot",
        (Some(false), true) => "a save reported failure, and there is a snapshot",
        _ => return Ok(()),
    };
    Err(Violation::new(Invariant::CompleteImage, what))
}
