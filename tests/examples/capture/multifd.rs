//! Multifd: a stopped guest, saved on one channel and then with its RAM on several, so that both
//! hold the same.

use std::{fs, time::Duration};

use serde_json::json;
use snapshot_tests::{Boot, ChannelRecorder, Config, Guest, Outcome, Qemu, Version};

use crate::{FEW_PAGES, MEMORY_MIB, keep::keep};

const CHANNELS: usize = 2;
const COMPRESSIONS: [&str; 3] = ["none", "zlib", "zstd"];
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes the streams of one QEMU, if any of them is wanted.
pub(crate) fn take(version: Version, guest: &Guest, wanted: &dyn Fn(&str) -> bool) {
    let name = |what: &str| format!("channels/qemu-{}-pc-multifd-{what}", version.number());
    if !COMPRESSIONS.iter().any(|compression| wanted(&name(&format!("{compression}.main")))) {
        return;
    }
    let binary = version.binary().expect("both QEMUs are needed: .ci/qemu");
    let config = Config {
        machine: "pc,acpi=off".to_owned(),
        memory_mib: MEMORY_MIB,
        boot: Boot::Firmware,
        workload: FEW_PAGES,
        ..Config::default()
    };
    let described = |how: &str| {
        format!(
            "{version}; -machine pc,acpi=off -m {MEMORY_MIB}M; guest: {}, stopped; {how}",
            FEW_PAGES.command_line()
        )
    };
    let mut source = Qemu::start(&binary, guest, config.clone());
    source.console().wait_ready();
    source.console().wait_passes(2);
    source.execute("stop", json!({}));
    source.set_fast();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("single");
    source.start_save(&format!("exec:cat > {}", file.display()));
    assert_eq!(source.wait_save(PATIENCE), Outcome::Completed);
    let single = fs::read(&file).expect("just written");
    keep(&name("single"), &single, &described("the same guest as in those with channels; to a pipe"));
    source.quit();
    for compression in COMPRESSIONS {
        // A machine that was saved cannot be saved again without running: one that loads the stream
        // can, and stays stopped.
        let mut source = Qemu::start(&binary, guest, config.incoming());
        assert_eq!(source.revert(&format!("exec:cat {}", file.display())), Outcome::Completed);
        source.set_capabilities(&[("multifd", true)]);
        source.set_fast();
        source.set_parameters(json!({ "multifd-channels": CHANNELS, "multifd-compression": compression }));
        let near = folder.path().join(compression);
        let recorder = ChannelRecorder::start(&near, None);
        source.start_save(&format!("unix:{}", near.display()));
        assert_eq!(source.wait_save(PATIENCE), Outcome::Completed);
        let (mains, mut channels): (Vec<_>, Vec<_>) =
            recorder.sent().into_iter().partition(|bytes| bytes.starts_with(b"QEVM"));
        assert_eq!((mains.len(), channels.len()), (1, CHANNELS), "{version}: {compression}");
        let how = format!("capabilities: multifd; {CHANNELS} channels, multifd-compression {compression}");
        keep(&name(&format!("{compression}.main")), &mains[0], &described(&how));
        // Byte 24 of what a channel says first is its number.
        channels.sort_by_key(|bytes| bytes[24]);
        for (number, bytes) in channels.iter().enumerate() {
            keep(&name(&format!("{compression}.{number}")), bytes, &described(&how));
        }
    }
}
