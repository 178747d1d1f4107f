//! Captures the corpus anew: small streams of real QEMUs, with no firmware in them. Run by
//! `corpus/capture`.
//!
//! The guest is the machine's whole firmware, ACPI tables are off and there is no device with an
//! option ROM, so every page in a stream is the guest's own or zero.

mod bare;
mod dumps;
mod elsewhere;
mod keep;
mod libvirt;
mod loads;
mod multifd;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use keep::keep;
use serde_json::json;
use snapshot_tests::{
    Binary, Boot, Config, Guest, Outcome, Qemu, Recorder, Version, Workload, corpus, image::qemu_img_or_skip,
};

const MEMORY_MIB: u32 = 4;

/// How a stream is taken.
#[derive(Clone, Copy)]
enum How {
    /// To a pipe; the guest is stopped at the end.
    Pipe,
    /// To a pipe, so slowly that a busy guest is sent in several rounds.
    Rounds,
    /// Over sockets to a second QEMU, so that there is a return path.
    Socket,
    /// The same, and the switch to postcopy while RAM is on its way.
    Postcopy,
}

/// One stream to capture.
struct Capture {
    name: &'static str,
    versions: &'static [Version],
    machine: &'static str,
    capabilities: &'static [&'static str],
    more: &'static [&'static str],
    workload: Workload,
    how: How,
}

/// The guest's pages are what makes a stream large.
const FEW_PAGES: Workload =
    Workload { used_percent: 4, rewrite: 1, interval: 4096, dirty_pages: 0, limit_mib: 0 };
const BUSY: Workload = Workload { rewrite: 64, ..FEW_PAGES };
/// For streams that are there for their devices.
const FEWEST_PAGES: Workload = Workload { used_percent: 1, ..FEW_PAGES };
const BOTH: &[Version] = &[Version::V7_2, Version::V10_0];
const OLD: &[Version] = &[Version::V7_2];
const NEW: &[Version] = &[Version::V10_0];
/// Those with something of each way in which a vmdesc describes arrays.
const THREE: &[Version] = &[Version::V7_2, Version::V10_0, Version::V11_1];
/// Those of 10.0 and later.
const LATER: &[Version] = &[Version::V10_0, Version::V11_1];
const NEWEST: &[Version] = &[Version::V11_1];

const PLAIN: Capture = Capture {
    name: "pc",
    versions: BOTH,
    machine: "pc",
    capabilities: &[],
    more: &[],
    workload: FEW_PAGES,
    how: How::Pipe,
};

const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// A disk of nothing with a dirty bitmap, which QMP adds.
const BITMAP_NODE: &[&str] = &["-blockdev", "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on"];

/// Two NUMA nodes, by libvirt's names; the larger one comes first in the stream.
const NODES: &[&str] = &[
    "-object",
    "memory-backend-ram,id=ram-node0,size=1M",
    "-object",
    "memory-backend-ram,id=ram-node1,size=3M",
    "-numa",
    "node,memdev=ram-node0",
    "-numa",
    "node,memdev=ram-node1",
];

const DEVICES: Capture = Capture { workload: FEWEST_PAGES, ..PLAIN };

