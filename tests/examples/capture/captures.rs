//! The streams to capture.

use snapshot_tests::{TWO_UNEQUAL_NODES, Version, Workload};

/// How a stream is taken.
#[derive(Clone, Copy)]
pub(crate) enum How {
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
pub(crate) struct Capture {
    pub(crate) name: &'static str,
    pub(crate) versions: &'static [Version],
    pub(crate) machine: &'static str,
    pub(crate) capabilities: &'static [&'static str],
    pub(crate) more: &'static [&'static str],
    pub(crate) workload: Workload,
    pub(crate) how: How,
}

/// The guest's pages are what makes a stream large.
pub(crate) const FEW_PAGES: Workload =
    Workload { used_percent: 4, rewrite: 1, interval: 4096, dirty_pages: 0, limit_mib: 0 };
const BUSY: Workload = Workload { rewrite: 64, ..FEW_PAGES };
/// For streams that are there for their devices.
pub(crate) const FEWEST_PAGES: Workload = Workload { used_percent: 1, ..FEW_PAGES };
pub(crate) const BOTH: &[Version] = &[Version::V7_2, Version::V10_0];
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

const DEVICES: Capture = Capture { workload: FEWEST_PAGES, ..PLAIN };

pub(crate) const CAPTURES: &[Capture] = &[
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
    Capture { name: "pc-numa", versions: OLD, more: TWO_UNEQUAL_NODES, ..DEVICES },
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
