//! Postcopy reverts into real QEMUs: the guest runs at once, goes on from the saved moment, and
//! itself verifies every page.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Config, Outcome, Qemu, Ram, Saved, Server, ToImage, Workload,
    beside::{self, utf8},
    exec_uri, huge_pages_or_skip,
    image::{run_tool, text},
    save_after_a_pass, with_each_qemu,
};

#[test]
fn every_share_reverts_over_pipes_and_sockets() {
    with_each_qemu(|binary, guest| {
        let workload = Workload { used_percent: 70, ..Workload::STEADY };
        let Some(saved) = Saved::of(binary, guest, Config { workload, ..Config::of_mib(48) }) else { return };
        for percent in [0, 1, 60, 100] {
            let option = format!("--postcopy={percent}");
            let mut destination = saved.destination(binary, guest);
            let uri = exec_uri(&format!("--revert {option}"), &saved.image());
            assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
            saved.assert_goes_on(&mut destination);

            let mut destination = saved.destination(binary, guest);
            let mut server = saved.serve(&mut destination, "migrate-incoming", &[&option]);
            server.assert_ends(0);
            destination.wait_migration("completed");
            saved.assert_goes_on(&mut destination);
        }
    });
}

#[test]
fn guest_runs_while_its_pages_come() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config { memory_mib: 128, ..Config::of_mib(48) }) else {
            return;
        };
        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        let started = Instant::now();
        let mut ran_before_the_end = false;
        while destination.migration_status() != "completed" {
            // Asked in this order: what is not complete now was not complete a moment ago.
            ran_before_the_end |=
                destination.run_state() == "running" && destination.migration_status() == "postcopy-active";
            assert!(started.elapsed() < Duration::from_secs(60), "{}", server.words());
        }
        server.assert_ends(0);
        assert!(ran_before_the_end, "{}", server.words());
        saved.assert_goes_on(&mut destination);
    });
}

#[test]
fn reverted_guest_is_saved_and_reverted_again() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config::of_mib(48)) else { return };
        let mut destination = saved.destination(binary, guest);
        let uri = exec_uri("--revert --postcopy=0", &saved.image());
        assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
        destination.set_capabilities(&[("postcopy-ram", false)]);
        let image = saved.folder.path().join("again.qcow2");
        let Some(passes) = save_after_a_pass(&mut destination, &image) else { return };
        assert!(passes > saved.passes);
        drop(destination);
        let mut last = Qemu::start(binary, guest, saved.config.incoming());
        assert_eq!(last.revert(&exec_uri("--revert", &image)), Outcome::Completed, "{}", last.stderr());
        last.console().wait_passes(3);
        assert!(last.console().passes() >= passes + 3);
    });
}

/// With `-S` the destination has everything, and waits for `cont`.
#[test]
fn stopped_destination_stays_stopped() {
    with_each_qemu(|binary, guest| {
        let Some(mut saved) = Saved::of(binary, guest, Config::of_mib(48)) else { return };
        saved.config.more.push("-S".to_owned());
        let mut destination = saved.destination(binary, guest);
        let uri = exec_uri("--revert --postcopy=0", &saved.image());
        assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
        assert_ne!(destination.run_state(), "running");
        destination.execute("cont", json!({}));
        saved.assert_goes_on(&mut destination);
    });
}

/// `migrate-recover` through a pipe, and refused to another snapshot.
#[test]
fn recovery_works_over_a_pipe_and_names_the_snapshot() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config { memory_mib: 128, ..Config::of_mib(48) }) else {
            return;
        };
        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        destination.wait_running();
        let recovery = server.wait_recovery();
        server.tool.kill().expect("our own child");
        beside::end(&mut server.tool);
        destination.wait_migration("postcopy-paused");
        let wrong = "--recover=00112233-4455-4677-8899-aabbccddeeff";
        // Refused before there is a connection: a recovery that breaks makes QEMU 7.2 end.
        let output =
            run_tool(["--revert", wrong, "--uri=unix:/nowhere", utf8(&saved.image())].map(OsStr::new), None);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("two guests must not mix"), "{}", text(&output));
        let uri = exec_uri(&format!("--revert {recovery}"), &saved.image());
        destination.execute("migrate-recover", json!({ "uri": uri }));
        destination.wait_migration("completed");
        saved.assert_goes_on(&mut destination);
    });
}

