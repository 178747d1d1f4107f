//! A Linux guest with a NIC, whose program (`guest/net-init.c`) obeys its serial port.

use crate::cores::boot::{member, unpacked};
use serde_json::{Value, json};
use snapshot_tests::{Binary, Qmp, QmpError};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::{not_run, programs::in_path};

/// How long a kernel may take to boot under emulation on a busy machine; 6 s on an idle one.
const PATIENCE: Duration = Duration::from_secs(300);

const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Kernel and file system of the guest, and all files of a test.
pub(super) struct Kit {
    home: TempDir,
}

impl Kit {
    /// Where something is missing, the test is to return: this has said what, or failed in CI.
    pub(super) fn built_or_skip() -> Option<Self> {
        let folder = unpacked("linux-guest");
        let has_modules = MODULES.iter().all(|name| folder.join(format!("{name}.ko")).exists());
        if !has_modules {
            not_run("no Linux kernel with the modules of virtio-net: run .ci/linux-guest");
            return None;
        }
        if in_path("gcc").is_none() {
            not_run("no gcc to build the guest's program with");
            return None;
        }
        let home = tempfile::Builder::new().prefix("linux-").tempdir().expect("a temporary folder");
        let init = home.path().join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/net-init.c");
        let built = Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).arg(&init).arg(source).output();
        let built = built.expect("it was found before");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut archive = Vec::new();
        member(&mut archive, "dev", 0o040_755, (0, 0), &[]);
        member(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
        member(&mut archive, "init", 0o100_755, (0, 0), &fs::read(init).expect("built"));
        for name in MODULES {
            let content = fs::read(folder.join(format!("{name}.ko"))).expect("unpacked");
            member(&mut archive, &format!("{name}.ko"), 0o100_644, (0, 0), &content);
        }
        member(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
        fs::write(home.path().join("initramfs"), archive).expect("room");
        Some(Self { home })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Starts the machine `name`, whose NIC is at the netdev `n0` among `netdevs`; by `before`, a program
    /// that starts another one. Without `incoming` it boots.
    pub(super) fn start(
        &self,
        binary: &Binary,
        name: &str,
        before: &[&str],
        netdevs: &[String],
        incoming: bool,
    ) -> Linux {
        let at = |end: &str| self.path(&format!("{name}{end}"));
        for end in [".in", ".out"] {
            let made = Command::new("mkfifo").arg(at(end)).status().expect("coreutils are there");
            assert!(made.success());
        }
        let folder = unpacked("linux-guest");
        let mut words: Vec<&str> = before.to_vec();
        words.extend(["setpriv", "--pdeathsig", "KILL", "--"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(binary.path());
        command.args(["-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-m", "128M"]);
        command.args(["-append", "console=ttyS0 loglevel=1 panic=-1", "-kernel"]).arg(folder.join("vmlinuz"));
        command.arg("-initrd").arg(self.path("initramfs"));
        command.arg("-chardev").arg(format!("pipe,id=c,path={}", self.path(name).display()));
        command.args(["-serial", "chardev:c"]);
        command.args(netdevs.iter().flat_map(|netdev| ["-netdev", netdev]));
        command.args(["-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,romfile="]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", at(".qmp").display()));
        command.args(if incoming { &["-incoming", "defer"][..] } else { &[] });
        let stderr = File::create(at(".err")).expect("a temporary file");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("it starts");
        let qmp = Qmp::connect(&at(".qmp"), || matches!(child.try_wait(), Ok(None)));
        let qmp = qmp.unwrap_or_else(|error| {
            panic!("{error:?}: {}", fs::read_to_string(at(".err")).unwrap_or_default())
        });
        // For reading and writing, so that opening it does not wait for QEMU, nor reading end with it.
        let open = |end: &str| OpenOptions::new().read(true).write(true).open(at(end)).expect("a pipe");
        let (send, said) = channel();
        let out = open(".out");
        thread::spawn(move || {
            for line in BufReader::new(out).split(b'\n') {
                let Ok(line) = line else { return };
                if send.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut linux = Linux { child, qmp, control: open(".in"), said, stderr: at(".err") };
        if !incoming {
            while linux.line() != "ready" {}
        }
        linux
    }
}

/// A machine that runs, or waits for a stream.
pub(super) struct Linux {
    child: Child,
    qmp: Qmp,
    control: File,
    said: Receiver<String>,
    stderr: PathBuf,
}

impl Linux {
    /// The next line that the guest says.
    pub(super) fn line(&mut self) -> String {
        self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the guest is silent: {}", self.stderr()))
    }

    /// What the guest answers to this line.
    pub(super) fn says(&mut self, line: &str) -> String {
        self.control.write_all(format!("{line}\n").as_bytes()).expect("a pipe that QEMU reads");
        self.line()
    }

    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let done = self.qmp.execute(command, arguments);
        done.unwrap_or_else(|error| panic!("{command}: {error:?}: {}", self.stderr()))
    }

    pub(super) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Migrates, in this direction, and waits for the end.
    pub(super) fn migrate(&mut self, command: &str, uri: &str) {
        self.execute(command, json!({ "uri": uri }));
        let end = Instant::now() + PATIENCE;
        loop {
            let info = match self.qmp.execute("query-migrate", json!({})) {
                Err(QmpError::Closed) => panic!("QEMU has ended: {}", self.stderr()),
                info => info.expect("an answer"),
            };
            if info["status"] == "completed" {
                return;
            }
            assert!(info["status"] != "failed" && Instant::now() < end, "{info}: {}", self.stderr());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
