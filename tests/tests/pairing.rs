//! The README's recipe: RAM and disks of one instant are saved, and reverted, together.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu,
    image::{qemu_img, qemu_img_or_skip},
    tool::qemu_snapshot,
    with_each_qemu,
};

/// A machine with the disk `file`, which its block graph calls `disk0`.
fn with_disk(file: &Path) -> Config {
    let disk = format!("driver=qcow2,node-name=disk0,file.driver=file,file.filename={}", file.display());
    let more = ["-blockdev", &disk, "-device", "virtio-blk-pci,drive=disk0,id=virtio0"];
    Config { memory_mib: 32, more: more.map(str::to_owned).to_vec(), ..Config::default() }
}

/// Lets QEMU's own disk tester work on the guest's disk, as the guest would.
fn on_disk(qemu: &mut Qemu, command: &str) -> String {
    let line = format!("qemu-io -d /machine/peripheral/virtio0/virtio-backend \"{command}\"");
    let said = qemu.execute("human-monitor-command", json!({ "command-line": line }));
    let said = said.as_str().expect("text").to_owned();
    assert!(!said.contains("rror") && !said.contains("failed"), "{command}: {said}");
    said
}

fn pair(binary: &Binary, guest: &Guest, program: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [disk, overlay, again, image] =
        ["disk", "overlay", "again", "vm"].map(|name| folder.path().join(name));
    let utf8 = |path: &Path| path.to_str().expect("a UTF-8 path").to_owned();
    qemu_img(program, ["create", "-q", "-f", "qcow2", &utf8(&disk), "16M"]);
    let mut source = Qemu::start(binary, guest, with_disk(&disk));
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    if !source.background_snapshot_or_skip() {
        return;
    }
    on_disk(&mut source, "write -P 1 0 1M");

    // 1. Stop. 2. Freeze the disks: later writes go to overlays. 3. Start the save. 4. Go on when it is under way.
    source.execute("stop", json!({}));
    let snapshot =
        json!({ "node-name": "disk0", "snapshot-file": overlay, "snapshot-node-name": "overlay0" });
    let action = json!({ "type": "blockdev-snapshot-sync", "data": snapshot });
    source.execute("transaction", json!({ "actions": [action] }));
    source.start_save(&format!("exec:{} --create {}", qemu_snapshot().display(), image.display()));
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let info = source.execute("query-migrate", json!({}));
        if matches!(info["status"].as_str(), Some("active" | "completed")) {
            break;
        }
        assert!(Instant::now() < end && info["status"] != "failed", "{info}: {}", source.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    source.execute("cont", json!({}));
    on_disk(&mut source, "write -P 2 0 1M");
    assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed, "{}", source.stderr());
    source.console().wait_passes(2);
    drop(source);

    // The frozen disk stays as it is for further reverts: each gets an overlay of its own.
    qemu_img(program, ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &utf8(&disk), &utf8(&again)]);
    let mut destination = Qemu::start(binary, guest, with_disk(&again).incoming());
    let uri = format!("exec:{} --revert {}", qemu_snapshot().display(), image.display());
    assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
    assert_eq!(destination.run_state(), "paused", "the guest was stopped when it was saved");
    on_disk(&mut destination, "read -P 1 0 1M");
    destination.execute("cont", json!({}));
    destination.console().wait_passes(2);
    on_disk(&mut destination, "write -P 3 0 1M");
    destination.quit();
    qemu_img(program, ["check", "-q", &utf8(&again)]);
}

#[test]
fn ram_and_disks_of_one_instant_come_back_together() {
    let Some(program) = qemu_img_or_skip() else { return };
    with_each_qemu(|binary, guest| pair(binary, guest, &program));
}