const CAPTURES: &[Capture] = &[
    Capture { versions: THREE, ..PLAIN },
    Capture { name: "q35", versions: THREE, machine: "q35", ..PLAIN },
    Capture {
        name: "pc-background",
        versions: THREE,
        capabilities: &["background-snapshot"],
        workload: BUSY,
        ..PLAIN
    },
    Capture { name: "q35-background", machine: "q35", capabilities: &["background-snapshot"], ..PLAIN },
    Capture { name: "pc-rounds", workload: BUSY, how: How::Rounds, ..PLAIN },
    Capture { name: "pc-xbzrle", capabilities: &["xbzrle"], workload: BUSY, how: How::Rounds, ..PLAIN },
    Capture { name: "pc-compress", versions: OLD, capabilities: &["compress"], ..PLAIN },
    Capture { name: "pc-no-footers", more: &["-global", "migration.send-section-footer=off"], ..PLAIN },
    Capture {
        name: "pc-no-configuration",
        versions: OLD,
        more: &["-global", "migration.send-configuration=off"],
        ..PLAIN
    },
    Capture { name: "pc-no-vmdesc", machine: "pc,suppress-vmdesc=on", ..PLAIN },
    Capture {
        name: "pc-nothing",
        versions: NEW,
        machine: "pc,suppress-vmdesc=on",
        more: &[
            "-global",
            "migration.send-configuration=off",
            "-global",
            "migration.send-section-footer=off",
        ],
        ..PLAIN
    },
    Capture { name: "pc-uuid", capabilities: &["validate-uuid"], more: &["-uuid", UUID], ..PLAIN },
    Capture { name: "pc-dirty-bitmap", capabilities: &["dirty-bitmaps"], more: BITMAP_NODE, ..PLAIN },
    Capture { name: "pc-postcopy-ram", capabilities: &["postcopy-ram"], how: How::Socket, ..PLAIN },
    Capture { name: "pc-return-path", capabilities: &["return-path"], how: How::Socket, ..PLAIN },
    Capture {
        name: "pc-postcopy",
        capabilities: &["postcopy-ram"],
        workload: BUSY,
        how: How::Postcopy,
        ..PLAIN
    },
    Capture { name: "pc-virtio-rng", more: &["-device", "virtio-rng-pci"], ..DEVICES },
    Capture { name: "pc-virtio-balloon", more: &["-device", "virtio-balloon-pci"], ..DEVICES },
    Capture {
        name: "pc-virtio-serial",
        versions: THREE,
        more: &[
            "-device",
            "virtio-serial-pci",
            "-chardev",
            "null,id=c0",
            "-device",
            "virtserialport,chardev=c0",
        ],
        ..DEVICES
    },
    Capture {
        name: "pc-virtio-net",
        versions: THREE,
        more: &["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="],
        ..DEVICES
    },
    Capture {
        name: "pc-virtio-blk",
        versions: THREE,
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "virtio-blk-pci,drive=disk0",
        ],
        ..DEVICES
    },
    Capture {
        name: "pc-virtio-scsi",
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "virtio-scsi-pci",
            "-device",
            "scsi-hd,drive=disk0",
        ],
        ..DEVICES
    },
    Capture {
        name: "pc-virtio-input",
        more: &["-device", "virtio-keyboard-pci", "-device", "virtio-tablet-pci"],
        ..DEVICES
    },
    Capture {
        name: "pc-e1000",
        more: &["-netdev", "user,id=n0", "-device", "e1000,netdev=n0,romfile="],
        ..DEVICES
    },
    Capture {
        name: "pc-rtl8139",
        more: &["-netdev", "user,id=n0", "-device", "rtl8139,netdev=n0,romfile="],
        ..DEVICES
    },
    Capture {
        name: "pc-ide",
        versions: THREE,
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "ide-hd,drive=disk0",
        ],
        ..DEVICES
    },
    Capture {
        name: "pc-ahci",
        versions: THREE,
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "ich9-ahci,id=a0",
            "-device",
            "ide-hd,drive=disk0,bus=a0.0",
        ],
        ..DEVICES
    },
    Capture {
        name: "pc-lsi",
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "lsi53c895a",
            "-device",
            "scsi-hd,drive=disk0",
        ],
        ..DEVICES
    },
    Capture {
        name: "pc-megasas",
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "megasas,romfile=",
            "-device",
            "scsi-hd,drive=disk0",
        ],
        ..DEVICES
    },
    Capture { name: "pc-usb-ehci", more: &["-device", "usb-ehci", "-device", "usb-tablet"], ..DEVICES },
    Capture {
        name: "pc-usb-xhci",
        versions: THREE,
        more: &["-device", "nec-usb-xhci", "-device", "usb-kbd"],
        ..DEVICES
    },
    Capture { name: "pc-usb-uhci", more: &["-device", "piix3-usb-uhci", "-device", "usb-mouse"], ..DEVICES },
    Capture {
        name: "pc-hda",
        versions: THREE,
        more: &["-audiodev", "none,id=s0", "-device", "intel-hda", "-device", "hda-duplex,audiodev=s0"],
        ..DEVICES
    },
    Capture { name: "pc-ac97", more: &["-audiodev", "none,id=s0", "-device", "AC97,audiodev=s0"], ..DEVICES },
    Capture { name: "pc-vga", more: &["-device", "VGA,romfile="], ..DEVICES },
    Capture { name: "pc-cirrus", more: &["-device", "cirrus-vga,romfile="], ..DEVICES },
    Capture {
        name: "pc-serial",
        more: &["-chardev", "null,id=c0", "-device", "isa-serial,chardev=c0"],
        ..DEVICES
    },
    Capture { name: "pc-virtio-gpu", versions: THREE, more: &["-device", "virtio-gpu-pci"], ..DEVICES },
    Capture { name: "q35-virtio-vga", machine: "q35", more: &["-device", "virtio-vga,romfile="], ..DEVICES },
    Capture { name: "pc-watchdog", more: &["-device", "i6300esb"], ..DEVICES },
    Capture { name: "pc-ib700", more: &["-device", "ib700"], ..DEVICES },
    Capture { name: "pc-pvpanic", more: &["-device", "pvpanic"], ..DEVICES },
    Capture { name: "pc-smp-2", versions: THREE, more: &["-smp", "2"], ..DEVICES },
    // QEMU 10.0 fails an assertion when it sends blocks as small as these.
    Capture { name: "pc-numa", versions: OLD, more: NODES, ..DEVICES },
    Capture { name: "pc-cpu-max", more: &["-cpu", "max"], ..DEVICES },
    Capture { name: "pc-no-hpet", machine: "pc,hpet=off", ..DEVICES },
    Capture { name: "pc-no-smm", machine: "pc,smm=off", ..DEVICES },
    Capture { name: "pc-no-vmport", machine: "pc,vmport=off", ..DEVICES },
    Capture {
        name: "q35-pcie",
        versions: THREE,
        machine: "q35",
        more: &["-device", "pcie-root-port,id=p0", "-device", "virtio-rng-pci,bus=p0"],
        ..DEVICES
    },
    Capture {
        name: "q35-virtio-blk",
        machine: "q35",
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "virtio-blk-pci,drive=disk0",
        ],
        ..DEVICES
    },
    Capture { name: "q35-iommu", machine: "q35", more: &["-device", "intel-iommu"], ..DEVICES },
    Capture {
        name: "q35-usb-xhci",
        machine: "q35",
        more: &["-device", "qemu-xhci", "-device", "usb-tablet"],
        ..DEVICES
    },
    Capture { name: "q35-no-vmdesc", machine: "q35,suppress-vmdesc=on", ..DEVICES },
    Capture {
        name: "q35-return-path",
        machine: "q35",
        capabilities: &["return-path"],
        how: How::Socket,
        ..DEVICES
    },
    Capture { name: "pc-events", capabilities: &["events"], ..DEVICES },
    Capture { name: "pc-type-5.2", versions: THREE, machine: "pc-i440fx-5.2", ..DEVICES },
    Capture { name: "pc-type-7.2", versions: THREE, machine: "pc-i440fx-7.2", ..DEVICES },
    Capture { name: "pc-type-2.12", machine: "pc-i440fx-2.12", ..DEVICES },
    Capture { name: "pc-type-9.2", versions: LATER, machine: "pc-i440fx-9.2", ..DEVICES },
    Capture { name: "q35-type-5.2", versions: THREE, machine: "pc-q35-5.2", ..DEVICES },
    Capture { name: "q35-type-7.2", versions: THREE, machine: "pc-q35-7.2", ..DEVICES },
    Capture { name: "pc-type-10.0", versions: LATER, machine: "pc-i440fx-10.0", ..DEVICES },
    Capture { name: "q35-type-10.0", versions: LATER, machine: "pc-q35-10.0", ..DEVICES },
    // What was given another version, or became another device.
    Capture {
        name: "pc-type-7.2-esp",
        versions: THREE,
        machine: "pc-i440fx-7.2",
        more: &["-device", "am53c974"],
        ..DEVICES
    },
    Capture {
        name: "pc-type-7.2-isa-vga",
        versions: THREE,
        machine: "pc-i440fx-7.2",
        more: &["-vga", "none", "-device", "isa-vga"],
        ..DEVICES
    },
    Capture {
        name: "pc-nvme",
        versions: NEWEST,
        more: &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "nvme,serial=n0,drive=disk0",
        ],
        ..DEVICES
    },
    Capture { name: "microvm", versions: THREE, machine: "microvm", ..DEVICES },
];

