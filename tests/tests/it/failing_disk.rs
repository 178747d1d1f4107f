//! A real block device that fails below a real file system, under saves and reverts: the kernel's
//! own errors, as io_uring, Linux AIO and threads report them, in `write`, in write-back, in
//! `fsync`, in `read`.
//!
//! `FAULTS` (2) says at how many moments of each kind of save and revert.

use std::{env, fs, path::Path, process::Output};

use migration_stream::{Options, SliceReader};
use snapshot_tests::{
    Config, Failing, FailingDisk, Outcome, Qemu, Saved, Target, ToImage, Workload, corpus, exec_uri,
    image::{assert_whole, qemu_img, qemu_img_or_skip, run_tool, text},
    ram::{assert_same, contents},
    with_each_qemu,
};

const DISK_BYTES: u64 = 256 << 20;
/// What a save and a revert can be told of the ways to the disk.
const WAYS: [&str; 5] = [
    "file.aio=io_uring",
    "file.aio=io_uring,cache.direct=on",
    "file.aio=native,cache.direct=on",
    "file.aio=threads",
    "file.aio=threads,cache.direct=on",
];
/// From then on; once.
const LASTING: [u64; 2] = [u64::MAX, 1];

fn faults() -> u64 {
    env::var("FAULTS").map_or(2, |count| count.parse().expect("FAULTS is a number"))
}

/// Moments of a run in which so much happens: the first thing, and then evenly.
fn moments(whole: u64) -> impl Iterator<Item = u64> {
    let count = faults();
    (0..count).map(move |moment| whole * moment / count)
}

/// It says in one line that the disk failed, and its exit status that nothing is wrong with the input.
fn assert_says_so(output: &Output, what: &str) {
    assert_eq!(output.status.code(), Some(2), "{what}: {}", text(output));
    let words = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = words.lines().filter(|line| line.contains("error: ")).collect();
    let [line] = errors[..] else { panic!("{what}: {words}") };
    // A journal that cannot be written makes the file system read-only.
    let reasons = ["Input/output error", "Read-only file system"];
    assert!(reasons.iter().any(|reason| line.contains(reason)), "{what}: {line}");
    assert!(!line.contains(": read ") || line.contains(" offset 0x"), "{what}: {line}");
}

fn save(options: &[&str], image: &Path, way: &str, stream: &Path) -> Output {
    let image = format!("{},{way}", image.display());
    run_tool(options.iter().copied().chain([&*image]), Some(stream))
}

fn revert(image: &Path, way: &str) -> Output {
    run_tool(["--revert", &format!("{},{way}", image.display())], None)
}

#[test]
fn failing_writes_and_flushes_fail_the_save() {
    let Some(program) = qemu_img_or_skip() else { return };
    let Some(mut disk) = FailingDisk::mounted_or_skip(DISK_BYTES) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [old, new] = ["qemu-7.2-pc-rounds", "qemu-10.0-pc-dirty-bitmap"].map(corpus::stream);
    let files = [("old", &old), ("new", &new)].map(|(name, stream)| {
        let path = folder.path().join(name);
        fs::write(&path, stream).expect("a small file");
        path
    });
    let image = disk.path("image");
    let mut failed = 0;
    for (way, target) in WAYS.iter().flat_map(|way| Target::ALL.map(|target| (way, target))) {
        let prepare = |disk: &mut FailingDisk| {
            disk.format();
            match target {
                Target::New => {}
                Target::Old => {
                    let output = save(&["--create"], &image, way, &files[0]);
                    assert!(output.status.success(), "{}", text(&output));
                }
                Target::Prepared => {
                    let path = image.to_str().expect("a UTF-8 path");
                    qemu_img(&program, ["create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", path, "64M"]);
                }
            }
            disk.remount();
        };
        for failing in [Failing::Writes, Failing::Flushes] {
            prepare(&mut disk);
            disk.fail(failing, u64::MAX, 0);
            let output = save(target.option(), &image, way, &files[1]);
            assert!(output.status.success(), "{}", text(&output));
            let whole = disk.seen(failing);
            assert!(whole > 0, "{target:?} {way}: no {failing:?}");
            for (good, errors) in moments(whole).flat_map(|good| LASTING.map(|errors| (good, errors))) {
                let what =
                    format!("{target:?} {way}: {failing:?} fail after {good} of {whole}, {errors} times");
                prepare(&mut disk);
                disk.fail(failing, good, errors);
                let output = save(target.option(), &image, way, &files[1]);
                let given = disk.mend();
                // What the page cache still has is not what a crash leaves.
                disk.remount();
                let back = image.exists().then(|| revert(&image, way)).filter(|back| back.status.success());
                if output.status.success() {
                    // What failed was no more than the file system's own business, which it did again.
                    let back =
                        back.unwrap_or_else(|| panic!("{what}: reported as done, but there is nothing"));
                    assert_same(&new, &back.stdout);
                } else {
                    assert!(given > 0, "{what}: {}", text(&output));
                    assert_says_so(&output, &what);
                    failed += 1;
                    match back {
                        Some(back)
                            if target == Target::Old && contents(&back.stdout).ram != contents(&new).ram =>
                        {
                            assert_same(&old, &back.stdout)
                        }
                        // The last flush failed, that of the folder: no one can say what is durable.
                        Some(_) => assert_whole(&image, Some(&new)),
                        None => assert_ne!(target, Target::Old, "{what}: the old snapshot is gone"),
                    }
                }
            }
        }
    }
    println!("{failed} saves failed");
    assert!(failed > 0, "no fault reached a save");
}

