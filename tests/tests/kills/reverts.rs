//! A killed revert harms no image. In precopy QEMU ends, and says so; in postcopy, once the guest runs, another server
//! takes over.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, QmpError, Saved, Version, Workload, tool::qemu_snapshot,
    with_each_qemu,
};

use crate::{Moments, give, kills, name, pipe};

fn config() -> Config {
    Config { memory_mib: 48, ..Config::default() }
}

/// Reverts into a new QEMU through a pipe, as `exec:` does it, with a kill (or none).
fn revert(
    binary: &Binary,
    guest: &Guest,
    saved: &Saved,
    moments: Option<&mut Moments>,
) -> (Outcome, Qemu, bool) {
    let mut destination = Qemu::start(binary, guest, saved.config.incoming());
    let (qemus, ours) = pipe();
    let said = File::create(destination.home().join("said")).expect("a temporary file");
    let mut tool = Command::new(qemu_snapshot());
    tool.arg("--revert").arg(saved.image()).stdin(Stdio::null()).stdout(ours).stderr(said);
    // The command holds our end of the pipe as long as it is there, and QEMU would wait for its end.
    let mut tool = { tool }.spawn().expect("the tool was built");
    give(&mut destination, qemus);
    let (outcome, struck) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| match moments {
            Some(moments) => moments.strike(&mut tool),
            None => !tool.wait().expect("our own child").success(),
        });
        let outcome = destination.revert("fd:channel");
        (outcome, killer.join().expect("a tool that ends"))
    });
    (outcome, destination, struck)
}

#[test]
fn killed_precopy_reverts_end_the_destination_and_leave_the_image() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, config()) else { return };
        let before = fs::read(saved.image()).expect("the image");
        let what = name(binary, "precopy revert");
        let mut moments = Moments::new(&what);
        let assert_reverts = || {
            let (outcome, mut destination, failed) = revert(binary, guest, &saved, None);
            assert!(outcome == Outcome::Completed && !failed, "{outcome:?}");
            saved.assert_goes_on(&mut destination);
        };
        moments.of_run_without_a_kill(assert_reverts);
        // Most of that was the guest; the first kills tell how long the tool takes.
        moments.whole /= 4;
        for _ in 0..kills(2, u64::from(binary.version() == Version::V7_2)) {
            let (outcome, destination, struck) = revert(binary, guest, &saved, Some(&mut moments));
            match outcome {
                // By its exit status, not by a signal: it refuses, it does not crash.
                Outcome::Failed(words) => {
                    assert!(struck && words.starts_with("exit status: 1"), "{what}: {words}")
                }
                // The kill came behind the last byte.
                Outcome::Completed => destination.console().wait_passes(2),
                Outcome::Cancelled => panic!("{what}: nobody cancelled it"),
            }
            assert!(fs::read(saved.image()).expect("the image") == before, "{what}: the image has changed");
        }
        moments.assert_struck(&what);
        assert_reverts();
    });
}

/// The migration's state in the end; [`None`] if QEMU ended.
fn settled(destination: &mut Qemu) -> Option<String> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match destination.qmp().execute("query-migrate", json!({})) {
            Ok(info) => {
                let status = info["status"].as_str().unwrap_or("none").to_owned();
                if ["completed", "postcopy-paused"].contains(&&*status) {
                    return Some(status);
                }
                assert!(Instant::now() < end, "{status}: {}", destination.stderr());
            }
            Err(QmpError::Closed) => return None,
            Err(error) => panic!("query-migrate: {error:?}"),
        }
    }
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
        let (mut ended, mut recovered) = (0, 0);
        for _ in 0..kills(2, u64::from(binary.version() == Version::V7_2)) {
            let mut destination = saved.destination(binary, guest);
            let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
            let mut struck = moments.strike(&mut server.tool);
            loop {
                match settled(&mut destination).as_deref() {
                    Some("completed") => break destination.console().wait_passes(2),
                    // 7.2 ends when a recovery breaks before it has resumed: there the second server may live.
                    Some(_) => {
                        assert!(struck, "{what}: {}", server.words());
                        assert_eq!(destination.run_state(), "running");
                        recovered += 1;
                        let recovery = server.recovery().expect("it said how to go on");
                        server = saved.serve(&mut destination, "migrate-recover", &[&recovery]);
                        let again = binary.version() != Version::V7_2 && moments.rng.chance(30);
                        struck = again && moments.strike(&mut server.tool);
                        if !struck {
                            server.assert_ends(0);
                        }
                    }
                    None => {
                        // Before the guest ran, or it would be lost; and not by a signal.
                        let status =
                            destination.wait_exit(Duration::from_secs(30)).expect("its monitor is closed");
                        assert_eq!(status.code(), Some(1), "{what}: {status}: {}", destination.stderr());
                        assert_eq!(destination.console().passes(), 0, "{what}: a guest that ran is lost");
                        assert!(struck, "{what}: {}", destination.stderr());
                        ended += 1;
                        break;
                    }
                }
            }
            assert!(fs::read(saved.image()).expect("the image") == before, "{what}: the image has changed");
        }
        println!("{what}: {ended} destinations ended before their guest ran, {recovered} recoveries");
        moments.assert_struck(&what);
    });
}
