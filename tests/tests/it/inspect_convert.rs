//! What `snapinspect convert` writes is loaded by a real QEMU, and the guest itself verifies every
//! page of its memory.

use serde_json::json;
use snapshot_tests::{
    Binary, ChannelRecorder, Config, Guest, Outcome, Qemu, Version, Workload, exec_uri, tool::snapinspect,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

fn config() -> Config {
    Config { memory_mib: 48, workload: Workload::STEADY, ..Config::default() }
}

/// Saves a guest that has verified its memory once; gives how often it had.
fn saved(binary: &Binary, guest: &Guest, uri: &str, capabilities: &[(&str, bool)]) -> u32 {
    let mut source = Qemu::start(binary, guest, config());
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    source.set_capabilities(capabilities);
    assert_eq!(source.save(uri), Outcome::Completed, "{}", source.stderr());
    let passes = source.console().passes();
    source.quit();
    passes
}

/// The guest goes on from the saved moment and verifies all its memory again.
fn loads(binary: &Binary, guest: &Guest, uri: &str, capabilities: &[(&str, bool)], after: u32) {
    let mut destination = Qemu::start(binary, guest, config().incoming());
    destination.set_capabilities(capabilities);
    assert_eq!(destination.revert(uri), Outcome::Completed, "{uri}: {}", destination.stderr());
    assert_eq!(destination.run_state(), "running");
    destination.console().wait_passes(2);
    assert!(destination.console().passes() >= after + 2, "goes on from the saved moment");
    destination.console().assert_sound();
    destination.quit();
}

fn convert(from: &Path, form: &str, to: &Path) {
    let output = Command::new(snapinspect()).arg("convert").arg(from).arg(to).args(["--to", form]).output();
    let output = output.expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{} to {form}: {text}", from.display());
}

const MAPPED: [(&str, bool); 1] = [("mapped-ram", true)];

/// Loads a file in its form.
fn loads_form(binary: &Binary, guest: &Guest, form: &str, file: &Path, after: u32) {
    match form {
        "stream" => loads(binary, guest, &format!("exec:cat {}", file.display()), &[], after),
        "mapped-ram" => loads(binary, guest, &format!("file:{}", file.display()), &MAPPED, after),
        _ => {
            let uri = exec_uri("--revert", file);
            loads(binary, guest, &uri, &[], after);
        }
    }
}

#[test]
fn every_form_becomes_every_other_and_qemu_loads_it() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let (stream, mapped, image) = (path("a.stream"), path("a.mapped"), path("a.qcow2"));
    let of_stream = saved(&binary, guest, &format!("exec:cat > {}", stream.display()), &[]);
    let of_mapped = saved(&binary, guest, &format!("file:{}", mapped.display()), &MAPPED);
    let tool = exec_uri("--create", &image);
    let of_image = saved(&binary, guest, &tool, &[]);
    for (from, form, passes) in [
        (&stream, "image", of_stream),
        (&stream, "mapped-ram", of_stream),
        (&mapped, "stream", of_mapped),
        (&mapped, "image", of_mapped),
        (&image, "stream", of_image),
        (&image, "mapped-ram", of_image),
    ] {
        let to = path("converted");
        convert(from, form, &to);
        loads_form(&binary, guest, form, &to, passes);
        std::fs::remove_file(&to).expect("written before");
    }
}

#[test]
fn a_busy_guest_of_7_2_is_converted_for_10_0() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let (Some(old), Some(new)) = (Version::V7_2.binary_or_skip(), Version::V10_0.binary_or_skip()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (stream, mapped) = (folder.path().join("stream"), folder.path().join("mapped"));
    let config = Config { machine: Binary::common_machine("pc"), ..config() };
    let mut source = Qemu::start(&old, guest, config.clone());
    source.console().wait_ready();
    source.console().wait_passes(1);
    if !source.background_snapshot_or_skip() {
        return;
    }
    source.set_fast();
    assert_eq!(source.save(&format!("exec:cat > {}", stream.display())), Outcome::Completed);
    source.quit();
    convert(&stream, "mapped-ram", &mapped);
    let mut destination = Qemu::start(&new, guest, config.incoming());
    destination.set_capabilities(&MAPPED);
    let outcome = destination.revert(&format!("file:{}", mapped.display()));
    assert_eq!(outcome, Outcome::Completed, "{}", destination.stderr());
    destination.console().wait_passes(2);
    destination.console().assert_sound();
    destination.quit();
}

/// Pages come again and again, on either channel, and the last one counts: the guest itself finds a
/// stale one.
#[test]
fn channels_of_a_busy_guest_in_several_rounds_become_a_stream_that_qemu_loads() {
    let Some(guest) = Guest::built_or_skip() else { return };
    // QEMU 7.2 loses pages of a busy guest by itself.
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    for compression in ["none", "zstd"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let recorder = ChannelRecorder::start(&path("socket"), None);
        let mut source = Qemu::start(&binary, guest, config());
        source.console().wait_ready();
        source.console().wait_passes(1);
        source.set_capabilities(&[("multifd", true)]);
        source.set_parameters(json!({
            "multifd-channels": 3, "multifd-compression": compression,
            "max-bandwidth": 30_000_000, "downtime-limit": 1,
        }));
        source.start_save(&format!("unix:{}", path("socket").display()));
        let end = Instant::now() + Duration::from_secs(60);
        while source.execute("query-migrate", json!({}))["ram"]["dirty-sync-count"].as_u64() < Some(4) {
            assert!(Instant::now() < end, "no four rounds: {}", source.stderr());
            thread::sleep(Duration::from_millis(5));
        }
        source.set_fast();
        assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed, "{}", source.stderr());
        let passes = source.console().passes();
        source.quit();

        let mut command = Command::new(snapinspect());
        command.args(["convert", "--to", "stream"]).arg(path("main")).arg(path("stream"));
        for (number, bytes) in recorder.sent().iter().enumerate() {
            if bytes.starts_with(b"QEVM") {
                std::fs::write(path("main"), bytes).expect("a file");
            } else {
                std::fs::write(path(&number.to_string()), bytes).expect("a file");
                command.arg("--channel").arg(path(&number.to_string()));
            }
        }
        let output = command.output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{compression}: {text}");
        loads(&binary, guest, &format!("exec:cat {}", path("stream").display()), &[], passes);
    }
}

#[test]
fn a_damaged_input_is_not_converted_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let mut bytes = snapshot_tests::corpus::stream("qemu-10.0-pc");
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&from, &bytes).expect("a file");
    for form in ["stream", "image", "mapped-ram"] {
        let output =
            Command::new(snapinspect()).arg("convert").arg(&from).arg(&to).args(["--to", form]).output();
        assert_eq!(output.expect("it runs").status.code(), Some(1));
        assert!(!to.exists(), "{form}");
    }
    std::fs::write(&to, b"another's").expect("a file");
    let whole = folder.path().join("whole");
    std::fs::write(&whole, snapshot_tests::corpus::stream("qemu-10.0-pc")).expect("a file");
    let output =
        Command::new(snapinspect()).arg("convert").arg(&whole).arg(&to).args(["--to", "stream"]).output();
    assert_eq!(output.expect("it runs").status.code(), Some(2));
    assert_eq!(std::fs::read(&to).expect("still there"), b"another's");
}
