//! A source and a destination in one process.

use background_snapshot::Userfault;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use vm_simulator::real::destination::{self, DestinationConfig, DestinationOutcome};
use vm_simulator::real::source::{self, Mode, SourceConfig, SourceOutcome};
use vm_simulator::real::{Connection, Error, Faults, Load, Workload};

/// Nothing in a test waits longer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Whether tests of page faults can run; says so when they cannot.
pub(crate) fn userfaultfd_works() -> bool {
    match Userfault::open(0) {
        Ok(_) => true,
        Err(error) => {
            test_support::not_run(&format!("no userfaultfd: {error}"));
            false
        }
    }
}

pub(crate) fn load(workload: Workload) -> Load {
    Load { workload, threads: 2, rate: 0, seed: 7 }
}

/// A busy source with 16 MiB.
pub(crate) fn source(mode: Mode) -> SourceConfig {
    SourceConfig {
        blocks: vec![(b"pc.ram".to_vec(), 16 << 20), (b"pc.rom".to_vec(), 64 << 10)],
        load: load(Workload::HotCold),
        warm_up: Duration::from_millis(20),
        mode,
        ..SourceConfig::default()
    }
}

/// A destination that reads everywhere.
pub(crate) fn destination() -> DestinationConfig {
    DestinationConfig { load: load(Workload::Random), timeout: TIMEOUT, ..DestinationConfig::default() }
}

/// Faults of both ends of the connection with this number.
pub(crate) type FaultsOf = Box<dyn Fn(u64) -> (Faults, Faults) + Send>;

pub(crate) fn no_faults() -> FaultsOf {
    Box::new(|_| Default::default())
}

/// Makes connections: the source's end here, to the receiver the destination's, which waits no
/// longer than `patience`.
fn connector(
    faults: FaultsOf,
    patience: Duration,
) -> (impl FnMut() -> io::Result<Connection> + Send, Receiver<Connection>) {
    let (sender, receiver): (Sender<Connection>, _) = channel();
    let mut number = 0;
    let connect = move || {
        let (ours, theirs) = faults(number);
        number += 1;
        let (source, destination) = Connection::pair((TIMEOUT, &ours), (patience, &theirs))?;
        sender.send(destination).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(source)
    };
    (connect, receiver)
}

/// Runs both ends; the destination knows what it must get only if the source makes a digest and
/// `prepare` is given it.
pub(crate) fn run(
    source: &SourceConfig,
    destination: &DestinationConfig,
    faults: FaultsOf,
) -> (Result<SourceOutcome, Error>, Result<DestinationOutcome, Error>) {
    let (connect, connections) = connector(faults, destination.timeout);
    std::thread::scope(|scope| {
        let source = scope.spawn(move || source::run(source, connect));
        let loaded = destination::run(destination, |_| {
            connections.recv_timeout(TIMEOUT).map_err(|_| io::ErrorKind::NotConnected.into())
        });
        // A source that connects again finds no listener.
        drop(connections);
        (source.join().unwrap(), loaded)
    })
}

/// Runs both ends and compares RAM and devices.
pub(crate) fn check(
    source: &SourceConfig,
    destination: &DestinationConfig,
    faults: FaultsOf,
) -> (SourceOutcome, DestinationOutcome) {
    let source = SourceConfig { digest: true, ..source.clone() };
    let destination = DestinationConfig { make_digest: true, ..destination.clone() };
    let (sent, loaded) = run(&source, &destination, faults);
    let (sent, loaded) = match (sent, loaded) {
        (Ok(sent), Ok(loaded)) => (sent, loaded),
        (sent, loaded) => panic!("source: {:?}, destination: {:?}", sent.err(), loaded.err()),
    };
    let (expected, found) = (sent.digest.as_ref().unwrap(), loaded.digest.as_ref().unwrap());
    assert_eq!(expected.devices, found.devices, "devices");
    for ((name, expected), (_, found)) in expected.blocks.iter().zip(&found.blocks) {
        let wrong: Vec<usize> = (0..expected.len()).filter(|&page| expected[page] != found[page]).collect();
        assert_eq!(wrong, [0usize; 0], "pages of {}", name.escape_ascii());
    }
    (sent, loaded)
}
