//! A killed save leaves the old snapshot, the new one, or what every tool refuses.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Target, Version, Workload, beside,
    image::{assert_whole, qemu_img, qemu_img_or_skip, run_tool, text},
    tool::qemu_snapshot,
    with_each_qemu, with_each_qemu_that,
};

use super::{Moments, give, kills, name, pipe};

/// A guest that is saved again and again.
struct Source<'a> {
    binary: &'a Binary,
    guest: &'a Guest,
    background: bool,
    qemu: Qemu,
}

impl<'a> Source<'a> {
    /// [`None`] where this machine cannot do it.
    fn start(binary: &'a Binary, guest: &'a Guest, background: bool) -> Option<Self> {
        let config = Config { memory_mib: 32, workload: Workload::IDLE, ..Config::default() };
        let mut qemu = Qemu::start(binary, guest, config);
        qemu.console().wait_ready();
        qemu.console().wait_passes(1);
        qemu.set_fast();
        let able = !background || qemu.background_snapshot_or_skip();
        able.then_some(Self { binary, guest, background, qemu })
    }

    /// Starts a save through a pipe.
    fn save(&mut self, options: &[&str], image: &Path) -> Child {
        let (ours, qemus) = pipe();
        let said = File::create(self.qemu.home().join("said")).expect("a temporary file");
        let mut tool = Command::new(qemu_snapshot());
        tool.args(options).arg(image).stdin(ours).stdout(Stdio::null()).stderr(said);
        let tool = tool.spawn().expect("the tool was built");
        give(&mut self.qemu, qemus);
        self.qemu.start_save("fd:channel");
        tool
    }

    fn words(&self) -> String {
        fs::read_to_string(self.qemu.home().join("said")).expect("a text")
    }

    /// After a save, whatever became of it: the guest runs and is sound.
    fn goes_on(self, struck: bool) -> Option<Self> {
        // 7.2 freezes a guest whose background snapshot breaks, whoever breaks it.
        if struck && self.background && self.binary.version() == Version::V7_2 {
            return Self::start(self.binary, self.guest, self.background);
        }
        let mut source = self;
        if source.qemu.wait_save(Duration::from_secs(60)) == Outcome::Completed && !source.background {
            source.qemu.execute("cont", json!({}));
        }
        source.qemu.wait_running();
        source.qemu.console().wait_passes(1);
        Some(source)
    }
}

/// Runs the tool when the image is free. Locks of a killed process go a moment after it: io_uring
/// lets go of its files behind the process's back.
fn run_when_free(option: &str, image: &Path, input: Option<&Path>) -> Output {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let output = run_tool([option.as_ref(), image.as_os_str()], input);
        let locked = String::from_utf8_lossy(&output.stderr).contains("cannot lock the image");
        if !locked || Instant::now() > end {
            return output;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What a revert of this image gives, if it is a snapshot at all.
fn reverted(image: &Path) -> Option<Vec<u8>> {
    let output = run_when_free("--revert", image, None);
    let refused = matches!(output.status.code(), Some(1 | 2));
    assert!(refused || output.status.success(), "{}", text(&output));
    output.status.success().then_some(output.stdout)
}

/// Nothing in this folder but whole snapshots, and what is refused as one. Empties it.
fn assert_nothing_half(folder: &Path) {
    for entry in fs::read_dir(folder).expect("our own folder") {
        let path = entry.expect("our own folder").path();
        if reverted(&path).is_some() {
            assert_whole(&path, None);
        }
        fs::remove_file(&path).expect("our own file");
    }
}

fn killed_saves(binary: &Binary, guest: &Guest, background: bool) {
    let Some(program) = qemu_img_or_skip() else { return };
    let Some(mut source) = Source::start(binary, guest, background) else { return };
    let what = name(binary, if background { "background snapshot" } else { "precopy save" });
    let mut moments = Moments::new(&what);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old_image = folder.path().join("old");
    moments.of_run_without_a_kill(|| {
        let mut tool = source.save(&["--create"], &old_image);
        assert!(beside::end(&mut tool).success(), "{}", source.words());
    });
    let Some(going) = source.goes_on(false) else { return };
    source = going;
    let old = reverted(&old_image).expect("just saved");
    let input = folder.path().join("stream");
    fs::write(&input, &old).expect("a small file");
    let work = folder.path().join("work");
    fs::create_dir(&work).expect("our own folder");
    let image = work.join("image");
    for _ in 0..kills(binary, usize::from(!background)) {
        let into = Target::ALL[moments.rng.index(3)];
        match into {
            Target::New => {}
            Target::Old => drop(fs::copy(&old_image, &image).expect("a small file")),
            Target::Prepared => {
                let path = image.to_str().expect("a UTF-8 path");
                qemu_img(&program, ["create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", path, "128M"]);
            }
        }
        let mut tool = source.save(into.option(), &image);
        let struck = moments.strike(&mut tool);
        assert!(struck || beside::end(&mut tool).success(), "{what}, {into:?}: {}", source.words());
        let found = image.exists().then(|| reverted(&image)).flatten();
        match &found {
            Some(found) if into == Target::Old && *found == old => {
                assert!(struck, "{what}: replaced nothing")
            }
            Some(_) => assert_whole(&image, None),
            None => {
                assert!(struck, "{what}, {into:?}: reported as done, but there is nothing");
                assert_ne!(into, Target::Old, "{what}: the old snapshot is gone");
            }
        }
        // What is left in the image does not stop the next save.
        if into == Target::Prepared && found.is_none() {
            let output = run_when_free("--overwrite", &image, Some(&input));
            assert!(output.status.success(), "{what}: {}", text(&output));
            assert!(
                reverted(&image).is_some_and(|found| found == old),
                "{what}: saved again, came back changed"
            );
        }
        assert_nothing_half(&work);
        let Some(going) = source.goes_on(struck) else { return };
        source = going;
    }
    moments.assert_struck(&what);
}

#[test]
fn killed_background_snapshots_leave_the_old_or_the_new_one() {
    with_each_qemu_that(Version::has_background_snapshot, |binary, guest| {
        killed_saves(binary, guest, true);
    });
}

#[test]
fn killed_precopy_saves_leave_the_old_or_the_new_snapshot() {
    with_each_qemu(|binary, guest| {
        killed_saves(binary, guest, false);
    });
}
