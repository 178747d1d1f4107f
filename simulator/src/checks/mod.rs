//! What must never happen, each rule in a file of its own.

mod complete_image;
mod eternal_wait;
mod lost_page;
mod mapped_view;
mod page_twice;
mod request_answered;
mod wrong_page;

pub(crate) use complete_image::accepted_only_if_complete;
pub(crate) use eternal_wait::no_eternal_wait;
pub(crate) use lost_page::{Fate, no_lost_page};
pub use mapped_view::mapped_view;
pub(crate) use page_twice::no_page_twice;
pub(crate) use request_answered::every_request_answered;
pub(crate) use wrong_page::no_wrong_page;

use std::fmt;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// Every page that is placed is as it was saved.
    WrongPage,
    /// In the end no page is missing or stale.
    LostPage,
    /// In postcopy no page comes that is there already.
    PageTwice,
    /// Whoever waits for a page gets it.
    RequestAnswered,
    /// There is always something that can happen, until all is done.
    EternalWait,
    /// An image that is accepted holds the whole snapshot, and nothing else.
    CompleteImage,
    /// What comes is what a destination accepts, in the order in which it does.
    Protocol,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongPage => "no wrong page",
            Self::LostPage => "no lost page",
            Self::PageTwice => "no page twice",
            Self::RequestAnswered => "every request answered",
            Self::EternalWait => "no eternal wait",
            Self::CompleteImage => "an image accepted only if complete",
            Self::Protocol => "protocol",
        })
    }
}

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {text}")]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// How.
    pub text: String,
}

impl Violation {
    pub(crate) fn new(invariant: Invariant, text: impl Into<String>) -> Self {
        Self { invariant, text: text.into() }
    }

    /// What QEMU would refuse.
    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        Self::new(Invariant::Protocol, text)
    }
}
