//! Machines with NICs, and what is different between streams.

use serde_json::{Value, json};
use snapshot_tests::tool::snapinspect;
use snapshot_tests::{Binary, Config, Guest, Outcome, Qemu, ToImage, exec_uri};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A NIC of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nic {
    pub(super) kind: &'static str,
    /// Where it is plugged in.
    pub(super) bus: &'static str,
    /// Its section, or the beginning of the name.
    pub(super) device: &'static str,
    pub(super) old: &'static str,
    pub(super) new: &'static str,
}

/// All kinds that are rewritten; what QEMU 8.2 brought is not there. The bytes of both addresses differ
/// everywhere.
pub(super) const NICS: [Nic; 7] = [
    nic("virtio-net-pci", "bus=pcie.0,addr=3", "0000:00:03.0/virtio-net", 1),
    nic("e1000", "bus=pcie.0,addr=4", "0000:00:04.0", 2),
    nic("e1000e", "bus=pcie.0,addr=5", "0000:00:05.0", 3),
    nic("rtl8139", "bus=pcie.0,addr=6", "0000:00:06.0", 4),
    nic("vmxnet3", "bus=port1,addr=0", "0000:00:07.0:00.0/vmxnet3", 5),
    nic("virtio-net-pci", "bus=port2,addr=0", "0000:00:08.0:00.0/virtio-net", 6),
    nic("rtl8139", "bus=bridge,addr=2", "0000:00:09.0:01.0:02.0", 7),
];

const fn nic(kind: &'static str, bus: &'static str, device: &'static str, number: usize) -> Nic {
    let (old, new) = MACS[number - 1];
    Nic { kind, bus, device, old, new }
}

const MACS: [(&str, &str); 7] = [
    ("52:54:00:12:34:01", "02:aa:bb:cc:dd:f1"),
    ("52:54:00:12:34:02", "02:aa:bb:cc:dd:f2"),
    ("52:54:00:12:34:03", "02:aa:bb:cc:dd:f3"),
    ("52:54:00:12:34:04", "02:aa:bb:cc:dd:f4"),
    ("52:54:00:12:34:05", "02:aa:bb:cc:dd:f5"),
    ("52:54:00:12:34:06", "02:aa:bb:cc:dd:f6"),
    ("52:54:00:12:34:07", "02:aa:bb:cc:dd:f7"),
];

impl Nic {
    /// Fields of its section that hold the address, with its new content as `snapinspect diff` names both.
    pub(super) fn fields(&self) -> Vec<String> {
        let section = match self.kind {
            "virtio-net-pci" => "virtio-net",
            kind => kind,
        };
        let (device, _) = self.device.split_once('/').unwrap_or((self.device, ""));
        let names: &[&str] = match section {
            "virtio-net" => &["virtio"],
            "e1000" => &["eeprom_data", "mac_reg[0]", "e1000/full_mac_state.mac_reg"],
            "e1000e" => &["core.eeprom", "core.mac", "core.permanent_mac"],
            "rtl8139" => &["phys", "conf.macaddr", "eeprom.contents"],
            _ => &["parent_obj[0].config[1]"],
        };
        names.iter().map(|name| format!("{device}/{section}/0 {name}")).collect()
    }
}

/// A saved machine with NICs.
pub(super) struct Clones {
    folder: TempDir,
    nics: Vec<Nic>,
    pub(super) config: Config,
}

/// A stream, and the addresses that QEMU told while it was made.
pub(super) struct Stream {
    pub(super) path: PathBuf,
    pub(super) macs: Vec<String>,
}

impl Clones {
    /// Saves a machine with these NICs, whose guest has run and is stopped.
    pub(super) fn saved(binary: &Binary, guest: &Guest, nics: &[Nic]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clones = Self { folder, nics: nics.to_vec(), config: config(nics, |nic| nic.old) };
        let mut source = Qemu::start(binary, guest, clones.config.clone());
        source.console().wait_ready();
        source.execute("stop", json!({}));
        let save = ToImage { options: "--create", image: &clones.image(), stream: None };
        assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
        clones
    }

