//! Streams of machines of other architectures, which never ran: no guest of ours runs there, and
//! no firmware is loaded. They are there for their sections, page sizes and iterables.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{Qmp, programs};

/// A machine to save as it was made.
pub(crate) struct Bare {
    pub(crate) name: &'static str,
    architecture: &'static str,
    /// `FIRMWARE` is replaced by a file of zeros.
    arguments: &'static str,
}

const fn bare(name: &'static str, architecture: &'static str, arguments: &'static str) -> Bare {
    Bare { name, architecture, arguments }
}

/// All that Debian 12's QEMU can save without a firmware of its own.
pub(crate) const MACHINES: &[Bare] = &[
    bare("aarch64-virt", "aarch64", "-machine virt,acpi=off -cpu cortex-a57 -m 4M"),
    bare("aarch64-virt-gic3", "aarch64", "-machine virt,acpi=off,gic-version=3 -cpu cortex-a72 -smp 2 -m 4M"),
    bare("arm-virt", "arm", "-machine virt,acpi=off -m 4M"),
    bare("arm-vexpress-a15", "arm", "-machine vexpress-a15 -m 4M"),
    bare("arm-integratorcp", "arm", "-machine integratorcp -m 4M"),
    bare("arm-lm3s6965evb", "arm", "-machine lm3s6965evb"),
    bare("riscv64-virt", "riscv64", "-machine virt -bios none -m 4M"),
    bare("riscv64-sifive_u", "riscv64", "-machine sifive_u -bios none -m 4M"),
    bare("riscv64-spike", "riscv64", "-machine spike -bios none -m 4M"),
    bare("riscv32-virt", "riscv32", "-machine virt -bios none -m 4M"),
    bare("ppc64-pseries", "ppc64", "-machine pseries -bios FIRMWARE -m 256M"),
    bare("ppc-g3beige", "ppc", "-machine g3beige -bios FIRMWARE -m 4M"),
    bare("ppc-mac99", "ppc", "-machine mac99 -bios FIRMWARE -m 4M"),
    bare("ppc-bamboo", "ppc", "-machine bamboo -m 64M"),
    bare("s390x-virtio", "s390x", "-machine s390-ccw-virtio -kernel FIRMWARE -m 4M"),
    bare(
        "s390x-virtio-smp",
        "s390x",
        "-machine s390-ccw-virtio -kernel FIRMWARE -smp 2 -device virtio-rng-ccw -m 4M",
    ),
    bare("m68k-an5206", "m68k", "-machine an5206 -kernel FIRMWARE -m 4M"),
    bare("microblaze-petalogix", "microblaze", "-machine petalogix-s3adsp1800 -m 4M"),
    bare("nios2-10m50", "nios2", "-machine 10m50-ghrd -kernel FIRMWARE -m 4M"),
    bare("rx-gdbsim", "rx", "-machine gdbsim-r5f562n7 -bios FIRMWARE"),
];

impl Bare {
    /// What the manifest says behind the stream's name.
    pub(crate) fn described(&self) -> String {
        format!(
            "QEMU 7.2; qemu-system-{} {}; never ran; capabilities: none; to a pipe",
            self.architecture, self.arguments
        )
    }

    /// Takes the stream; nothing where this architecture is not installed.
    pub(crate) fn take(&self, folder: &Path) -> Option<Vec<u8>> {
        let (firmware, socket, file) = (folder.join("firmware"), folder.join("qmp"), folder.join("stream"));
        fs::write(&firmware, vec![0; 64 << 10]).expect("a small file");
        let arguments = self.arguments.replace("FIRMWARE", &firmware.display().to_string());
        let mut command = Command::new(programs::emulator(self.architecture)?);
        command.args(["-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.args(arguments.split(' ')).stdin(Stdio::null()).stderr(Stdio::null());
        let mut qemu = command.spawn().ok()?;
        let mut qmp = Qmp::connect(&socket, || matches!(qemu.try_wait(), Ok(None))).expect("a monitor");
        let uri = format!("exec:cat > {}", file.display());
        qmp.execute("migrate", json!({ "uri": uri })).expect("a machine that can be migrated");
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let info = qmp.execute("query-migrate", json!({})).expect("an answer");
            if info["status"] == "completed" {
                break;
            }
            assert!(Instant::now() < end && info["status"] != "failed", "{}: {info}", self.name);
            thread::sleep(Duration::from_millis(20));
        }
        let _ = qmp.execute("quit", json!({}));
        qemu.wait().expect("our own child");
        Some(fs::read(file).expect("just written"))
    }
}
