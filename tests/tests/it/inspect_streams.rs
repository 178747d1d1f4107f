//! `snapinspect` on what real QEMUs write: machines, devices, targets and every kind of file.

use serde_json::{Value, json};
use snapshot_tests::{
    Binary, ChannelRecorder, Config, Guest, Outcome, Qemu, Version, Workload, image::qemu_img_or_skip,
    in_part, programs, tool::snapinspect, with_each_qemu,
};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn run(arguments: &[&str], file: &Path) -> Output {
    Command::new(snapinspect()).args(arguments).arg(file).output().expect("the program runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Nothing above a note, and every byte accounted for.
fn assert_clean(what: &str, file: &Path) {
    let check = run(&["check"], file);
    assert_eq!(check.status.code(), Some(0), "{what}: {}", text(&check));
    let coverage = run(&["dump", "--coverage"], file);
    assert_eq!(coverage.status.code(), Some(0), "{what}: {}", text(&coverage));
}

/// As [`assert_clean`], and no byte of a device is shown as just bytes.
fn assert_explained(what: &str, file: &Path) {
    assert_clean(what, file);
    let coverage = text(&run(&["dump", "--coverage"], file));
    assert!(coverage.contains(" opaque_bytes=0 "), "{what}: {coverage}");
}

fn assert_kind(kind: &str, file: &Path) {
    let dump = run(&["dump", "--format=line"], file);
    let text = text(&dump);
    assert!(text.contains(&format!("kind=\"{kind}\"")), "{}", text.lines().next().unwrap_or_default());
}

/// Starts a machine without a guest of ours, lets its firmware run for a moment, and saves it with
/// these commands of the monitor.
fn save_plain(program: &Path, arguments: &[&str], commands: &str) {
    let mut child = Command::new(program)
        .args(["-display", "none", "-nodefaults", "-no-user-config", "-monitor", "stdio"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was found before");
    thread::sleep(Duration::from_millis(250));
    let mut stdin = child.stdin.take().expect("piped");
    // A machine that did not start has closed its monitor.
    let _ = write!(stdin, "{commands}\nquit\n");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
}

fn save_to(file: &Path) -> String {
    format!("migrate \"exec:cat > {}\"", file.display())
}

const DISK: [&str; 4] =
    ["-blockdev", "driver=null-co,node-name=disk,size=67108864,read-zeroes=on", "-audiodev", "none,id=none"];

/// What is looked for: a name, and the devices.
const DEVICES: &[(&str, &[&str])] = &[
    ("virtio-blk", &["-device", "virtio-blk-pci,drive=disk"]),
    ("virtio-net", &["-netdev", "hubport,id=net,hubid=0", "-device", "virtio-net-pci,netdev=net"]),
    ("virtio-scsi", &["-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-hd,drive=disk,bus=scsi.0"]),
    ("virtio-gpu", &["-device", "virtio-gpu-pci"]),
    (
        "virtio-balloon",
        &["-device", "virtio-balloon-pci", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"],
    ),
    (
        "usb",
        &[
            "-device",
            "qemu-xhci,id=x",
            "-device",
            "usb-tablet,bus=x.0",
            "-device",
            "usb-ehci",
            "-device",
            "piix3-usb-uhci",
        ],
    ),
    ("ahci", &["-device", "ahci,id=ahci", "-device", "ide-hd,drive=disk,bus=ahci.0"]),
    (
        "virtio-mem",
        &[
            "-m",
            "size=64M,maxmem=1G,slots=2",
            "-object",
            "memory-backend-ram,id=more,size=256M",
            "-device",
            "virtio-mem-pci,memdev=more,requested-size=64M",
        ],
    ),
    (
        "network cards",
        &[
            "-device",
            "e1000",
            "-device",
            "rtl8139",
            "-device",
            "VGA",
            "-device",
            "intel-hda",
            "-device",
            "hda-duplex,audiodev=none",
        ],
    ),
];

#[test]
fn every_byte_of_common_machines_and_devices_is_explained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for binary in Version::each() {
        for machine in ["pc", "q35"] {
            for (name, devices) in DEVICES {
                let file = folder.path().join("stream");
                let mut arguments = vec!["-accel", "tcg", "-machine", machine, "-m", "64M"];
                arguments.extend(DISK);
                arguments.extend(*devices);
                save_plain(binary.path(), &arguments, &save_to(&file));
                assert_explained(&format!("{} {machine} {name}", binary.version()), &file);
                std::fs::remove_file(&file).expect("was written");
            }
        }
    }
}

/// Why there is no stream of it to explain.
#[test]
fn nvme_is_not_migrated_by_qemu_before_11_1() {
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each() {
        let more = [DISK[0], DISK[1], "-device", "nvme,serial=1,drive=disk"].map(str::to_owned).to_vec();
        let mut source = Qemu::start(&binary, guest, Config { memory_mib: 32, more, ..Config::default() });
        let refused = source.qmp().execute("migrate", json!({ "uri": "exec:cat > /dev/null" }));
        let words = format!("{refused:?}");
        // QEMU 11.1 does.
        let migrates = binary.version() == Version::V11_1;
        assert!(
            migrates == refused.is_ok()
                && (migrates || words.contains("non-migratable device") && words.contains("nvme")),
            "{}: {words}",
            binary.version()
        );
    }
}

#[test]
fn streams_of_other_targets_are_clean() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (target, machine, explained) in [
        ("aarch64", &["-M", "virt", "-cpu", "cortex-a57"][..], true),
        ("arm", &["-M", "vexpress-a15"], true),
        // Arrays with NULL pointers are described wrongly by QEMU before 10.0.
        ("s390x", &["-M", "s390-ccw-virtio", "-S"], false),
        ("ppc64", &["-M", "pseries"], true),
        ("riscv64", &["-M", "virt"], true),
    ] {
        let Some(path) = programs::emulator(target) else {
            in_part(&format!("without qemu-system-{target}"));
            continue;
        };
        let file = folder.path().join("stream");
        let arguments: Vec<_> = ["-accel", "tcg", "-m", "256M"].iter().chain(machine).copied().collect();
        save_plain(&path, &arguments, &save_to(&file));
        if explained {
            assert_explained(target, &file);
        } else {
            assert_clean(target, &file);
        }
        // A machine that wrote nothing must not be taken for the one before.
        std::fs::remove_file(&file).expect("was written");
    }
}

#[test]
fn internal_snapshots_are_listed_chosen_and_explained() {
    let Some(qemu_img) = qemu_img_or_skip() else { return };
    for binary in Version::each() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk.qcow2");
        let made =
            Command::new(&qemu_img).args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("64M").status();
        assert!(made.expect("it runs").success());
        let drive = format!("file={},format=qcow2,if=ide", disk.display());
        let arguments = ["-accel", "tcg", "-machine", "pc", "-m", "32M", "-drive", &drive];
        save_plain(binary.path(), &arguments, "savevm first\nsavevm second");
        let ambiguous = run(&["check"], &disk);
        assert_eq!(ambiguous.status.code(), Some(2));
        assert!(
            text(&ambiguous).contains("which snapshot? It has first, second; --snapshot chooses one"),
            "{}",
            text(&ambiguous)
        );
        for name in ["first", "second"] {
            let coverage = run(&["dump", "--coverage", "--snapshot", name], &disk);
            assert_eq!(coverage.status.code(), Some(0), "{}: {}", binary.version(), text(&coverage));
            assert!(
                text(&coverage).contains(" opaque_bytes=0 "),
                "{}: {}",
                binary.version(),
                text(&coverage)
            );
            let check = run(&["check", "--snapshot", name], &disk);
            assert_eq!(check.status.code(), Some(0), "{}: {}", binary.version(), text(&check));
        }
        let missing = run(&["check", "--snapshot", "third"], &disk);
        assert_eq!(missing.status.code(), Some(2), "{}", text(&missing));
    }
}

fn source(binary: &Binary, guest: &Guest, workload: Workload) -> Qemu {
    let config = Config { memory_mib: 32, workload, ..Config::default() };
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    source
}

#[test]
fn mapped_ram_files_are_explained_also_behind_other_bytes_and_by_several_writers() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, offset, capabilities) in [
        ("plain", 0, &["mapped-ram"][..]),
        ("offset", 0x2_0000, &["mapped-ram"]),
        ("multifd", 0, &["mapped-ram", "multifd"]),
    ] {
        let file = folder.path().join(name);
        if offset > 0 {
            std::fs::write(&file, vec![b'x'; offset]).expect("a file");
        }
        let mut source = source(&binary, guest, Workload::STEADY);
        let on: Vec<_> = capabilities.iter().map(|&name| (name, true)).collect();
        source.set_capabilities(&on);
        let uri = format!("file:{},offset={offset}", file.display());
        assert_eq!(source.save(&uri), Outcome::Completed, "{}", source.stderr());
        source.quit();
        if offset > 0 {
            let dump = run(&["dump", "--format=line"], &file);
            assert!(text(&dump).contains(&format!("start={offset:#x}")), "{}", text(&dump));
        }
        assert_explained(name, &file);
    }
}

