//! The test bed itself, with `cat` in the place of the tool: the guest comes through a save and a
//! revert, and a page that is not right is noticed.

use std::{fs, io::Seek, os::fd::AsFd};

use snapshot_tests::{Binary, Boot, Config, Guest, Outcome, Qemu, Ram, Version, Workload, with_each_qemu};

#[test]
fn guest_verifies_its_memory_on_every_machine() {
    with_each_qemu(|binary, guest| {
        for machine in ["pc", "q35"] {
            for boot in [Boot::Multiboot, Boot::Firmware] {
                let config = Config { machine: machine.to_owned(), boot, ..Config::of_mib(32) };
                let qemu = Qemu::start(binary, guest, config);
                let pages = qemu.console().wait_ready();
                assert!((7_800..8_192 - 256).contains(&pages), "{pages} pages of 32 MiB");
                qemu.console().wait_passes(2);
                qemu.quit();
            }
        }
    });
}

#[test]
fn guest_follows_its_workload() {
    with_each_qemu(|binary, guest| {
        let workload = Workload { used_percent: 25, ..Workload::IDLE };
        let qemu = Qemu::start(binary, guest, Config { workload, ..Config::of_mib(32) });
        let pages = qemu.console().wait_ready();
        qemu.console().wait_passes(2);
        assert!(qemu.console().writes().abs_diff(pages / 4) < 100, "{} writes", qemu.console().writes());
    });
}

#[test]
fn background_snapshot_through_cat_reverts() {
    with_each_qemu(|binary, guest| {
        let mut source = Qemu::start(binary, guest, Config::of_mib(32));
        source.console().wait_ready();
        source.console().wait_passes(1);
        if !source.background_snapshot_or_skip() {
            return;
        }
        let file = source.home().join("stream");
        let before = source.console().passes();
        assert_eq!(source.save(&format!("exec:cat > {}", file.display())), Outcome::Completed);
        assert_eq!(source.run_state(), "running");
        source.console().wait_passes(2);

        let mut destination = Qemu::start(binary, guest, Config::of_mib(32).incoming());
        assert_eq!(destination.revert(&format!("exec:cat {}", file.display())), Outcome::Completed);
        assert_eq!(destination.run_state(), "running");
        destination.console().wait_passes(2);
        assert!(destination.console().passes() >= before + 2, "goes on from the saved moment");
        source.console().assert_sound();
    });
}

#[test]
fn precopy_of_a_busy_guest_through_a_descriptor_reverts_elsewhere() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let (Some(old), Some(new)) = (Version::V7_2.binary_or_skip(), Version::V10_0.binary_or_skip()) else {
        return;
    };
    for kind in ["pc", "q35"] {
        let config =
            Config { machine: Binary::common_machine(kind), workload: Workload::BUSY, ..Config::of_mib(32) };
        let mut source = Qemu::start(&new, guest, config.clone());
        source.console().wait_ready();
        let mut file = tempfile::tempfile().expect("a temporary file");
        source.set_fast();
        source.qmp().give_fd("stream", file.as_fd()).expect("QEMU takes a descriptor");
        assert_eq!(source.save("fd:stream"), Outcome::Completed);
        assert_eq!(source.run_state(), "postmigrate");
        source.console().assert_sound();

        file.rewind().expect("a file");
        let mut destination = Qemu::start(&old, guest, config.incoming());
        destination.qmp().give_fd("stream", file.as_fd()).expect("QEMU takes a descriptor");
        assert_eq!(destination.revert("fd:stream"), Outcome::Completed);
        destination.console().wait_passes(2);
    }
}

/// The checker is checked: RAM that kept pages of another moment must be reported. A few pages, for
/// the guest may rewrite one before it verifies it.
#[test]
fn guest_notices_stale_pages() {
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ram = folder.path().join("ram");
        let workload = Workload { rewrite: 1, ..Workload::STEADY };
        let config = Config { ram: Ram::SharedFile(ram.clone()), workload, ..Config::of_mib(32) };
        let mut source = Qemu::start(binary, guest, config);
        source.console().wait_ready();
        source.console().wait_passes(1);
        source.execute("stop", serde_json::json!({}));
        let old = fs::read(&ram).expect("the RAM is a file");
        source.execute("cont", serde_json::json!({}));
        source.console().wait_passes(2);
        source.execute("stop", serde_json::json!({}));

        // The last pages that changed: data, for the guest's own tables lie at the start.
        let mut new = fs::read(&ram).expect("the RAM is a file");
        let changed =
            (0..new.len()).step_by(4096).rev().filter(|&at| old[at..at + 4096] != new[at..at + 4096]);
        let stale: Vec<usize> = changed.take(8).collect();
        assert_eq!(stale.len(), 8, "the guest rewrites pages");
        for at in stale {
            new[at..at + 4096].copy_from_slice(&old[at..at + 4096]);
        }
        write_in_place(&ram, &new);
        source.console().assert_sound();
        source.execute("cont", serde_json::json!({}));
        let console = source.console();
        let told = std::panic::catch_unwind(|| console.wait_passes(2)).expect_err("must be noticed");
        let message = told.downcast_ref::<String>().expect("a formatted message");
        assert!(message.starts_with("the guest reports: mismatch page="), "{message}");
    });
}

fn write_in_place(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(path).expect("the RAM is a file");
    file.write_all_at(bytes, 0).expect("the RAM is a file");
}
