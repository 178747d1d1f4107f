//! What `snapinspect compat` says, against what a real QEMU does with the same stream: what does
//! not load was never called safe, and what loads was never called broken.

use serde_json::Value;
use snapshot_tests::{Binary, Config, Guest, Outcome, Qemu, Version, Workload, tool::snapinspect};
use std::path::Path;
use std::process::Command;

/// A machine of one version.
#[derive(Clone)]
struct Machine {
    version: Version,
    machine: &'static str,
    memory_mib: u32,
    more: &'static [&'static str],
}

const PC: Machine = Machine { version: Version::V7_2, machine: "pc-i440fx-7.2", memory_mib: 16, more: &[] };

impl Machine {
    fn config(&self) -> Config {
        Config {
            machine: self.machine.to_owned(),
            memory_mib: self.memory_mib,
            workload: Workload::IDLE,
            more: self.more.iter().map(|&word| word.to_owned()).collect(),
            ..Config::default()
        }
    }

    /// Writes its stream.
    fn save(&self, binary: &Binary, guest: &Guest, file: &Path) {
        let mut source = Qemu::start(binary, guest, self.config());
        source.console().wait_ready();
        source.set_fast();
        let uri = format!("exec:cat > {}", file.display());
        assert_eq!(source.save(&uri), Outcome::Completed, "{}", source.stderr());
        source.quit();
    }
}

/// Source, target, and what compat is to say.
fn pairs() -> Vec<(&'static str, Machine, Machine, &'static str)> {
    let q35 = Machine { machine: "pc-q35-7.2", ..PC };
    let new = Machine { version: Version::V10_0, ..PC };
    let newest = Machine { version: Version::V10_0, machine: "pc-i440fx-10.0", ..PC };
    let large = Machine { memory_mib: 32, ..PC };
    let rng = Machine { more: &["-device", "virtio-rng-pci"], ..PC };
    let net =
        Machine { more: &["-netdev", "hubport,id=n,hubid=0", "-device", "virtio-net-pci,netdev=n"], ..PC };
    let queues = Machine { more: &["-device", "virtio-serial-pci,max_ports=4"], ..PC };
    let more_queues = Machine { more: &["-device", "virtio-serial-pci,max_ports=8"], ..PC };
    vec![
        ("the same", PC, PC, "safe"),
        ("the same machine type of a newer QEMU", PC, new.clone(), "any"),
        ("and of an older one", new, PC, "any"),
        ("another machine type", PC, q35, "breaks"),
        ("a newer machine type", PC, newest, "breaks"),
        ("more RAM", PC, large.clone(), "breaks"),
        ("less RAM", large, PC, "breaks"),
        ("a device too many", rng.clone(), PC, "breaks"),
        ("a device too few", PC, rng.clone(), "may_break"),
        ("another device in its place", rng, net, "breaks"),
        ("another size of a device", queues, more_queues, "any"),
    ]
}

#[test]
fn compat_never_calls_safe_what_does_not_load_nor_broken_what_loads() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (what, source, target, expected) in pairs() {
        let (Some(of_source), Some(of_target)) =
            (source.version.binary_or_skip(), target.version.binary_or_skip())
        else {
            return;
        };
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        source.save(&of_source, guest, &a);
        target.save(&of_target, guest, &b);
        let output =
            Command::new(snapinspect()).args(["compat", "--format", "json"]).arg(&a).arg(&b).output();
        let output = output.expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary: Value = serde_json::from_str(text.lines().last().expect("a summary")).expect("JSON");
        let verdict = summary["verdict"].as_str().expect("a verdict");
        assert!(expected == "any" || verdict == expected, "{what}: {text}");

        let mut destination = Qemu::start(&of_target, guest, target.config().incoming());
        let outcome = destination.revert(&format!("exec:cat {}", a.display()));
        let loads = outcome == Outcome::Completed;
        assert!(loads || verdict != "safe", "{what}: called safe, but {outcome:?}");
        assert!(!loads || verdict != "breaks", "{what}: called broken, but it loads: {text}");
    }
}
