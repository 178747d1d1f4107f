use super::{Invariant, Violation};

/// Who still waits at the end mark waits for a page that is zero.
pub(crate) fn every_request_answered(is_zero: bool, place: &str) -> Result<(), Violation> {
    let unanswered =
        || Violation::new(Invariant::RequestAnswered, format!("{place}: still waited for at the end"));
    is_zero.then_some(()).ok_or_else(unanswered)
}
