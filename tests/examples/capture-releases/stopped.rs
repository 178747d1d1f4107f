//! A guest that was stopped: what is saved of it twice is the same.

use serde_json::json;
use snapshot_tests::{Binary, Boot, Config, Guest, Qemu, Ram, Version};

use crate::{FEWEST_PAGES, MEMORY_MIB};

/// One machine with as few pages as the guest can do with.
pub(crate) struct Stopped {
    pub(crate) machine: &'static str,
    pub(crate) ram: Ram,
    pub(crate) more: &'static [&'static str],
}

impl Stopped {
    fn config(&self) -> Config {
        Config {
            machine: format!("{},acpi=off", self.machine),
            memory_mib: MEMORY_MIB,
            ram: self.ram.clone(),
            boot: Boot::Firmware,
            workload: FEWEST_PAGES,
            more: self.more.iter().map(|&word| word.to_owned()).collect(),
            ..Config::default()
        }
    }

    /// Starts it, has it check its memory twice, and stops it.
    pub(crate) fn start(&self, binary: &Binary, guest: &Guest) -> Qemu {
        let mut source = Qemu::start(binary, guest, self.config());
        source.console().wait_ready();
        source.console().wait_passes(2);
        source.execute("stop", json!({}));
        source.set_fast();
        source
    }

    /// What the manifest says behind the file's name.
    pub(crate) fn described(&self, version: Version, how: &str) -> String {
        let ram = if self.ram == Ram::Private { "" } else { "; RAM in a shared file" };
        format!(
            "{version}; -machine {},acpi=off -m {MEMORY_MIB}M {}{ram}; guest: {}, stopped; {how}",
            self.machine,
            self.more.join(" "),
            FEWEST_PAGES.command_line()
        )
    }
}
