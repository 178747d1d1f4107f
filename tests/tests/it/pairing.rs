//! The README's recipe: RAM and disks of one instant are saved, and reverted, together.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, ToImage, exec_uri,
    image::{qemu_img, qemu_img_or_skip},
    with_each_qemu,
};

/// A machine with the disk `file`, which its block graph calls `disk0`.
fn with_disk(file: &Path) -> Config {
    let disk = format!("driver=qcow2,node-name=disk0,file.driver=file,file.filename={}", file.display());
    let more = ["-blockdev", &disk, "-device", "virtio-blk-pci,drive=disk0,id=virtio0"];
    Config { memory_mib: 32, more: more.map(str::to_owned).to_vec(), ..Config::default() }
}

/// Fills the first MiB of the guest's disk with `byte`, as the guest would.
fn write_disk(qemu: &mut Qemu, byte: u8) {
    let device = "/machine/peripheral/virtio0/virtio-backend";
    let line = format!("qemu-io -d {device} \"write -P {byte} 0 1M\"");
    qemu.execute("human-monitor-command", json!({ "command-line": line }));
    let line = format!("qemu-io -d {device} flush");
    qemu.execute("human-monitor-command", json!({ "command-line": line }));
}

/// Panics unless the first MiB of the image `file`, its backing file included, is filled with
/// `byte`. From outside, for what the monitor's own disk tester finds goes to QEMU's stdout.
fn assert_filled(program: &Path, file: &Path, byte: u8) {
    let plain = file.with_extension("raw");
    let [from, to] = [file, &plain].map(|path| path.to_str().expect("a UTF-8 path"));
    // The machine that writes to it holds the lock.
    qemu_img(program, ["convert", "-U", "-f", "qcow2", "-O", "raw", from, to]);
    let bytes = fs::read(&plain).expect("just converted");
    assert!(bytes[..1 << 20].iter().all(|&found| found == byte), "{from}: starts with {}", bytes[0]);
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
    write_disk(&mut source, 1);

    // 1. Stop. 2. Freeze the disks: later writes go to overlays. 3. Start the save. 4. Go on when
    //    it is under way.
    source.execute("stop", json!({}));
    let snapshot =
        json!({ "node-name": "disk0", "snapshot-file": overlay, "snapshot-node-name": "overlay0" });
    let action = json!({ "type": "blockdev-snapshot-sync", "data": snapshot });
    source.execute("transaction", json!({ "actions": [action] }));
    source.start_save_image(&ToImage { options: "--create", image: &image, stream: None });
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let info = source.execute("query-migrate", json!({}));
        // "active" alone may be told before the device state has been saved; pages are sent only
        // after it was.
        let pages = |kind: &str| info["ram"][kind].as_u64().unwrap_or(0);
        if info["status"] == "completed" || pages("normal") + pages("duplicate") > 0 {
            break;
        }
        assert!(Instant::now() < end && info["status"] != "failed", "{info}: {}", source.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    source.execute("cont", json!({}));
    write_disk(&mut source, 2);
    assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed, "{}", source.stderr());
    source.console().wait_passes(2);
    source.quit();
    assert_filled(program, &overlay, 2);

    // The frozen disk stays as it is for further reverts: each gets an overlay of its own.
    qemu_img(program, ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &utf8(&disk), &utf8(&again)]);
    let mut destination = Qemu::start(binary, guest, with_disk(&again).incoming());
    let uri = exec_uri("--revert", &image);
    assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
    assert_eq!(destination.run_state(), "paused", "the guest was stopped when it was saved");
    assert_filled(program, &again, 1);
    destination.execute("cont", json!({}));
    destination.console().wait_passes(2);
    write_disk(&mut destination, 3);
    destination.quit();
    assert_filled(program, &again, 3);
    assert_filled(program, &disk, 1);
    qemu_img(program, ["check", "-q", &utf8(&again)]);
}

#[test]
fn ram_and_disks_of_one_instant_come_back_together() {
    let Some(program) = qemu_img_or_skip() else { return };
    with_each_qemu(|binary, guest| pair(binary, guest, &program));
}
