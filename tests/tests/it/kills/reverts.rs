//! A killed revert harms no image. In precopy QEMU ends, and says so; in postcopy, once the guest
//! runs, another server takes over.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Config, Qemu, QmpError, Saved, Version, Workload, beside, tool::qemu_snapshot, with_each_qemu,
};

use super::{Moments, give, kills, name, pipe};

fn config() -> Config {
    Config { memory_mib: 48, ..Config::default() }
}

/// How long a destination may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// A destination to which nothing has come after this time gets nothing any more.
const SILENCE: Duration = Duration::from_secs(5);

/// What becomes of a destination.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    Completed,
    /// It waits for another server.
    Paused,
    /// It ended, with this exit status (none: by a signal).
    Ended(Option<i32>),
    /// It has got nothing, and waits for a connection, or for a first byte in a pipe: the end of
    /// one does not wake it.
    Waits,
    /// Its listen thread ends QEMU while the main thread waits in the package for a page, and
    /// neither gets on.
    Hangs,
}

/// The state of a destination whose server is gone, or will be.
fn settled(destination: &mut Qemu) -> Settled {
    let end = Instant::now() + PATIENCE;
    loop {
        let ending = destination.stderr().contains("postcopy_ram_listen_thread: loadvm failed");
        if ending {
            let status = destination.wait_exit(Duration::from_secs(5));
            return status.map_or(Settled::Hangs, |status| Settled::Ended(status.code()));
        }
        match destination.qmp().execute("query-migrate", json!({})) {
            Ok(info) => match info["status"].as_str() {
                Some("completed") => return Settled::Completed,
                Some("postcopy-paused") => return Settled::Paused,
                Some("setup") | None if Instant::now() > end - PATIENCE + SILENCE => return Settled::Waits,
                _ => assert!(Instant::now() < end, "{info}: {}", destination.stderr()),
            },
            Err(QmpError::Closed) => {
                let status = destination.wait_exit(Duration::from_secs(30)).expect("its monitor is closed");
                return Settled::Ended(status.code());
            }
            // The next look shows why.
            Err(QmpError::Late) => assert!(Instant::now() < end + Duration::from_secs(10), "no answer"),
            Err(error) => panic!("query-migrate: {error:?}"),
        }
    }
}

#[test]
fn killed_precopy_reverts_end_the_destination_and_leave_the_image() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, config()) else { return };
        let before = fs::read(saved.image()).expect("the image");
        let what = name(binary, "precopy revert");
        let mut moments = Moments::new(&what);
        let start = || {
            let mut destination = Qemu::start(binary, guest, saved.config.incoming());
            let (qemus, ours) = pipe();
            let said = File::create(destination.home().join("said")).expect("a temporary file");
            give(&mut destination, qemus);
            destination.execute("migrate-incoming", json!({ "uri": "fd:channel" }));
            let mut tool = Command::new(qemu_snapshot());
            // The command, which has our end of the pipe, does not outlive this function: QEMU sees
            // the end of it.
            let tool = tool
                .arg("--revert")
                .arg(saved.image())
                .stdin(Stdio::null())
                .stdout(ours)
                .stderr(said)
                .spawn();
            (destination, tool.expect("the tool was built"))
        };
        let reverts = || {
            let (mut destination, mut tool) = start();
            let started = Instant::now();
            assert!(beside::end(&mut tool).success());
            let whole = started.elapsed();
            destination.wait_migration("completed");
            saved.assert_goes_on(&mut destination);
            whole
        };
        moments.whole = reverts();
        let (mut ended, mut waiting) = (0, 0);
        for _ in 0..kills(binary, 0) {
            let (mut destination, mut tool) = start();
            let struck = moments.strike(&mut tool);
            match settled(&mut destination) {
                // The kill came behind the last byte.
                Settled::Completed => destination.console().wait_passes(2),
                // By its exit status, not by a signal: it refuses, it does not crash.
                Settled::Ended(Some(1)) if struck => ended += 1,
                Settled::Waits if struck => {
                    waiting += 1;
                    destination.quit();
                }
                other => panic!("{what}: {other:?}, killed: {struck}: {}", destination.stderr()),
            }
            assert!(fs::read(saved.image()).expect("the image") == before, "{what}: the image has changed");
        }
        println!("{what}: {ended} destinations ended, {waiting} waited for a first byte");
        moments.assert_struck(&what);
        reverts();
    });
}

#[test]
fn killed_postcopy_reverts_are_recovered() {
    with_each_qemu(|binary, guest| {
        let workload = Workload { used_percent: 90, ..Workload::STEADY };
        let Some(saved) = Saved::of(binary, guest, Config { memory_mib: 96, workload, ..config() }) else {
            return;
        };
        let before = fs::read(saved.image()).expect("the image");
        let what = name(binary, "postcopy revert");
        let mut moments = Moments::new(&what);
        moments.of_run_without_a_kill(|| {
            let mut destination = saved.destination(binary, guest);
            saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]).assert_ends(0);
        });
        let (mut ended, mut hung, mut recovered) = (0, 0, 0);
        for _ in 0..kills(binary, 1) {
            let mut destination = saved.destination(binary, guest);
            let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
            let mut struck = moments.strike(&mut server.tool);
            let mut known = None;
            loop {
                match settled(&mut destination) {
                    Settled::Completed => break destination.console().wait_passes(2),
                    // 7.2 ends when a recovery breaks before it has resumed: there the second
                    // server may live.
                    Settled::Paused => {
                        assert!(struck, "{what}: {}", server.words());
                        assert_eq!(destination.run_state(), "running");
                        recovered += 1;
                        // The first server names the snapshot before the guest runs; a second one
                        // need not have come so far.
                        let recovery = server.recovery_by_uuid().or(known).expect("it named the snapshot");
                        server = saved.serve(&mut destination, "migrate-recover", &[&recovery]);
                        known = Some(recovery);
                        let again = binary.version() != Version::V7_2 && moments.rng.chance(30);
                        struck = again && moments.strike(&mut server.tool);
                        if !struck {
                            server.assert_ends(0);
                        }
                    }
                    other => {
                        // Before RUN, as far as the server knew, or a guest would be lost; and not
                        // by a signal.
                        let words = destination.stderr();
                        assert!(
                            matches!(other, Settled::Ended(Some(1)) | Settled::Hangs | Settled::Waits),
                            "{what}: {other:?}: {words}"
                        );
                        let ran = server.words().contains("devices loaded");
                        assert!(struck && !ran, "{what}: {words}, {}", server.words());
                        ended += 1;
                        hung += u32::from(other == Settled::Hangs);
                        break;
                    }
                }
            }
            assert!(fs::read(saved.image()).expect("the image") == before, "{what}: the image has changed");
        }
        println!(
            "{what}: {ended} ended before RUN was answered, {hung} of them by hanging; {recovered} recoveries"
        );
        moments.assert_struck(&what);
    });
}
