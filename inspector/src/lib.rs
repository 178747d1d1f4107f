//! Shows, checks, compares and converts QEMU migration streams and snapshot images.
//!
//! [`input::open()`] recognises an input by its content and unwraps it; [`walk::walk()`] goes
//! over it piece by piece, in constant memory, and hands every piece and every finding to a
//! [`walk::Visitor`]. The commands of the program `snapinspect` are such visitors.
#![deny(unsafe_code)]

mod advice;
mod bus_error;
pub mod check;
pub mod cli;
mod command;
pub mod compat;
mod contents;
mod convert;
mod diff;
mod error;
pub mod escape;
mod extract;
mod hint;
mod image_text;
mod info;
pub mod input;
mod line;
mod linear;
mod machines;
mod map;
mod pages;
mod presence;
mod progress;
pub mod qemu_args;
pub mod refcounts;
mod sink;
mod size;
pub mod source;
pub mod stat;
mod text;
mod unpack;
pub mod walk;

pub use advice::Advice;
pub use bus_error::end_on_bus_error;
pub use command::run;
pub use error::Error;
pub use hint::error_text;
pub use presence::Presence;
