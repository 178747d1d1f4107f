//! A Linux guest: Debian's kernel, and a program of one page that is all of its user space.

use serde_json::{Value, json};
use snapshot_tests::{Binary, Qmp};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use test_support::{not_run, programs::in_path};

/// How long a kernel may take to boot under emulation on a busy machine; 10 s on an idle one.
const PATIENCE: Duration = Duration::from_secs(300);

/// The folder below `.prefix`.
pub(crate) fn unpacked(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.prefix").join(name)
}

/// A member of a cpio archive in the form that Linux takes ("newc"): 13 numbers of 8 hexadecimal
/// digits, the name with its NUL and the content, each padded to a multiple of 4 bytes.
pub(crate) fn member(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let length = u32::try_from(content.len()).expect("small");
    let name_length = u32::try_from(name.len() + 1).expect("small");
    let numbers = [0, mode, 0, 0, 1, 0, length, 0, 0, device.0, device.1, name_length, 0];
    archive.extend_from_slice(b"070701");
    archive.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The guest's file system.
fn initramfs(home: &Path, module: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/linux-init.c");
    let init = home.join("init");
    let built = Command::new("gcc").args(["-static", "-Os", "-s", "-o"]).arg(&init).arg(source).output();
    let built = built.expect("it was found before");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut archive = Vec::new();
    member(&mut archive, "dev", 0o040_755, (0, 0), &[]);
    member(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    member(&mut archive, "init", 0o100_755, (0, 0), &fs::read(init).expect("built"));
    member(&mut archive, "qemu_fw_cfg.ko", 0o100_644, (0, 0), &fs::read(module).expect("unpacked"));
    member(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    let path = home.join("initramfs");
    fs::write(&path, archive).expect("room");
    path
}

/// The guest, booted and then stopped.
pub(super) struct Linux {
    child: Child,
    qmp: Qmp,
    home: TempDir,
    /// What `uname -r` says in it.
    pub(super) release: String,
}

impl Linux {
    /// Boots it. Where something is missing, the test is to return: this has said what, or failed in CI.
    pub(super) fn booted_or_skip(binary: &Binary) -> Option<Self> {
        let folder = unpacked("linux-guest");
        let Ok(release) = fs::read_to_string(folder.join("release")) else {
            not_run("no Linux kernel: run .ci/linux-guest");
            return None;
        };
        if in_path("gcc").is_none() {
            not_run("no gcc to build the guest's program with");
            return None;
        }
        let home = tempfile::Builder::new().prefix("linux-").tempdir().expect("a temporary folder");
        let path = |name: &str| home.path().join(name);
        let initramfs = initramfs(home.path(), &folder.join("qemu_fw_cfg.ko"));
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary.path())
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-m", "128M", "-smp", "2", "-device", "vmcoreinfo"])
            .args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"])
            .arg(folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(initramfs)
            .arg("-serial")
            .arg(format!("file:{}", path("console").display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", path("qmp").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("stderr")).expect("a temporary file"))
            .spawn()
            .expect("setpriv of util-linux is on every Linux system");
        let qmp = Qmp::connect(&path("qmp"), || matches!(child.try_wait(), Ok(None)));
        let qmp = qmp.unwrap_or_else(|error| {
            panic!("{error:?}: {}", fs::read_to_string(path("stderr")).unwrap_or_default())
        });
        let mut linux = Self { child, qmp, home, release: release.trim().to_owned() };
        linux.wait_ready();
        linux.execute("stop", json!({}));
        Some(linux)
    }

    fn wait_ready(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let console = fs::read(self.path("console")).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            if console.lines().any(|line| line == "ready") {
                return;
            }
            assert!(Instant::now() < end && !console.contains("no module"), "the guest says: {console}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Value {
        self.qmp.execute(command, arguments).unwrap_or_else(|error| panic!("{command}: {error:?}"))
    }

    /// QEMU's own core.
    pub(super) fn dump(&mut self, name: &str, paging: bool) -> PathBuf {
        let path = self.path(name);
        let protocol = format!("file:{}", path.display());
        self.execute("dump-guest-memory", json!({ "paging": paging, "protocol": protocol }));
        path
    }

    /// The stream.
    pub(super) fn save(&mut self) -> PathBuf {
        let path = self.path("stream");
        self.execute("migrate-set-parameters", json!({ "max-bandwidth": 8_u64 << 30 }));
        self.execute("migrate", json!({ "uri": format!("exec:cat > {}", path.display()) }));
        let end = Instant::now() + PATIENCE;
        loop {
            let info = self.execute("query-migrate", json!({}));
            if info["status"] == "completed" {
                return path;
            }
            assert!(info["status"] != "failed" && Instant::now() < end, "{info}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