#[test]
fn multifd_channels_are_explained() {
    with_each_qemu(|binary, guest| {
        for compression in ["none", "zlib", "zstd"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let near = folder.path().join("near");
            let channels = ChannelRecorder::start(&near, None);
            let mut source = source(binary, guest, Workload::STEADY);
            // A guest that goes on writing can be faster than what packs its pages.
            source.execute("stop", json!({}));
            source.set_capabilities(&[("multifd", true)]);
            source.set_parameters(json!({ "multifd-channels": 2, "multifd-compression": compression }));
            let uri = format!("unix:{}", near.display());
            assert_eq!(source.save(&uri), Outcome::Completed, "{}", source.stderr());
            source.quit();
            let sent = channels.sent();
            assert_eq!(sent.len(), 3, "the main stream and two channels");
            for (number, bytes) in sent.iter().enumerate() {
                let file = folder.path().join(number.to_string());
                std::fs::write(&file, bytes).expect("a file");
                assert_clean(&format!("{} {compression} channel {number}", binary.version()), &file);
                if !bytes.starts_with(b"QEVM") {
                    assert_kind("multifd channel", &file);
                }
            }
        }
    });
}

fn wait_status(qemu: &mut Qemu, wanted: &[&str]) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let info: Value = qemu.execute("query-migrate", json!({}));
        if info["status"].as_str().is_some_and(|status| wanted.contains(&status)) {
            return;
        }
        assert!(Instant::now() < end && info["status"] != "failed", "no {wanted:?}: {info}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn preempt_channels_and_recovery_connections_of_a_postcopy_are_explained() {
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let uri = |name: &str| format!("unix:{}", path(name).display());
        let config = Config { memory_mib: 96, workload: Workload::STEADY, ..Config::default() };
        let mut source = Qemu::start(binary, guest, config.clone());
        source.console().wait_ready();
        source.console().wait_passes(1);
        let mut destination = Qemu::start(binary, guest, config.incoming());
        let capabilities = [("postcopy-ram", true), ("postcopy-preempt", true)];
        source.set_capabilities(&capabilities);
        destination.set_capabilities(&capabilities);
        destination.execute("migrate-incoming", json!({ "uri": uri("far") }));
        let channels = ChannelRecorder::start(&path("near"), Some(path("far")));
        source.set_parameters(json!({ "max-bandwidth": 2_000_000, "max-postcopy-bandwidth": 2_000_000 }));
        source.start_save(&uri("near"));
        wait_status(&mut source, &["active"]);
        source.execute("migrate-start-postcopy", json!({}));
        wait_status(&mut source, &["postcopy-active"]);
        wait_status(&mut destination, &["postcopy-active"]);
        source.execute("migrate-pause", json!({}));
        wait_status(&mut source, &["postcopy-paused"]);
        wait_status(&mut destination, &["postcopy-paused"]);
        destination.execute("migrate-recover", json!({ "uri": uri("far2") }));
        let recovery = ChannelRecorder::start(&path("near2"), Some(path("far2")));
        source.set_parameters(json!({ "max-postcopy-bandwidth": 0 }));
        source.execute("migrate", json!({ "uri": uri("near2"), "resume": true }));
        wait_status(&mut source, &["completed"]);

        let keep = |name: &str, bytes: &[u8]| {
            std::fs::write(path(name), bytes).expect("a file");
            path(name)
        };
        let first = channels.sent();
        let main = keep("main", &first[0]);
        // It was cut in the middle of a section, and nothing else is wrong with it.
        let check = run(&["check"], &main);
        assert_eq!(check.status.code(), Some(1), "{}", text(&check));
        let errors: Vec<_> =
            text(&check).lines().filter(|line| line.contains(" error ")).map(str::to_owned).collect();
        assert!(errors.len() == 1 && errors[0].contains("truncated"), "{errors:?}");
        let second = recovery.sent();
        let main = keep("recovery", &second[0]);
        assert_kind("postcopy recovery connection", &main);
        assert_clean(&format!("{} recovery", binary.version()), &main);
        let preempt = first[1..].iter().chain(&second[1..]).filter(|bytes| !bytes.is_empty());
        for (number, bytes) in preempt.enumerate() {
            let file = keep(&format!("preempt{number}"), bytes);
            assert_kind("postcopy preempt channel", &file);
            let check = run(&["check"], &file);
            let errors = text(&check).lines().filter(|line| line.contains(" error ")).count();
            let cut = text(&check).contains("truncated");
            assert!(errors == 0 || errors == 1 && cut, "{}", text(&check));
        }
    });
}

#[test]
fn packed_streams_are_unwrapped() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V7_2.binary_or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plain = folder.path().join("plain");
    let mut source = source(&binary, guest, Workload::IDLE);
    assert_eq!(source.save(&format!("exec:cat > {}", plain.display())), Outcome::Completed);
    source.quit();
    let sum = |arguments: &[&str], file: &Path| {
        let output = run(arguments, file);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output).lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = sum(&["dump", "--format=line"], &plain);
    for program in ["gzip", "zstd"] {
        let packed = folder.path().join(program);
        let input = std::fs::File::open(&plain).expect("written");
        let output = std::fs::File::create(&packed).expect("a file");
        let status = Command::new(program).arg("-c").stdin(input).stdout(output).status();
        assert!(status.expect("it runs").success());
        assert_eq!(sum(&["dump", "--format=line"], &packed), expected);
    }
}
