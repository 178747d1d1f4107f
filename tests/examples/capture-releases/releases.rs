//! Streams of one channel, to a pipe.

use std::{fs, thread, time::Duration};

use snapshot_tests::{
    Boot, Config, Guest, Outcome, Qemu,
    Version::{self, V5_2, V7_2, V8_2, V10_0, V11_1},
};

use crate::{FEWEST_PAGES, MEMORY_MIB, keep::keep};

/// Versions, name, accelerator, machine, more arguments.
type Release = (&'static [Version], &'static str, &'static str, &'static str, &'static [&'static str]);

const RELEASES: &[Release] = &[
    (&[V5_2, V8_2], "pc", "tcg", "pc", &[]),
    (&[V8_2], "pc-background", "tcg", "pc", &[]),
    (&[V5_2, V8_2], "pc-type-5.2", "tcg", "pc-i440fx-5.2", &[]),
    (&[V5_2], "q35-type-5.2", "tcg", "pc-q35-5.2", &[]),
    (&[V8_2], "pc-type-7.2", "tcg", "pc-i440fx-7.2", &[]),
    (&[V7_2, V10_0, V11_1], "pc-kvm", "kvm", "pc", &[]),
    (&[V11_1], "pc-cpu-max", "tcg", "pc", &["-cpu", "max"]),
    (&[V11_1], "pc-e1000", "tcg", "pc", &["-netdev", "user,id=n0", "-device", "e1000,netdev=n0,romfile="]),
    (
        &[V11_1],
        "pc-virtio-scsi",
        "tcg",
        "pc",
        &[
            "-blockdev",
            "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on",
            "-device",
            "virtio-scsi-pci",
            "-device",
            "scsi-hd,drive=disk0",
        ],
    ),
    (&[V11_1], "q35-iommu", "tcg", "q35", &["-device", "intel-iommu"]),
];

/// Takes the streams of one QEMU that are wanted; false where that QEMU is not there.
pub(crate) fn take(version: Version, guest: &Guest, wanted: &dyn Fn(&str) -> bool) -> bool {
    for &(versions, what, accel, machine, more) in RELEASES {
        let name = format!("releases/qemu-{}-{what}", version.number());
        if !versions.contains(&version) || !wanted(&name) {
            continue;
        }
        let Some(binary) = version.binary() else { return false };
        let config = Config {
            accel,
            machine: format!("{machine},acpi=off"),
            memory_mib: MEMORY_MIB,
            boot: Boot::Firmware,
            workload: FEWEST_PAGES,
            more: more.iter().map(|&word| word.to_owned()).collect(),
            ..Config::default()
        };
        let mut source = Qemu::start(&binary, guest, config);
        if accel == "kvm" {
            // Under a KVM that emulates, the guest may not come far; the state of the devices is
            // KVM's all the same.
            thread::sleep(Duration::from_secs(1));
        } else {
            source.console().wait_passes(2);
        }
        let background = what.ends_with("-background");
        if background {
            source.set_capabilities(&[("background-snapshot", true)]);
        }
        source.set_fast();
        let file = source.home().join("stream");
        source.start_save(&format!("exec:cat > {}", file.display()));
        assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
        let described = format!(
            "{version}; -accel {accel} -machine {machine},acpi=off -m {MEMORY_MIB}M {}; guest: {}; capabilities: {}; to a pipe",
            more.join(" "),
            FEWEST_PAGES.command_line(),
            if background { "background-snapshot" } else { "none" }
        );
        keep(&name, &fs::read(&file).expect("just written"), &described);
    }
    true
}