#[test]
fn descriptors_carry_postcopy_and_its_recovery() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config { memory_mib: 128, ..Config::of_mib(48) }) else {
            return;
        };
        let mut destination = saved.destination(binary, guest);
        let said = destination.home().join("said");
        let image = saved.image();
        let connect = |destination: &mut Qemu, command: &str, option: &str| {
            let (ours, qemus) = UnixStream::pair().expect("a socket pair");
            let arguments = ["--revert", option, "--uri", "fd:0", utf8(&image)];
            let tool = beside::start(&arguments, Stdio::from(OwnedFd::from(ours)), &said);
            destination.qmp().give_fd("channel", qemus.as_fd()).expect("QEMU takes a descriptor");
            drop(qemus);
            destination.execute(command, json!({ "uri": "fd:channel" }));
            Server { tool, said: said.clone() }
        };
        let mut server = connect(&mut destination, "migrate-incoming", "--postcopy=0");
        destination.wait_running();
        let recovery = server.wait_recovery();
        server.tool.kill().expect("our own child");
        beside::end(&mut server.tool);
        destination.wait_migration("postcopy-paused");
        connect(&mut destination, "migrate-recover", &recovery).assert_ends(0);
        destination.wait_migration("completed");
        saved.assert_goes_on(&mut destination);
    });
}

#[test]
fn one_image_reverts_25_guests_at_once() {
    with_each_qemu(|binary, guest| {
        let config = Config { memory_mib: 16, ..Config::of_mib(48) };
        let Some(saved) = Saved::of(binary, guest, config) else { return };
        let uri = exec_uri("--revert --postcopy=0", &saved.image());
        let mut all: Vec<Qemu> = (0..25).map(|_| saved.destination(binary, guest)).collect();
        for destination in &mut all {
            destination.execute("migrate-incoming", json!({ "uri": uri }));
        }
        for destination in &mut all {
            destination.wait_migration("completed");
        }
        for destination in &mut all {
            destination.console().wait_passes(1);
        }
    });
}

#[test]
fn server_notices_a_destination_that_is_gone() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config { memory_mib: 128, ..Config::of_mib(48) }) else {
            return;
        };
        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        destination.wait_running();
        // The words stay readable: the folder goes with the machine.
        let said = saved.folder.path().join("said");
        fs::hard_link(&server.said, &said).expect("the same file system");
        drop(destination);
        server.said = said;
        server.assert_ends(2);
        assert!(server.words().contains("the destination closed"), "{}", server.words());
    });
}

#[test]
fn destination_without_the_capability_refuses_at_once() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config::of_mib(48)) else { return };
        let mut destination = Qemu::start(binary, guest, saved.config.incoming());
        let uri = exec_uri("--revert --postcopy=0", &saved.image());
        let Outcome::Failed(words) = destination.revert(&uri) else { panic!("it was loaded") };
        assert!(words.contains("ostcopy"), "{words}");
    });
}

#[test]
fn dirty_bitmaps_come_along() {
    with_each_qemu(|binary, guest| {
        let disk = "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on";
        let more = vec!["-blockdev".to_owned(), disk.to_owned()];
        let config = Config { more, workload: Workload::IDLE, ..Config::of_mib(48) };
        let mut source = Qemu::start(binary, guest, config.clone());
        source.console().wait_ready();
        source.console().wait_passes(1);
        source.set_capabilities(&[("dirty-bitmaps", true)]);
        let bitmap = json!({ "node": "disk0", "name": "bitmap0", "persistent": false });
        source.execute("block-dirty-bitmap-add", bitmap);
        source.set_fast();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("vm.qcow2");
        let passes = source.console().passes();
        let save = ToImage { options: "--create", image: &image, stream: None };
        assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
        drop(source);
        let saved = Saved { folder, config, passes };
        let mut destination = saved.destination(binary, guest);
        destination.set_capabilities(&[("dirty-bitmaps", true)]);
        let uri = exec_uri("--revert --postcopy=0", &image);
        assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
        saved.assert_goes_on(&mut destination);
        let nodes = destination.execute("query-named-block-nodes", json!({})).to_string();
        assert!(nodes.contains("\"bitmap0\""), "{nodes}");
    });
}