const USAGE: &str = "usage: corpus/capture [NAME | --missing | --loads]

NAME        only what has NAME in its name
--missing   only what is not there
--loads     what each QEMU does with streams of the others, in corpus/LOADS";

/// Ends the program: something that a capture needs is not there.
fn missing_program(what: &str) -> ! {
    eprintln!("error: {what}");
    std::process::exit(2);
}

fn main() {
    let only = std::env::args().nth(1);
    let is_option = |text: &str| text.starts_with('-') && !["--missing", "--loads"].contains(&text);
    if let Some(option) = only.as_deref().filter(|text| is_option(text)) {
        println!("{USAGE}");
        std::process::exit(if ["-h", "--help"].contains(&option) { 0 } else { 2 });
    }
    let guest =
        Guest::built_or_skip().unwrap_or_else(|| missing_program("the guest is built by gcc and binutils"));
    if qemu_img_or_skip().is_none() {
        missing_program("disks are made by qemu-img: run .ci/qemu, or set QEMU_IMG");
    }
    if only.as_deref() == Some("--loads") {
        return loads::take(guest);
    }
    let missing = only.as_deref() == Some("--missing");
    // A path below the corpus, without `.bin.zst` or `.json.zst`.
    let wanted_file = |path: &str| match &only {
        Some(_) if missing => {
            !["bin", "json"].iter().any(|end| corpus::root().join(format!("{path}.{end}.zst")).exists())
        }
        Some(part) => path.contains(part.as_str()),
        None => true,
    };
    let wanted = |name: &str| wanted_file(&format!("valid/{name}"));
    for capture in CAPTURES {
        for &version in capture.versions {
            let name = format!("qemu-{}-{}", version.number(), capture.name);
            if !wanted(&name) {
                continue;
            }
            let binary = version
                .binary()
                .unwrap_or_else(|| missing_program(&format!("{version} is not here: run .ci/qemu")));
            let folder = tempfile::tempdir().expect("a temporary folder");
            for (suffix, bytes) in capture.take(&binary, guest, folder.path()) {
                keep(&format!("valid/{name}{suffix}"), &bytes, &capture.described(version));
            }
        }
    }
    for machine in bare::MACHINES {
        let name = format!("qemu-7.2-{}", machine.name);
        if !wanted(&name) {
            continue;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        match machine.take(folder.path()) {
            Some(bytes) => keep(&format!("valid/{name}"), &bytes, &machine.described()),
            None => println!("{name}: not taken: this architecture's QEMU is not installed"),
        }
    }
    for &version in BOTH {
        multifd::take(version, guest, &wanted_file);
    }
    dumps::take(&wanted_file);
    elsewhere::take(guest, &wanted_file);
    libvirt::take(guest, &wanted_file);
}

impl Capture {
    fn config(&self) -> Config {
        Config {
            machine: format!("{},acpi=off", self.machine),
            memory_mib: MEMORY_MIB,
            boot: Boot::Firmware,
            workload: self.workload,
            more: self.more.iter().map(|&word| word.to_owned()).collect(),
            ..Config::default()
        }
    }

    /// What the manifest says behind a stream's name.
    fn described(&self, version: Version) -> String {
        let how = match self.how {
            How::Pipe => "to a pipe",
            How::Rounds => "to a pipe, several rounds",
            How::Socket => "over a socket",
            How::Postcopy => "over a socket, switched to postcopy",
        };
        let machine = format!("-machine {},acpi=off -m {MEMORY_MIB}M", self.machine);
        let capabilities = match self.capabilities {
            [] => "none".to_owned(),
            some => some.join(" "),
        };
        format!(
            "{version}; {machine} {}; guest: {}; capabilities: {capabilities}; {how}",
            self.more.join(" "),
            self.workload.command_line()
        )
    }

    /// The streams, each with the end of its name.
    fn take(&self, binary: &Binary, guest: &Guest, folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let mut source = Qemu::start(binary, guest, self.config());
        source.console().wait_ready();
        source.console().wait_passes(2);
        let on: Vec<_> = self.capabilities.iter().map(|&name| (name, true)).collect();
        source.set_capabilities(&on);
        if self.capabilities.contains(&"dirty-bitmaps") {
            for (name, granularity) in [("bitmap0", 65_536), ("bitmap1", 4_194_304)] {
                let bitmap =
                    json!({ "node": "disk0", "name": name, "granularity": granularity, "persistent": false });
                source.execute("block-dirty-bitmap-add", bitmap);
            }
        }
        match self.how {
            How::Pipe | How::Rounds => {
                let file = folder.join("stream");
                let uri = format!("exec:cat > {}", file.display());
                if matches!(self.how, How::Rounds) {
                    in_rounds(&mut source, &uri);
                } else {
                    source.set_fast();
                    source.start_save(&uri);
                }
                assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
                vec![("", fs::read(&file).expect("just written"))]
            }
            How::Socket | How::Postcopy => self.over_socket(source, binary, guest, folder),
        }
    }

    fn over_socket(
        &self,
        mut source: Qemu,
        binary: &Binary,
        guest: &Guest,
        folder: &Path,
    ) -> Vec<(&'static str, Vec<u8>)> {
        let mut destination = Qemu::start(binary, guest, self.config().incoming());
        let on: Vec<_> = self.capabilities.iter().map(|&name| (name, true)).collect();
        destination.set_capabilities(&on);
        let (near, far) = (folder.join("near"), folder.join("far"));
        destination.execute("migrate-incoming", json!({ "uri": format!("unix:{}", far.display()) }));
        let recorder = Recorder::start(&near, far);
        if matches!(self.how, How::Postcopy) {
            source.set_parameters(json!({ "max-bandwidth": 200_000, "downtime-limit": 1 }));
        }
        source.start_save(&format!("unix:{}", near.display()));
        if matches!(self.how, How::Postcopy) {
            wait_rounds(&mut source, 2);
            source.execute("migrate-start-postcopy", json!({}));
            source.set_fast();
        }
        assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
        destination.console().wait_passes(2);
        drop((source, destination));
        let recording = recorder.finish();
        vec![("", recording.forward), (".rp", recording.back)]
    }
}

/// Saves so slowly that the guest dirties pages that were sent already, until three rounds have begun.
fn in_rounds(source: &mut Qemu, uri: &str) {
    source.set_parameters(json!({ "max-bandwidth": 1_000_000, "downtime-limit": 1 }));
    source.start_save(uri);
    wait_rounds(source, 4);
    source.set_fast();
}

fn wait_rounds(source: &mut Qemu, rounds: u64) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let info = source.execute("query-migrate", json!({}));
        if info["ram"]["dirty-sync-count"].as_u64().is_some_and(|count| count >= rounds) {
            return;
        }
        assert!(Instant::now() < end && info["status"] != "failed", "no {rounds} rounds: {info}");
        thread::sleep(Duration::from_millis(5));
    }
}
