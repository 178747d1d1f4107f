//! The test bed: real QEMUs, a guest that checks its own memory, and the built tool.
//!
//! A test asks for what it needs and gives up visibly where that is missing:
//!
//! ```no_run
//! use snapshot_tests::{Config, Guest, Qemu, Version};
//!
//! let Some(binary) = Version::V10_0.binary_or_skip() else { return };
//! let Some(guest) = Guest::built_or_skip() else { return };
//! let mut source = Qemu::start(&binary, guest, Config::default());
//! source.console().wait_ready();
//! ```
//!
//! * [`Version`], [`Binary`]: which QEMUs there are, and where.
//! * [`Qemu`], [`Config`]: one running machine; killed when dropped, its last words printed if the
//!   test fails.
//! * [`Qmp`]: its monitor, every answer within a deadline.
//! * [`Guest`], [`Console`]: the guest in `guest/`, and what it says about its memory.
//! * [`ToImage`]: a save into an image, which is judged when QEMU says that it has completed.
//! * [`Saved`], [`Server`]: a snapshot to revert from, and the tool that does it beside QEMU.
//! * [`tool`], [`image`]: the `qemu-snapshot` binary of this build, and the judges of what it writes.
//!
//! * [`analyzer_or_skip`]: QEMU's own `analyze-migration.py`.
//! * [`ram`]: what a stream holds in the end.
//! * [`malformed`]: files that are wrong in one place.
//! * [`corpus`]: streams captured before; [`Recorder`] captures those that need both ends,
//!   [`ChannelRecorder`] those on several connections.
//!
//! The library panics where a test would: a call that cannot go on ends the test with the reason.

mod analyzer;
pub mod beside;
mod console;
pub mod corpus;
mod failing_disk;
mod guest;
pub mod image;
mod independent;
pub mod malformed;
mod migration;
mod qemu;
mod qmp;
pub mod ram;
mod recorder;
mod saved;
mod small_disk;
pub mod table;
pub mod tool;
mod version;

pub use analyzer::analyzer_or_skip;
pub use console::{Console, Report};
pub use failing_disk::{Failing, FailingDisk};
pub use guest::{Guest, Workload};
pub use migration::{Outcome, ToImage, exec_uri};
pub use qemu::{Boot, Config, Qemu, Ram, TWO_UNEQUAL_NODES, with_each_qemu, with_each_qemu_that};
pub use qmp::{Qmp, QmpError};
pub use recorder::{ChannelRecorder, Recorder, Recording};
pub use saved::{Saved, Server, save_after_a_pass};
pub use small_disk::SmallDisk;
pub use test_support::{huge_pages_or_skip, in_part, not_run, programs};
pub use tool::Target;
pub use version::{Binary, Version};