/// Nothing wrong is sent: the server names the page and ends, and QEMU waits for another one.
#[test]
fn damaged_page_pauses_the_destination() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config { memory_mib: 128, ..Config::of_mib(48) }) else {
            return;
        };
        let mut bytes = fs::read(saved.image()).expect("the image");
        // Nearly all of the file is RAM: the first page behind its middle that is not zero.
        let page = |at: &usize| bytes[*at..][..4096].iter().any(|&byte| byte != 0);
        let middle = bytes.len() / 2 / 4096 * 4096;
        let at = (middle..bytes.len() - 4096).step_by(4096).find(page).expect("a page") + 1234;
        bytes[at] ^= 0x40;
        fs::write(saved.image(), &bytes).expect("the image");
        let mut destination = saved.destination(binary, guest);
        let started = Instant::now();
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        server.assert_ends(1);
        let words = server.words();
        assert!(words.contains("block \"pc.ram\"") && words.contains("offset 0x"), "{words}");
        destination.wait_migration("postcopy-paused");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        // With the damage undone, the next server finishes.
        bytes[at] ^= 0x40;
        fs::write(saved.image(), &bytes).expect("the image");
        let recovery = server.recovery_by_uuid().expect("it named the snapshot");
        saved.serve(&mut destination, "migrate-recover", &[&recovery]).assert_ends(0);
        destination.wait_migration("completed");
        saved.assert_goes_on(&mut destination);
    });
}

#[test]
fn preempt_channel_carries_requested_pages() {
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config::of_mib(48)) else { return };
        for _ in 0..5 {
            let mut destination = saved.destination(binary, guest);
            destination.set_capabilities(&[("postcopy-preempt", true)]);
            let options = ["--postcopy=0", "--preempt"];
            let mut server = saved.serve(&mut destination, "migrate-incoming", &options);
            server.assert_ends(0);
            destination.wait_migration("completed");
            saved.assert_goes_on(&mut destination);
        }
    });
}

/// Number of requests in the tool's last words.
fn requests(words: &str) -> u32 {
    let (before, _) = words.rsplit_once(" requests").expect("a summary");
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn hot_set_is_recorded_and_used() {
    // Few enough pages that a guest comes to all of them while it is watched, also on a busy machine.
    let workload = Workload { limit_mib: 4, ..Workload::STEADY };
    with_each_qemu(|binary, guest| {
        let Some(saved) = Saved::of(binary, guest, Config { workload, ..Config::of_mib(48) }) else { return };
        let mut counts = Vec::new();
        for options in [&["--record-hot-set=5"][..], &[], &["--no-hot-set"]] {
            let mut destination = saved.destination(binary, guest);
            let options = [&["--postcopy=0"], options].concat();
            let mut server = saved.serve(&mut destination, "migrate-incoming", &options);
            server.assert_ends(0);
            counts.push(requests(&server.words()));
            destination.wait_migration("completed");
            saved.assert_goes_on(&mut destination);
        }
        let [first, second, without] = counts[..] else { unreachable!("three runs") };
        assert!(
            second * 4 <= first && second * 2 <= without,
            "requests {first}, hot set {second}, ignored {without}"
        );
        // Damaged, it is left aside.
        let sidecar = saved.folder.path().join("vm.qcow2.hot-set");
        fs::write(&sidecar, b"damaged").expect("the sidecar");
        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        server.assert_ends(0);
        assert!(server.words().contains("the hot set is not used"), "{}", server.words());
    });
}

#[test]
fn huge_pages_are_filled_as_a_whole() {
    if !huge_pages_or_skip(24) {
        return;
    }
    with_each_qemu(|binary, guest| {
        let Some(mut saved) = Saved::of(binary, guest, Config::of_mib(48)) else { return };
        saved.config.ram = Ram::Huge;
        let mut destination = saved.destination(binary, guest);
        let options = ["--postcopy=0", "--host-page=pc.ram:2M"];
        let mut server = saved.serve(&mut destination, "migrate-incoming", &options);
        server.assert_ends(0);
        destination.wait_migration("completed");
        saved.assert_goes_on(&mut destination);
    });
}
