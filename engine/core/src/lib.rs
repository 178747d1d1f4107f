//! Sans-IO machines that save a migration stream to an image and revert a guest from it.
//!
//! [`SaveMachine`] and [`RevertMachine`] are [`Machine`]s: a driver reports to them what happened
//! ([`Event`]) and carries out what they want done ([`Action`]). They perform no I/O, read no clock
//! and know no file: everything that differs between production, tests and a simulation under one
//! seed is in the driver.
//!
//! * To save or revert for real, use the crate `qemu-snapshot`, which drives these machines with
//!   io_uring or threads.
//! * To run one from a file to a file, implement [`blocking::Io`] and call [`blocking::run`].
//! * To drive them yourself, read [`machine`] for the rules, take a [`Pool`], and run the loop that
//!   it describes.
//!
//! The wire format is the business of `migration-stream`, the file format that of `snapshot-image`.
#![forbid(unsafe_code)]

mod bits;
mod block_name;
pub mod blocking;
mod failure;
pub mod identity;
mod ids;
pub mod machine;
mod memory;
pub mod pool;
mod progress;
mod ram_section;
mod revert;
mod save;
mod size;
mod steps;
mod text;
mod watch;
mod zero;

pub use block_name::{RAM_FILES_MANIFEST, block_name_text, parse_block_name, ram_file_name};
pub use failure::{
    Class, Doing, Failure, HostPagesError, MappedError, Region, ReturnPathError, ReturnPathErrorKind,
    Unsupported,
};
pub use machine::{Action, Completed, Event, IoError, IoId, Lane, Machine, Milestone};
pub use memory::OutOfMemory;
pub use pool::{Buffer, BufferId, Pool};
pub use progress::Progress;
pub use revert::postcopy::hot_set::{HOT_SET_LIMIT_BYTES, HotSet};
pub use revert::postcopy::recovery::check_recovery;
pub use revert::postcopy::{PostcopyConfig, PostcopySummary};
pub use revert::{MappedBlock, RevertConfig, RevertMachine, RevertSummary};
pub use save::{NewImage, SaveConfig, SaveMachine, SaveSummary};
pub use text::{error_text, parse_bytes, parse_page_size, parse_uuid, size_text, uuid_text};
