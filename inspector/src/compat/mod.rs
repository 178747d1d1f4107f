//! Would a QEMU that writes one stream load another?
//!
//! Both sides are reduced to a [`Shape`]: of a real stream what was sent, of a `-dump-vmstate` file
//! what can be sent. What cannot be compared is never called safe.

mod allow;
mod cause;
mod elements;
mod fields;
mod machine;
mod recut;
mod shape;
mod state;

pub use allow::{AllowList, AllowListError, LineProblem};
pub use cause::{Cause, causes};
pub use shape::Shape;

use serde::Serialize;
use shape::StateShape;

/// What a difference means for loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It loads.
    Safe,
    /// It depends on the state of the guest, or does not follow from what is known.
    MayBreak,
    /// It does not load.
    Breaks,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::MayBreak => "may break",
            Self::Breaks => "breaks",
        }
    }
}

/// A difference, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// What it means.
    pub verdict: Verdict,
    /// The rule that says so.
    pub rule: &'static str,
    /// What differs: `machine`, `block pc.ram`, `device cpu/0: env.regs`. Escaped.
    pub path: String,
    /// How.
    pub text: String,
}

/// Rules that name no difference, but something that could not be compared.
const NOT_COMPARED: [&str; 5] =
    ["not-compared", "not-described", "field-conditional", "field-empty", "isa-vga"];

impl Judgement {
    /// Whether it names a difference; otherwise something could not be compared.
    #[must_use]
    pub fn is_difference(&self) -> bool {
        !NOT_COMPARED.contains(&self.rule)
    }
}

/// Collects judgements.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) judgements: Vec<Judgement>,
}

impl Judge {
    fn say(&mut self, verdict: Verdict, rule: &'static str, path: &str, text: impl Into<String>) {
        self.judgements.push(Judgement { verdict, rule, path: path.to_owned(), text: text.into() });
    }

    fn breaks(&mut self, rule: &'static str, path: &str, text: impl Into<String>) {
        self.say(Verdict::Breaks, rule, path, text);
    }

    fn may_break(&mut self, rule: &'static str, path: &str, text: impl Into<String>) {
        self.say(Verdict::MayBreak, rule, path, text);
    }

    fn safe(&mut self, rule: &'static str, path: &str, text: impl Into<String>) {
        self.say(Verdict::Safe, rule, path, text);
    }

    /// Judges a structure in a field: a state of its own, whose fields may have structures again.
    fn structure(&mut self, path: &str, source: &StateShape, target: &StateShape, how: How<'_>) {
        state::state(self, path, source, target, how);
    }
}

/// How a state is compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct How<'a> {
    /// The source is known by what it may send, not by what it has sent.
    pub(super) possible: bool,
    /// The version as of which the target reads the fields.
    pub(super) version: u64,
    /// What the source sent.
    pub(super) body: &'a [u8],
}

/// Judges whether a QEMU that writes `target` loads `source`. No judgement at all: nothing differs.
#[must_use]
pub fn judge(source: &Shape, target: &Shape) -> Vec<Judgement> {
    let mut judge = Judge::default();
    machine::machine(&mut judge, source, target);
    machine::blocks(&mut judge, source, target);
    machine::iterables(&mut judge, source, target);
    state::devices(&mut judge, source, target);
    judge.judgements
}

#[cfg(test)]
mod tests;
