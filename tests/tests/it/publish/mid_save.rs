//! With QEMU: while its background snapshot, or its ordinary live migration, is under way something
//! happens to the image's name. Either QEMU says `failed`, or there is a snapshot.

use super::{Attribute, Source, is_snapshot, names, stream, wait_until};
use rustix::fs::IFlags;
use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Version, Workload, image::run_tool, image::text,
    tool::qemu_snapshot, with_each_qemu, with_each_qemu_that,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What becomes of the save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Completed,
    Failed,
}

/// A machine whose saves are slow until something has happened to them.
struct Slow {
    qemu: Qemu,
}

impl Slow {
    /// Saves; calls `mischief` when a part of RAM has been taken.
    fn save<T>(&mut self, command: &str, mischief: impl FnOnce() -> T) -> (Outcome, T) {
        self.qemu.set_parameters(json!({ "max-bandwidth": 4 << 20 }));
        let uri = format!("exec:{command}");
        self.qemu.start_save(&uri);
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let info = self.qemu.execute("query-migrate", json!({}));
            // More than all pipes hold: the tool has begun.
            if info["ram"]["transferred"].as_u64().is_some_and(|bytes| bytes > 2 << 20) {
                break;
            }
            let under_way = info["status"] != "failed" && Instant::now() < end;
            assert!(under_way, "{info}: {}", self.qemu.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
        let happened = mischief();
        self.qemu.set_fast();
        (self.qemu.wait_save(Duration::from_secs(120)), happened)
    }

    fn assert(&mut self, what: &str, outcome: &Outcome, expected: Expected, image: &Path) {
        let words = self.qemu.stderr();
        match expected {
            Expected::Completed => {
                assert_eq!(*outcome, Outcome::Completed, "{what}: {words}");
                wait_until("the snapshot is sealed", || is_snapshot(image));
                // A live migration stops the guest at its end.
                self.qemu.execute("cont", json!({}));
            }
            Expected::Failed => {
                assert!(matches!(outcome, Outcome::Failed(_)), "{what}: {outcome:?}: {words}");
                self.qemu.wait_running();
            }
        }
    }
}

fn command(options: &str, image: &Path) -> String {
    format!("{} {options} {}", qemu_snapshot().display(), image.display())
}

/// A folder of its own for each case.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(home.path().join("images")).expect("our own folder");
        Self { home }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("images")
    }

    fn image(&self) -> PathBuf {
        self.folder().join("vm.qcow2")
    }

    /// With a snapshot that is to be replaced.
    fn with_old() -> Self {
        let place = Self::new();
        let input = place.home.path().join("stream");
        fs::write(&input, stream()).expect("a small file");
        let output = run_tool(["--create".as_ref(), place.image().as_os_str()], Some(&input));
        assert!(output.status.success(), "{}", text(&output));
        place
    }
}

#[test]
fn query_migrate_says_completed_only_where_there_is_a_snapshot() {
    with_each_qemu_that(Version::has_background_snapshot, |binary, guest| {
        let mut qemu = start(binary, guest);
        if qemu.background_snapshot_or_skip() {
            check(Slow { qemu });
        }
    });
}

#[test]
fn query_migrate_says_completed_only_where_a_live_migration_left_a_snapshot() {
    with_each_qemu(|binary, guest| check(Slow { qemu: start(binary, guest) }));
}

fn start(binary: &Binary, guest: &Guest) -> Qemu {
    let config = Config { memory_mib: 32, workload: Workload::IDLE, ..Config::default() };
    let qemu = Qemu::start(binary, guest, config);
    qemu.console().wait_ready();
    qemu.console().wait_passes(1);
    qemu
}

fn check(mut slow: Slow) {
    new_image(&mut slow);
    old_image(&mut slow);
    two_saves(&mut slow);
    slow.qemu.console().wait_passes(2);
}

