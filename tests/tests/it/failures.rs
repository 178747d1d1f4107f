//! Failures as a real QEMU sees them: the migration fails, the guest goes on, and no image comes
//! out of it that a tool takes for a snapshot.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, SmallDisk, ToImage, Workload, beside, corpus, exec_uri,
    image::{qemu_img, qemu_img_or_skip, run_tool, text},
    ram::assert_same,
    tool::qemu_snapshot,
    with_each_qemu,
};

fn source(binary: &Binary, guest: &Guest, config: Config) -> Qemu {
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    source
}

/// The save failed in QEMU's eyes, the guest goes on soundly, one line says why, and there is no snapshot.
fn assert_failed(source: &mut Qemu, outcome: &Outcome, image: &Path, wanted: &str) {
    let words = source.stderr();
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}: {words}");
    assert!(words.contains(wanted), "no {wanted:?} in: {words}");
    source.wait_running();
    source.console().wait_passes(2);
    if image.exists() {
        let output = run_tool(["--revert".as_ref(), image.as_os_str()], None);
        assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    }
}

/// At any moment: from the first write to the reservation of the VM state, behind 28 MiB of pages
/// that are not zero.
#[test]
fn full_disk_fails_the_migration_and_the_guest_goes_on() {
    for room_mib in [0, 1, 4, 12, 24, 28] {
        let Some(disk) = SmallDisk::mounted_or_skip((room_mib << 20) + (256 << 10)) else { return };
        let image = disk.path("image");
        with_each_qemu(|binary, guest| {
            for background in [true, false] {
                let workload = Workload { rewrite: 64, ..Workload::STEADY };
                let mut source = source(binary, guest, Config { workload, ..Config::of_mib(32) });
                if background && !source.background_snapshot_or_without() {
                    continue;
                }
                let outcome =
                    source.save_image(&ToImage { options: "--create", image: &image, stream: None });
                assert_failed(&mut source, &outcome, &image, "No space left on device");
                drop(source);
                let _ = fs::remove_file(&image);
            }
        });
    }
}

/// The pipe of a guest with much RAM is wide, and most of its pages are 9 bytes each: still what is
/// missing at the end shows.
#[test]
fn disk_that_is_full_at_the_end_of_a_large_guest_fails_the_migration() {
    let Some(large) = SmallDisk::mounted_or_skip(256 << 20) else { return };
    with_each_qemu(|binary, guest| {
        for background in [true, false] {
            let workload = Workload { limit_mib: 24, ..Workload::IDLE };
            let config = || Config { memory_mib: 1024, workload, ..Config::default() };
            let save = |source: &mut Qemu, image: &Path| {
                source.save_image(&ToImage { options: "--create", image, stream: None })
            };
            let mut first = source(binary, guest, config());
            if background && !first.background_snapshot_or_without() {
                continue;
            }
            let image = large.path("image");
            assert_eq!(save(&mut first, &image), Outcome::Completed, "{}", first.stderr());
            drop(first);
            beside::wait_for(&image);
            let bytes = fs::metadata(&image).expect("just saved").blocks() * 512;
            fs::remove_file(&image).expect("our own file");
            let Some(small) = SmallDisk::mounted_or_skip(bytes - (512 << 10)) else { return };
            let mut second = source(binary, guest, config());
            assert!(!background || second.background_snapshot_or_without());
            let image = small.path("image");
            let outcome = save(&mut second, &image);
            assert_failed(&mut second, &outcome, &image, "No space left on device");
        }
    });
}

#[test]
fn unfit_image_fails_the_migration_and_is_left_alone() {
    let Some(program) = qemu_img_or_skip() else { return };
    with_each_qemu(|binary, guest| {
        for background in [true, false] {
            let mut source = source(binary, guest, Config::of_mib(32));
            if background && !source.background_snapshot_or_without() {
                continue;
            }
            let image = source.home().join("image");
            let raw = source.home().join("raw");
            fs::write(&raw, vec![0x5a; 1 << 20]).expect("a small file");
            let [from, to] = [&raw, &image].map(|path| path.to_str().expect("a UTF-8 path"));
            qemu_img(&program, ["convert", "-f", "raw", "-O", "qcow2", from, to]);
            let before = fs::read(&image).expect("just made");
            let outcome = source.save_image(&ToImage { options: "--overwrite", image: &image, stream: None });
            assert_failed(&mut source, &outcome, &image, "left alone");
            assert!(fs::read(&image).expect("still there") == before, "changed");
        }
    });
}

#[test]
fn missing_image_fails_the_migration() {
    with_each_qemu(|binary, guest| {
        let mut source = source(binary, guest, Config::of_mib(32));
        let image = source.home().join("no-such-folder/image");
        let outcome = source.save_image(&ToImage { options: "--create", image: &image, stream: None });
        assert_failed(&mut source, &outcome, &image, "No such file or directory");
    });
}

/// An image that a running QEMU has open as its disk.
#[test]
fn locked_image_fails_the_migration() {
    let Some(program) = qemu_img_or_skip() else { return };
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        let path = image.to_str().expect("a UTF-8 path");
        qemu_img(&program, ["create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", path, "128M"]);
        let disk = format!("driver=qcow2,node-name=disk0,file.driver=file,file.filename={path}");
        let device = "virtio-blk-pci,drive=disk0".to_owned();
        let more = vec!["-blockdev".to_owned(), disk, "-device".to_owned(), device];
        let mut source = source(binary, guest, Config { more, ..Config::of_mib(32) });
        let outcome = source.save_image(&ToImage { options: "", image: &image, stream: None });
        assert_failed(&mut source, &outcome, &image, "lock");
    });
}