/// Whether these bytes of a stream reach its end mark.
fn has_end(stream: &[u8]) -> bool {
    let mut reader = SliceReader::new(stream, Options::default());
    loop {
        match reader.advance() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

#[test]
fn failing_reads_fail_the_revert() {
    let Some(mut disk) = FailingDisk::mounted_or_skip(DISK_BYTES) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let stream = corpus::stream("qemu-7.2-pc-rounds");
    let input = folder.path().join("stream");
    fs::write(&input, &stream).expect("a small file");
    let image = disk.path("image");
    let output = save(&["--create"], &image, WAYS[0], &input);
    assert!(output.status.success(), "{}", text(&output));
    for way in WAYS {
        disk.remount();
        disk.fail(Failing::Reads, u64::MAX, 0);
        let whole = revert(&image, way);
        assert!(whole.status.success() && has_end(&whole.stdout), "{}", text(&whole));
        let bytes = disk.seen(Failing::Reads);
        let mut failed = 0;
        for (good, errors) in moments(bytes).flat_map(|good| LASTING.map(|errors| (good, errors))) {
            let what = format!("{way}: reads fail after {good} of {bytes} bytes, {errors} times");
            disk.remount();
            disk.fail(Failing::Reads, good, errors);
            let output = revert(&image, way);
            let given = disk.mend();
            if output.status.success() {
                // Read-ahead failed, and the kernel read again.
                assert!(errors == 1 && output.stdout == whole.stdout, "{what}: {}", text(&output));
            } else {
                assert!(given > 0, "{what}: {}", text(&output));
                assert_says_so(&output, &what);
                assert!(!has_end(&output.stdout), "{what}: an end mark after an error");
                failed += 1;
            }
        }
        assert!(failed >= faults(), "{way}: {failed}");
    }
}

/// QEMU sees the failure while it still has something to send, and its guest goes on.
#[test]
fn failing_disk_fails_the_migration_and_the_guest_goes_on() {
    let Some(mut disk) = FailingDisk::mounted_or_skip(DISK_BYTES) else { return };
    let image = disk.path("image");
    for (failing, good) in [(Failing::Writes, 0), (Failing::Writes, 20 << 20), (Failing::Flushes, 0)] {
        for background in [true, false] {
            let disk = std::cell::RefCell::new(&mut disk);
            with_each_qemu(|binary, guest| {
                let workload = Workload::IDLE;
                let mut source =
                    Qemu::start(binary, guest, Config { memory_mib: 32, workload, ..Config::default() });
                source.console().wait_ready();
                source.set_fast();
                if background && !source.background_snapshot_or_without() {
                    return;
                }
                let mut disk = disk.borrow_mut();
                disk.format();
                disk.fail(failing, good, u64::MAX);
                let outcome =
                    source.save_image(&ToImage { options: "--create", image: &image, stream: None });
                disk.mend();
                let words = source.stderr();
                assert!(matches!(outcome, Outcome::Failed(_)), "{failing:?} {good}: {outcome:?}: {words}");
                assert!(words.contains("error: ") && words.contains("(os error "), "{words}");
                source.wait_running();
                source.console().wait_passes(2);
                disk.remount();
                assert!(!image.exists(), "a failed save left an image");
            });
        }
    }
}

/// A guest's snapshot on a failing disk.
fn on(disk: &mut FailingDisk, saved: &Saved) -> Saved {
    disk.mend();
    disk.format();
    let folder = tempfile::tempdir_in(disk.root()).expect("an empty disk");
    let copy = Saved { folder, config: saved.config.clone(), passes: saved.passes };
    fs::copy(saved.image(), copy.image()).expect("an empty disk");
    disk.remount();
    copy
}

#[test]
fn failing_reads_end_a_precopy_revert_and_pause_a_postcopy_one() {
    let Some(mut disk) = FailingDisk::mounted_or_skip(DISK_BYTES) else { return };
    let disk = std::cell::RefCell::new(&mut disk);
    with_each_qemu(|binary, guest| {
        let mut disk = disk.borrow_mut();
        let config = Config { memory_mib: 48, ..Config::default() };
        let Some(saved) = Saved::of(binary, guest, config) else { return };
        for good in [0, 20 << 20] {
            let here = on(&mut disk, &saved);
            disk.fail(Failing::Reads, good, u64::MAX);
            let mut destination = Qemu::start(binary, guest, here.config.incoming());
            let uri = exec_uri("--revert", &here.image());
            let Outcome::Failed(words) = destination.revert(&uri) else {
                panic!("after {good}: it was loaded")
            };
            // At first the file system itself cannot read what it needs to open the file.
            let what = if good == 0 { "vm.qcow2: " } else { "read block \"pc.ram\" at offset 0x" };
            assert!(words.contains(what) && words.contains("Input/output error"), "after {good}: {words}");
            disk.mend();
        }
        let here = on(&mut disk, &saved);
        let mut destination = here.destination(binary, guest);
        disk.fail(Failing::Reads, 20 << 20, u64::MAX);
        let mut server = here.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        server.assert_ends(2);
        let words = server.words();
        let error = words.lines().find(|line| line.contains("error: ")).expect("it says why");
        assert!(error.contains("offset 0x") && error.contains("Input/output error"), "{words}");
        destination.wait_migration("postcopy-paused");
        assert_eq!(destination.run_state(), "running");
        // The cable is in again.
        disk.mend();
        let recovery = server.recovery_by_uuid().expect("it named the snapshot");
        here.serve(&mut destination, "migrate-recover", &[&recovery]).assert_ends(0);
        destination.wait_migration("completed");
        here.assert_goes_on(&mut destination);
    });
}
