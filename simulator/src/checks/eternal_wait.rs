use super::{Invariant, Violation};

/// Events after which a small world must have come to its end.
const EVENT_LIMIT: u64 = 20_000_000;

/// Some event is possible, and the events come to an end.
pub(crate) fn no_eternal_wait(choices: usize, event: u64, who: impl Fn() -> String) -> Result<(), Violation> {
    let wrong = |what: &str| Err(Violation::new(Invariant::EternalWait, format!("{what}; {}", who())));
    match choices {
        0 => wrong("deadlock: no event is possible"),
        _ if event > EVENT_LIMIT => wrong("no end in sight"),
        _ => Ok(()),
    }
}
