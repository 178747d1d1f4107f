//! Mapped revert: the destination has RAM blocks mapped privately from the image, and their pages
//! are left out of the stream.
//!
//! A wrong mapping would be a guest on zeros or on other bytes, so it is proved before a byte is
//! sent, and what cannot be proved is refused:
//!
//! 1. `peer`: which process is at the other end of the channel.
//! 2. `judge`: its command line names the block's memory and its place in the file, and its list of
//!    mappings has this place, private, of the image's file, as `own` has found it to be shown.
//! 3. `descriptors`: it has the image open, and could write to it by no descriptor.
//! 4. `copied`: pages of which it has copies are sent.
//!    With files that `unpack` made, `unpacked` does the same.
//! 5. `verify`: what lies in the file is what was saved, zero pages included; `record` spares that
//!    the next time.

mod command_line;
mod copied;
mod descriptors;
mod destination;
mod file_system;
mod job;
mod judge;
mod maps;
mod not_mapped;
mod options;
mod own;
mod peer;
mod process;
mod record;
mod refusal;
mod unix_diag;
mod unpacked;
mod verify;

pub use command_line::{Backend, CommandLineError, parse_command_line};
pub(crate) use job::MappedRevert;
pub use job::verify_mapped;
pub use judge::{Evidence, Proven, Wanted, candidates, prove};
pub use maps::{FileKey, Mapping, MapsError, parse_maps};
pub(crate) use not_mapped::NotMapped;
pub use options::{Blocks, Verify};
pub use refusal::{Problem, Refusal};
