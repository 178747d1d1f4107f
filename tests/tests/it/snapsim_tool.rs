//! The simulator's source and destination with `qemu-snapshot` between them, without QEMU.

use std::{
    io::{self, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use snapshot_tests::{corpus, not_run, ram::contents, tool::qemu_snapshot};
use vm_simulator::real::{
    Address, Connection, Digest, Fault, Faults, Listener, Load, Workload,
    destination::{self, DestinationConfig, DestinationOutcome, Purpose},
    page_checksum,
    source::{self, SourceConfig},
};

const PATIENCE: Duration = Duration::from_secs(60);
const RAM: u64 = 32 << 20;

fn userfaultfd_works() -> bool {
    match background_snapshot::Userfault::open(0) {
        Ok(_) => true,
        Err(error) => {
            not_run(&format!("no userfaultfd: {error}"));
            false
        }
    }
}

fn load(workload: Workload, rate: u64) -> Load {
    Load { workload, threads: 2, rate, seed: 3 }
}

fn exec(command: &str, faults: &Faults) -> io::Result<Connection> {
    Connection::connect(&Address::Exec(command.to_owned()), PATIENCE, faults)
}

/// Saves a busy VM into an image: what it must give back.
fn save(image: &Path) -> Digest {
    let config = SourceConfig {
        blocks: vec![(b"pc.ram".to_vec(), RAM), (b"pc.rom".to_vec(), 64 << 10)],
        load: load(Workload::HotCold, 0),
        warm_up: Duration::from_millis(50),
        // Slow enough for the guest to write meanwhile, on whatever machine.
        bandwidth: Some(128 << 20),
        digest: true,
        ..SourceConfig::default()
    };
    let command = format!("exec {} --create {}", qemu_snapshot().display(), image.display());
    let saved = source::run(&config, || exec(&command, &Faults::default())).expect("a save");
    assert!(saved.faults.0 > 0, "the guest did not write while it was saved");
    saved.digest.expect("it was asked for")
}

fn config(digest: &Digest) -> DestinationConfig {
    DestinationConfig {
        load: load(Workload::Random, 0),
        write_percent: 20,
        digest: Some(digest.clone()),
        run_for: Duration::from_millis(20),
        timeout: PATIENCE,
        ..DestinationConfig::default()
    }
}

fn assert_right(outcome: &DestinationOutcome) {
    assert_eq!((outcome.verified, outcome.wrong, outcome.duplicates), (outcome.pages, 0, 0));
    assert_eq!(outcome.devices, outcome.expected_devices);
}

/// A revert that connects to a socket; it ends with us.
struct Server(Child);

impl Server {
    fn start(image: &Path, socket: &Path, options: &[&str]) -> Self {
        let mut tool = Command::new(qemu_snapshot());
        tool.arg("--revert").args(options).arg(format!("--uri=unix:{}", socket.display())).arg(image);
        Self(tool.spawn().expect("the tool starts"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_busy_guest_comes_back_in_precopy_and_in_postcopy() {
    if !userfaultfd_works() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("vm.qcow2");
    let digest = save(&image);
    let tool = qemu_snapshot().display();
    for (options, postcopy) in
        [("", false), ("--postcopy=0", true), ("--postcopy=60", true), ("--postcopy=100", true)]
    {
        let command = format!("exec {tool} --revert {options} {}", image.display());
        let outcome = destination::run(&config(&digest), |_| exec(&command, &Faults::default()));
        let outcome = outcome.unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_right(&outcome);
        assert_eq!(outcome.postcopy, postcopy, "{options}");
    }
}

#[test]
fn requested_pages_have_their_channel() {
    if !userfaultfd_works() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (image, socket) = (folder.path().join("vm.qcow2"), folder.path().join("socket"));
    let digest = save(&image);
    let listener = Listener::bind(&socket).expect("a socket");
    let _server = Server::start(&image, &socket, &["--postcopy=0", "--preempt"]);
    let config = DestinationConfig { preempt: true, ..config(&digest) };
    let outcome =
        destination::run(&config, |_| listener.accept(PATIENCE, &Faults::default())).expect("a revert");
    assert_right(&outcome);
    assert!(outcome.requests > 0);
}

#[test]
fn a_revert_that_breaks_is_recovered() {
    if !userfaultfd_works() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (image, errors) = (folder.path().join("vm.qcow2"), folder.path().join("stderr"));
    let digest = save(&image);
    let tool = qemu_snapshot().display();
    let first = format!("exec {tool} --revert --postcopy=0 {} 2>{}", image.display(), errors.display());
    // What the first revert says is how to go on.
    let second = format!(
        "exec {tool} --revert --recover=$(sed -n 's/.*--recover=\\([0-9a-f-]*\\).*/\\1/p' {} | head -n 1) {}",
        errors.display(),
        image.display()
    );
    // Requests are few, so that the first connection does not end before the guest runs for lack of answers.
    let config =
        DestinationConfig { load: load(Workload::Random, 2000), device_touches: 0, ..config(&digest) };
    let outcome = destination::run(&config, |purpose| match purpose {
        Purpose::Main => exec(&first, &Faults::new(&[Fault::CloseAt(18 << 20)])),
        _ => exec(&second, &Faults::default()),
    });
    let outcome = outcome.expect("a revert");
    assert_right(&outcome);
    assert_eq!(outcome.recoveries, 1);
}

#[test]
fn streams_of_qemu_go_through_an_image_into_the_simulator() {
    if !userfaultfd_works() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let zero = page_checksum(&[0; 4096]);
    for name in ["qemu-7.2-pc-background", "qemu-10.0-pc-background", "qemu-10.0-q35", "qemu-7.2-pc-rounds"] {
        let (image, stream) = (folder.path().join(name), corpus::stream(name));
        let mut save = Command::new(qemu_snapshot());
        let mut save =
            save.arg("--create").arg(&image).stdin(Stdio::piped()).spawn().expect("the tool starts");
        save.stdin.take().expect("a pipe").write_all(&stream).expect("the tool reads");
        assert!(save.wait().expect("the tool ends").success(), "{name}");
        let contents = contents(&stream);
        for postcopy in ["", "--postcopy=0"] {
            let command =
                format!("exec {} --revert {postcopy} {}", qemu_snapshot().display(), image.display());
            let config = DestinationConfig {
                load: load(Workload::Random, 0),
                make_digest: true,
                timeout: PATIENCE,
                ..DestinationConfig::default()
            };
            let outcome = destination::run(&config, |_| exec(&command, &Faults::default()));
            let outcome = outcome.unwrap_or_else(|error| panic!("{name} {postcopy}: {error}"));
            for (block, pages) in &outcome.digest.expect("it was asked for").blocks {
                for (number, found) in pages.iter().enumerate() {
                    let page = contents.ram.get(&(block.clone(), number as u64 * 4096));
                    let expected = page.map_or(zero, |page| page_checksum(page));
                    assert_eq!(
                        *found,
                        expected,
                        "{name} {postcopy}: page {number} of {}",
                        block.escape_ascii()
                    );
                }
            }
        }
    }
}
