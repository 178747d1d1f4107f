//! What a test does without a thing that it needs ([`not_run`], [`in_part`]), and where QEMU's
//! programs are ([`programs`]).
//!
//! `cargo test-all` runs all tests and ends with a line that counts both kinds of skip, and their reasons.

mod huge_pages;
pub mod modules;
pub mod programs;
mod skips;

pub use huge_pages::huge_pages_or_skip;
pub use skips::{Kind, RECORD, in_part, not_run};