    pub(super) fn image(&self) -> PathBuf {
        self.folder.path().join("vm.qcow2")
    }

    /// The machine with these addresses on its command line.
    pub(super) fn with_macs(&self, mac: impl Fn(&Nic) -> &'static str) -> Config {
        config(&self.nics, mac).incoming()
    }

    /// The one that a clone is loaded into: vmxnet3 has the new address already.
    pub(super) fn of_destination(&self) -> Config {
        config(&self.nics, |nic| if nic.kind == "vmxnet3" { nic.new } else { nic.old })
    }

    /// The stream of a machine that was reverted with these orders, and has not run since.
    pub(super) fn stream_of_a_revert(
        &self,
        binary: &Binary,
        guest: &Guest,
        orders: &str,
        config: &Config,
    ) -> Stream {
        let mut destination = Qemu::start(binary, guest, config.incoming());
        let uri = exec_uri(&format!("--revert {orders}"), &self.image());
        assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
        let path = self.folder.path().join(format!("stream{}", destination.pid()));
        let macs = macs(&mut destination);
        assert_eq!(destination.save(&format!("exec:cat > {}", path.display())), Outcome::Completed);
        Stream { path, macs }
    }

    /// The addresses that QEMU tells after such a revert, in the order of the NICs.
    pub(super) fn macs_of_a_revert(&self, binary: &Binary, guest: &Guest, orders: &str) -> Vec<String> {
        let mut destination = Qemu::start(binary, guest, self.config.incoming());
        destination.set_capabilities(&[("postcopy-ram", orders.contains("--postcopy"))]);
        let uri = exec_uri(&format!("--revert {orders}"), &self.image());
        assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
        macs(&mut destination)
    }
}

fn config(nics: &[Nic], mac: impl Fn(&Nic) -> &'static str) -> Config {
    let mut more: Vec<String> = [
        // The date is one of the machine's own, and stands still with it.
        "-rtc base=2026-01-01T00:00:00,clock=vm",
        "-device pcie-root-port,id=port1,bus=pcie.0,addr=7,chassis=1",
        "-device pcie-root-port,id=port2,bus=pcie.0,addr=8,chassis=2",
        "-device i82801b11-bridge,id=bridge0,bus=pcie.0,addr=9",
        "-device pci-bridge,id=bridge,bus=bridge0,addr=1,chassis_nr=3",
    ]
    .iter()
    .flat_map(|line| line.split_whitespace().map(str::to_owned))
    .collect();
    for (number, nic) in nics.iter().enumerate() {
        let (kind, bus, mac) = (nic.kind, nic.bus, mac(nic));
        more.extend([
            "-netdev".to_owned(),
            format!("hubport,hubid={number},id=n{number}"),
            "-device".to_owned(),
            format!("{kind},{bus},netdev=n{number},mac={mac},romfile="),
        ]);
    }
    Config { machine: "q35".to_owned(), more, ..Config::of_mib(24) }
}

/// The addresses that QEMU tells, in the order of the netdevs.
pub(super) fn macs(qemu: &mut Qemu) -> Vec<String> {
    let filters = qemu.execute("query-rx-filter", json!({}));
    let mac = |filter: &Value| filter["main-mac"].as_str().expect("documented").to_owned();
    filters.as_array().expect("documented").iter().map(mac).collect()
}

/// `DEVICE FIELD` of everything that is different; pages and other differences as `snapinspect` writes them.
pub(super) fn differences(before: &Path, after: &Path) -> Vec<String> {
    let output = Command::new(snapinspect()).arg("diff").args([before, after]).arg("--json").output();
    let output = output.expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |line: &str| {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        match (entry["type"].as_str(), entry["device"].as_str(), entry["path"].as_str()) {
            (Some("field"), Some(device), Some(path)) => Some(format!("{device} {path}")),
            (Some("summary" | "verdict" | "diff"), ..) => None,
            _ => Some(line.to_owned()),
        }
    };
    text.lines().filter_map(line).collect()
}

/// Waits until `is` says so.
pub(super) fn wait_until(mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "not within a minute");
        thread::sleep(Duration::from_millis(10));
    }
}
