//! Saves whose RAM is elsewhere: in shared memory, handed over by cpr, or in a mapped-ram file
//! whose bitmaps were never written.

use std::{fs, path::Path, time::Duration};

use serde_json::json;
use snapshot_tests::{Boot, Config, Guest, Outcome, Qemu, Ram, Version};

use crate::{FEW_PAGES, MEMORY_MIB, keep::keep};

const PATIENCE: Duration = Duration::from_secs(60);

/// A save, and what its RAM is made of.
struct Elsewhere {
    name: &'static str,
    versions: &'static [Version],
    capabilities: &'static [&'static str],
    shared: bool,
    /// Migration mode cpr-exec.
    cpr: bool,
}

const PLAIN: Elsewhere = Elsewhere {
    name: "ignore-shared",
    versions: &[Version::V7_2, Version::V10_0, Version::V11_1],
    capabilities: &["x-ignore-shared"],
    shared: true,
    cpr: false,
};

/// A save of 10.0 with mapped-ram and a block that is ignored fails.
const SAVES: &[Elsewhere] = &[
    PLAIN,
    Elsewhere {
        name: "mapped-ignore-shared",
        versions: &[Version::V11_1],
        capabilities: &["x-ignore-shared", "mapped-ram"],
        ..PLAIN
    },
    Elsewhere {
        name: "mapped-ignore-shared-multifd",
        versions: &[Version::V11_1],
        capabilities: &["x-ignore-shared", "mapped-ram", "multifd"],
        ..PLAIN
    },
    Elsewhere {
        name: "mapped-ignore-shared-private",
        versions: &[Version::V10_0, Version::V11_1],
        capabilities: &["x-ignore-shared", "mapped-ram"],
        shared: false,
        ..PLAIN
    },
    Elsewhere {
        name: "mapped-background",
        versions: &[Version::V10_0, Version::V11_1],
        capabilities: &["mapped-ram", "background-snapshot"],
        shared: false,
        ..PLAIN
    },
    Elsewhere { name: "cpr-exec", versions: &[Version::V11_1], capabilities: &[], cpr: true, ..PLAIN },
];

/// Takes those that are wanted.
pub(crate) fn take(guest: &Guest, wanted: &dyn Fn(&str) -> bool) {
    for save in SAVES {
        for &version in save.versions {
            let name = format!("elsewhere/qemu-{}-pc-{}", version.number(), save.name);
            if wanted(&name) {
                let folder = tempfile::tempdir().expect("a temporary folder");
                save.take(version, guest, folder.path(), &name);
            }
        }
    }
}

impl Elsewhere {
    fn take(&self, version: Version, guest: &Guest, folder: &Path, name: &str) {
        let binary = version.binary().expect("all QEMUs are needed: .ci/qemu");
        let memory = folder.join("memory");
        let machine = if self.cpr { "pc,acpi=off,aux-ram-share=on" } else { "pc,acpi=off" };
        let config = Config {
            machine: machine.to_owned(),
            memory_mib: MEMORY_MIB,
            boot: Boot::Firmware,
            ram: if self.shared { Ram::SharedFile(memory) } else { Ram::Private },
            workload: FEW_PAGES,
            ..Config::default()
        };
        let mut source = Qemu::start(&binary, guest, config);
        source.console().wait_ready();
        source.console().wait_passes(2);
        let on: Vec<_> = self.capabilities.iter().map(|&name| (name, true)).collect();
        source.set_capabilities(&on);
        source.set_fast();
        let file = folder.join("file");
        if self.cpr {
            // What QEMU becomes when RAM and devices are saved.
            source.set_parameters(json!({ "mode": "cpr-exec", "cpr-exec-command": ["sleep", "60"] }));
            source.start_save(&format!("exec:cat > {}", file.display()));
            wait_whole(&file);
        } else {
            let mapped = self.capabilities.contains(&"mapped-ram");
            let uri = if mapped { "file:" } else { "exec:cat > " };
            source.start_save(&format!("{uri}{}", file.display()));
            assert_eq!(source.wait_save(PATIENCE), Outcome::Completed, "{name}: {}", source.stderr());
        }
        let capabilities =
            if self.capabilities.is_empty() { "none".to_owned() } else { self.capabilities.join(" ") };
        let described = format!(
            "{version}; -machine {machine} -m {MEMORY_MIB}M{}; guest: {}; capabilities: {capabilities}{}",
            if self.shared { ", RAM in a shared file" } else { "" },
            FEW_PAGES.command_line(),
            if self.cpr { "; mode cpr-exec" } else { "" },
        );
        keep(name, &fs::read(&file).expect("just written"), &described);
    }
}

/// Waits for the end of a save of which QEMU cannot be asked any more: the vmdesc ends in its last brackets.
fn wait_whole(file: &Path) {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let bytes = fs::read(file).unwrap_or_default();
        if bytes.ends_with(b"}]}") {
            return;
        }
        assert!(std::time::Instant::now() < end, "no end of the save: {} bytes", bytes.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}
