//! Placeholder front page; written with the crate.
