//! Saves a running QEMU VM into one image, and reverts it: the machines of `snapshot-engine` on a
//! real disk and a real channel.
//!
//! [`save`] and [`revert`] are the whole jobs of the program `qemu-snapshot`; [`Cli`] is its
//! command line. [`unpack()`] writes the RAM of an image to files, and [`RamFiles`] knows whether they
//! are still what it wrote. One thread runs one machine; disk operations are carried out by io_uring, Linux
//! AIO or worker threads.

mod ballast;
mod block_options;
mod channel;
mod cli;
mod close;
mod command;
mod descriptor;
mod disk;
mod event_loop;
mod folder;
mod hint;
mod identity;
mod image_file;
mod job;
mod last_resort;
mod leftovers;
mod listener;
mod lock;
mod lock_inherited;
pub mod mapped;
mod new_file;
mod open_snapshot;
mod progress;
mod progress_mode;
mod report;
mod sidecar;
mod size;
mod small_pipe;
mod trace;
mod trust;
mod unpack;
mod wait;
mod words;

pub use block_options::{Aio, ImageSpec, SpecError};
pub use channel::{Channel, Uri};
pub use cli::Cli;
pub use command::{Command, LockArgs, UnpackArgs};
pub use identity::IdentityArgs;
pub use image_file::{ImageFile, OpenError};
pub use job::{Reverted, refuse_peer, revert, save};
pub use last_resort::prepare;
pub use lock_inherited::{LockError, lock_inherited};
pub use progress_mode::ProgressMode;
pub use report::Report;
pub use trace::Pattern;
pub use unpack::{FileStamp, RamFile, RamFiles, RamFilesError, UnpackSummary, unpack};
