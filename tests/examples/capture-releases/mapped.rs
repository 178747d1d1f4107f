//! Files in QEMU's format `mapped-ram`, of which each page has a fixed place.

use std::{fs, time::Duration};

use serde_json::json;
use snapshot_tests::{Guest, Outcome, Qemu, Ram, Version};

use crate::{keep::keep, stopped::Stopped};

/// A file to capture.
struct Kind {
    name: &'static str,
    capabilities: &'static [&'static str],
    shared: bool,
}

const KINDS: [Kind; 4] = [
    Kind { name: "plain", capabilities: &["mapped-ram"], shared: false },
    Kind { name: "multifd", capabilities: &["mapped-ram", "multifd"], shared: false },
    // QEMU takes both together, and never writes the bitmap of pages.
    Kind { name: "background", capabilities: &["mapped-ram", "background-snapshot"], shared: false },
    Kind { name: "ignore-shared", capabilities: &["mapped-ram", "x-ignore-shared"], shared: true },
];

/// Takes the files of one QEMU that are wanted; false where that QEMU is not there.
pub(crate) fn take(version: Version, guest: &Guest, wanted: &dyn Fn(&str) -> bool) -> bool {
    for kind in KINDS {
        let name = format!("mapped/qemu-{}-pc-{}", version.number(), kind.name);
        // 10.0 fails to write such a file: "Failed to write bitmap to file: Bad address".
        let fails = kind.shared && version == Version::V10_0;
        if !version.has_mapped_ram() || fails || !wanted(&name) {
            continue;
        }
        let Some(binary) = version.binary() else { return false };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ram = if kind.shared { Ram::SharedFile(folder.path().join("ram")) } else { Ram::Private };
        let stopped = Stopped { machine: "pc", ram, more: &[] };
        let mut source = stopped.start(&binary, guest);
        let bytes = saved(&mut source, kind.capabilities);
        let how = format!("capabilities: {}; to a file", kind.capabilities.join(" "));
        keep(&name, &bytes, &stopped.described(version, &how));
    }
    true
}

fn saved(source: &mut Qemu, capabilities: &[&str]) -> Vec<u8> {
    let on: Vec<_> = capabilities.iter().map(|&name| (name, true)).collect();
    source.set_capabilities(&on);
    if capabilities.contains(&"background-snapshot") {
        // The only one that is saved while it runs.
        source.execute("cont", json!({}));
    }
    let file = source.home().join("file");
    source.start_save(&format!("file:{}", file.display()));
    assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
    fs::read(file).expect("just written")
}