/// The destination must not wait without end: it is sent bytes that it refuses at once.
#[test]
fn failed_revert_ends_the_destination_at_once() {
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        for contents in [None, Some(&b"no image at all"[..])] {
            if let Some(contents) = contents {
                fs::write(&image, contents).expect("a small file");
            }
            let mut destination = Qemu::start(binary, guest, Config::of_mib(32).incoming());
            let outcome = destination.revert(&exec_uri("--revert", &image));
            assert!(
                matches!(&outcome, Outcome::Failed(words) if words.contains("qemu-snapshot: ")),
                "{outcome:?}"
            );
        }
    });
}

/// Damage in the middle: QEMU has got pages already, but never an end mark.
#[test]
fn damaged_image_never_completes_a_revert() {
    use std::os::unix::fs::FileExt;
    with_each_qemu(|binary, guest| {
        let mut source = source(binary, guest, Config::of_mib(32));
        if !source.background_snapshot_or_skip() {
            return;
        }
        let image = source.home().join("image");
        assert_eq!(
            source.save_image(&ToImage { options: "--create", image: &image, stream: None }),
            Outcome::Completed,
            "{}",
            source.stderr()
        );
        let file = fs::OpenOptions::new().read(true).write(true).open(&image).expect("just saved");
        // A byte of a page that is not zero: what lies at a zero page's place means nothing.
        let mut bytes = vec![0; 1 << 20];
        let start = 20 << 20;
        file.read_exact_at(&mut bytes, start).expect("32 MiB were saved");
        let at = bytes.iter().position(|&byte| byte != 0).expect("the guest fills its memory");
        file.write_all_at(&[bytes[at] ^ 4], start + at as u64).expect("our own file");
        let mut destination = Qemu::start(binary, guest, Config::of_mib(32).incoming());
        let outcome = destination.revert(&exec_uri("--revert", &image));
        let words = match outcome {
            Outcome::Failed(words) => words,
            other => panic!("{other:?}"),
        };
        // Clusters lie in the order in which they were full: most are of pc.ram, some of firmware
        // or its tables.
        assert!(words.contains("ram block \"") && words.contains("page checksum"), "{words}");
    });
}

#[test]
fn cancelled_migration_leaves_no_snapshot() {
    with_each_qemu(|binary, guest| {
        let mut source = source(binary, guest, Config::of_mib(32));
        source.set_parameters(json!({ "max-bandwidth": 5_000_000 }));
        let image = source.home().join("image");
        source.start_save_image(&ToImage { options: "--create", image: &image, stream: None });
        std::thread::sleep(Duration::from_millis(500));
        source.execute("migrate_cancel", json!({}));
        assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Cancelled);
        source.console().wait_passes(2);
        let output = run_tool(["--revert".as_ref(), image.as_os_str()], None);
        assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    });
}

/// Killed at any moment, a save that replaces leaves the old snapshot or the new one, whole.
/// `KILLS` sets how often.
#[test]
fn killed_overwrite_leaves_the_old_or_the_new_snapshot() {
    let kills = std::env::var("KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40_u32);
    let streams = ["qemu-7.2-pc-rounds", "qemu-10.0-pc-dirty-bitmap"].map(corpus::stream);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("image");
    let files = ["old", "new"].map(|name| folder.path().join(name));
    for (file, stream) in files.iter().zip(&streams) {
        fs::write(file, stream).expect("a small file");
    }
    let output = run_tool(["--create".as_ref(), image.as_os_str()], Some(&files[0]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let started = Instant::now();
    let output = run_tool(["--overwrite".as_ref(), image.as_os_str()], Some(&files[0]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let mut longest = started.elapsed();
    let (mut now, mut kept) = (0, 0);
    for kill in 0..kills {
        let next = 1 - now;
        let stdin = fs::File::open(&files[next]).expect("just written");
        let mut tool = Command::new(qemu_snapshot())
            .arg("--overwrite")
            .arg(&image)
            .stdin(stdin)
            .stderr(Stdio::null())
            .spawn()
            .expect("the tool was built");
        // From before its first write to after its end, also on a machine that is slower than it just was.
        std::thread::sleep(longest * 3 / 2 * kill / kills);
        let _ = tool.kill();
        let finished = tool.wait().expect("our own child").success();
        if kill % 10 == 9 && !finished {
            longest *= 2;
        }
        let reverted = run_tool(["--revert".as_ref(), image.as_os_str()], None);
        assert_eq!(reverted.status.code(), Some(0), "kill {kill}: {}", text(&reverted));
        let replaced = snapshot_tests::ram::contents(&reverted.stdout).ram
            == snapshot_tests::ram::contents(&streams[next]).ram;
        assert!(replaced || !finished, "kill {kill}: reported as done, but the old one is there");
        kept += u32::from(!replaced);
        now = if replaced { next } else { now };
        assert_same(&streams[now], &reverted.stdout);
    }
    assert!(kept > 0 && kept < kills, "{kept} of {kills} kills came before the commit: no use");
}