fn new_image(slow: &mut Slow) {
    let place = Place::new();
    let (outcome, ()) = slow.save(&command("--create", &place.image()), || {
        fs::rename(place.folder(), place.home.path().join("renamed")).expect("our own folder");
    });
    let renamed = place.home.path().join("renamed/vm.qcow2");
    slow.assert("renamed", &outcome, Expected::Completed, &renamed);

    let place = Place::new();
    let (outcome, ()) = slow.save(&command("--create", &place.image()), || {
        fs::write(place.image(), "another's").expect("our own folder");
    });
    slow.assert("the name is taken", &outcome, Expected::Failed, &place.image());
    assert_eq!(fs::read(place.image()).expect("theirs"), b"another's");

    for (flags, expected) in [(IFlags::IMMUTABLE, Expected::Failed), (IFlags::APPEND, Expected::Completed)] {
        let place = Place::new();
        let (outcome, attribute) = slow
            .save(&command("--create", &place.image()), || Attribute::set_or_skip(&place.folder(), flags));
        if attribute.is_some() {
            slow.assert(&format!("{flags:?}"), &outcome, expected, &place.image());
            assert_eq!(names(&place.folder()).len(), usize::from(expected == Expected::Completed));
        }
    }

    let place = Place::new();
    slow.qemu.set_fast();
    for command in [
        command("--create", &place.folder().join("new/")),
        format!("ulimit -n 11; {}", command("--create", &place.image())),
    ] {
        let outcome = slow.qemu.save(&format!("exec:{command}"));
        slow.assert(&command, &outcome, Expected::Failed, &place.image());
        assert!(names(&place.folder()).is_empty(), "{command}");
    }
}

fn old_image(slow: &mut Slow) {
    for (what, flags) in [
        ("image", IFlags::IMMUTABLE),
        ("image", IFlags::APPEND),
        ("folder", IFlags::IMMUTABLE),
        ("folder", IFlags::APPEND),
    ] {
        let place = Place::with_old();
        let target = if what == "image" { place.image() } else { place.folder() };
        let before = fs::read(place.image()).expect("just saved");
        let (outcome, attribute) =
            slow.save(&command("--overwrite", &place.image()), || Attribute::set_or_skip(&target, flags));
        if attribute.is_some() {
            slow.assert(&format!("{flags:?} {what}"), &outcome, Expected::Failed, &place.image());
            assert!(fs::read(place.image()).expect("the old one") == before, "{flags:?} {what}: changed");
            assert_eq!(names(&place.folder()), ["vm.qcow2"]);
        }
    }
    let place = Place::with_old();
    let (outcome, ()) = slow.save(&command("--overwrite", &place.image()), || {
        let other = place.home.path().join("other");
        fs::write(&other, "another's").expect("our own folder");
        fs::rename(other, place.image()).expect("our own folder");
    });
    slow.assert("another file", &outcome, Expected::Failed, &place.image());
    assert_eq!(fs::read(place.image()).expect("theirs"), b"another's");
}

/// The first one has the name: QEMU's, then that of another process.
fn two_saves(slow: &mut Slow) {
    let place = Place::new();
    let (outcome, (output, _)) = slow.save(&command("--create", &place.image()), || {
        let mut second = Source::start(&["--create"], &place.image());
        second.write(&stream());
        second.end()
    });
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    slow.assert("the first of two", &outcome, Expected::Completed, &place.image());

    let place = Place::new();
    let mut first = Source::start(&["--create"], &place.image());
    let bytes = stream();
    first.write(&bytes[..bytes.len() / 4]);
    first.wait_taken();
    let outcome = slow.qemu.save(&format!("exec:{}", command("--create", &place.image())));
    slow.assert("the second of two", &outcome, Expected::Failed, &place.image());
    first.write(&bytes[bytes.len() / 4..]);
    let (output, failed) = first.end();
    assert!(output.status.success() && !failed, "{}", text(&output));
    super::assert_holds(&place.image(), &bytes);
    assert_eq!(names(&place.folder()), ["vm.qcow2"]);
}
