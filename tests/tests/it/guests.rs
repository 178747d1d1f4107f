//! Guests that must not be lost, and failures that their QEMU must see: what depends on machine
//! type, release and timing.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Ram, Saved, ToImage, Version, Workload, with_each_qemu,
    with_each_qemu_that,
};

/// How often a pair is tried; more in the nightly tier.
fn runs(variable: &str, usual: u32) -> u32 {
    env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

fn reverts_with_preempt(saved: &Saved, binary: &Binary, guest: &Guest) {
    let mut destination = saved.destination(binary, guest);
    destination.set_capabilities(&[("postcopy-preempt", true)]);
    let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0", "--preempt"]);
    server.assert_ends(0);
    destination.wait_migration("completed");
    saved.assert_goes_on(&mut destination);
}

/// Requests cross the end of the preempt channel, which depends on the release, while the machine
/// type says only which releases it cannot be. `PREEMPT_RUNS` sets how often each pair is tried.
#[test]
fn preempt_comes_to_its_end_with_every_machine_type_on_every_release() {
    let Some(guest) = Guest::built_or_skip() else { return };
    // Zero pages are what remains to be asked for at the end.
    let workload = Workload { used_percent: 70, ..Workload::STEADY };
    let binaries = Version::each_that(|version| version >= Version::V7_2);
    let mut completed = 0;
    for (number, source) in binaries.iter().enumerate() {
        for machine in ["pc", "pc-i440fx-7.2", "pc-q35-7.2"] {
            let of_one_release = machine == "pc";
            // A stream of a common type is the same whoever sent it: the oldest sends one, the
            // newest the other.
            let sends = match machine {
                "pc-i440fx-7.2" => number == 0,
                "pc-q35-7.2" => number == binaries.len() - 1,
                _ => true,
            };
            let config =
                Config { machine: machine.to_owned(), workload, memory_mib: 48, ..Config::default() };
            let Some(saved) = sends.then(|| Saved::of(source, guest, config)).flatten() else { continue };
            for destination in &binaries {
                if of_one_release && destination.version() != source.version() {
                    continue;
                }
                for _ in 0..runs("PREEMPT_RUNS", 1) {
                    reverts_with_preempt(&saved, destination, guest);
                    completed += 1;
                }
            }
        }
    }
    println!("{completed} reverts with preempt completed");
}

/// Where the kernel can write-protect shared memory.
fn shared_memory(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(format!("{name}-{}", std::process::id()))
}

/// The whole stream of such a guest is hardly more than what a pipe holds, and the refusal comes
/// with its last part. `REFUSAL_RUNS` sets how often each machine is tried.
#[test]
fn refusal_of_a_small_stream_fails_the_migration() {
    with_each_qemu(|binary, guest| {
        for machine in ["pc", "q35"] {
            for background in [false, true] {
                if background && !binary.version().has_background_snapshot() {
                    continue;
                }
                let file = shared_memory(&format!("refusal-{machine}-{background}"));
                let config = Config {
                    machine: machine.to_owned(),
                    memory_mib: 16,
                    ram: Ram::SharedFile(file.clone()),
                    workload: Workload::IDLE,
                    ..Config::default()
                };
                for run in 0..runs("REFUSAL_RUNS", 3) {
                    let mut source = Qemu::start(binary, guest, config.clone());
                    source.console().wait_ready();
                    source.set_fast();
                    source.set_capabilities(&[("x-ignore-shared", true)]);
                    if background && !source.background_snapshot_or_skip() {
                        break;
                    }
                    let image = source.home().join("image");
                    let outcome =
                        source.save_image(&ToImage { options: "--create", image: &image, stream: None });
                    let what = format!("{machine}, background {background}, run {run}");
                    assert!(
                        matches!(outcome, Outcome::Failed(_)),
                        "{what}: {outcome:?}: {}",
                        source.stderr()
                    );
                    assert!(
                        source.stderr().contains("capability x-ignore-shared"),
                        "{what}: {}",
                        source.stderr()
                    );
                    assert!(!image.exists(), "{what}");
                    source.wait_running();
                    let passes = source.console().passes();
                    source.console().wait_passes(1);
                    assert!(source.console().passes() > passes, "{what}: the guest has stopped");
                }
                let _ = std::fs::remove_file(&file);
            }
        }
    });
}

/// A destination that fails while it loads the devices has no guest that could be recovered.
#[test]
fn hint_to_recover_is_not_given_to_a_revert_that_fails_while_loading() {
    with_each_qemu_that(Version::has_background_snapshot, |binary, guest| {
        let more = vec!["-device".to_owned(), "virtio-rng-pci".to_owned()];
        let config = Config { memory_mib: 48, more, ..Config::default() };
        let Some(mut saved) = Saved::of(binary, guest, config) else { return };
        saved.config.more.clear();
        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        server.assert_ends(2);
        let words = server.words();
        assert!(words.contains("serving pages of snapshot ") && !words.contains("--recover"), "{words}");
        // With the device it is loaded, and the hint is given.
        saved.config.more = vec!["-device".to_owned(), "virtio-rng-pci".to_owned()];
        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        server.assert_ends(0);
        assert_eq!(server.recovery(), server.recovery_by_uuid(), "{}", server.words());
        assert!(server.recovery().is_some(), "{}", server.words());
    });
}

/// QEMU 11.1 takes multifd and postcopy together, and then waits for channels that never come.
#[test]
fn destination_that_waits_for_other_channels_is_given_up_by_name() {
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each_that(|version| version >= Version::V11_1) {
        let Some(saved) = Saved::of(&binary, guest, Config { memory_mib: 48, ..Config::default() }) else {
            return;
        };
        let mut destination = saved.destination(&binary, guest);
        destination.set_capabilities(&[("multifd", true)]);
        let options = ["--postcopy=0", "--timeout=3"];
        let mut server = saved.serve(&mut destination, "migrate-incoming", &options);
        let started = std::time::Instant::now();
        server.assert_ends(2);
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        assert!(server.words().contains("multifd"), "{}", server.words());
        assert!(!server.words().contains("--recover"), "{}", server.words());
    }
}

/// QEMU 7.2 would leave its guest standing still if the tool died.
#[test]
fn memory_that_runs_out_fails_the_migration_and_the_guest_goes_on() {
    with_each_qemu_that(Version::has_background_snapshot, |binary, guest| {
        let mut source = Qemu::start(binary, guest, Config { memory_mib: 96, ..Config::default() });
        source.console().wait_ready();
        source.set_fast();
        if !source.background_snapshot_or_skip() {
            return;
        }
        let image = source.home().join("image");
        let tool = snapshot_tests::tool::qemu_snapshot().display();
        // Enough to begin with, and not for the pages of a guest that writes all of its memory.
        let uri = format!("exec:exec prlimit --as=14000000 -- {tool} --create {}", image.display());
        let outcome = source.save(&uri);
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}: {}", source.stderr());
        assert!(source.stderr().contains("out of memory"), "{}", source.stderr());
        assert!(!image.exists());
        source.wait_running();
        source.console().wait_passes(2);
    });
}

/// A destination loads all of its guest, or ends; it does not wait, and does not run on a part.
#[test]
fn memory_that_is_too_little_for_a_revert_ends_its_destination() {
    with_each_qemu(|binary, guest| {
        let config = Config { memory_mib: 48, ..Config::default() };
        let Some(saved) = Saved::of(binary, guest, config) else { return };
        let tool = snapshot_tests::tool::qemu_snapshot().display();
        let image = saved.image();
        let (mut refused, mut loaded) = (0, 0);
        // From what is just enough to begin with to what is enough.
        for mebibytes in [13, 14, 16, 18, 256] {
            let mut destination = Qemu::start(binary, guest, saved.config.incoming());
            let limit = mebibytes << 20;
            let uri = format!("exec:exec prlimit --as={limit} -- {tool} --revert {}", image.display());
            match destination.revert(&uri) {
                Outcome::Completed => {
                    saved.assert_goes_on(&mut destination);
                    loaded += 1;
                }
                Outcome::Failed(why) => {
                    refused += u32::from(why.contains("out of memory"));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 0 && loaded > 0, "{}: {refused} refused, {loaded} loaded", binary.version());
    });
}
