//! Save images of a real libvirt, whose QEMU driver runs inside of `virsh` (`qemu:///embed`): no
//! daemon, no configuration of the system's is involved, and no root.

use std::{
    fs,
    io::Write,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use snapshot_tests::{Console, Guest, Version};

use crate::{FEWEST_PAGES, MEMORY_MIB, keep::keep};

/// It is in the XML that is saved, so it is the same everywhere.
const HOME: &str = "/tmp/libvirt-guest";
/// As root, libvirt wants a user of its own; as nobody it takes what it gets.
const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(60);
const UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// What libvirt 9.0 can pack with.
const FORMATS: [&str; 5] = ["raw", "gzip", "bzip2", "xz", "lzop"];

/// The folder of a capture; removed with everything in it.
struct Home;

impl Home {
    fn new() -> Self {
        fs::create_dir(HOME).expect("a folder of our own");
        fs::create_dir(at("etc")).expect("a folder");
        if rustix::process::geteuid().is_root() {
            for folder in [Path::new(HOME), &at("etc")] {
                chown(folder, Some(NOBODY), Some(NOBODY)).expect("root can");
            }
        }
        Self
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What is left behind is found by the next capture.
        let _ = fs::remove_dir_all(HOME);
    }
}

fn at(name: &str) -> PathBuf {
    Path::new(HOME).join(name)
}

/// A virsh that waits for commands.
struct Virsh {
    child: Child,
    commands: ChildStdin,
}

impl Virsh {
    /// libvirt reads its configuration when it starts.
    fn start(format: &str) -> Self {
        let configuration = format!(
            "stdio_handler = \"file\"\ncgroup_controllers = []\nsecurity_driver = \"none\"\nremember_owner = 0\n\
             namespaces = []\nsave_image_format = \"{format}\"\n"
        );
        fs::write(at("etc/qemu.conf"), configuration).expect("a small file");
        let mut command = Command::new("setpriv");
        if rustix::process::geteuid().is_root() {
            let id = NOBODY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        let mut child = command
            .args(["--pdeathsig", "KILL", "--", "virsh", "--quiet", "--connect"])
            .arg(format!("qemu:///embed?root={HOME}"))
            .current_dir(HOME)
            .env("HOME", HOME)
            .env("XDG_RUNTIME_DIR", HOME)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("setpriv of util-linux is on every Linux system");
        let commands = child.stdin.take().expect("piped");
        Self { child, commands }
    }

    fn say(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("virsh listens");
    }

    fn end(mut self) {
        drop(self.commands);
        let status = self.child.wait().expect("our own child");
        assert!(status.success(), "virsh: {status}");
    }
}

/// Takes the save images, if any of them is wanted: one of a running guest, and then that guest
/// paused, in every format, so that all of these hold the same. With QEMU 7.2: libvirt 9.0 finds no
/// way to talk to 10.0.
pub(crate) fn take(guest: &Guest, wanted: &dyn Fn(&str) -> bool) {
    let version = Version::V7_2;
    let Some(libvirt) = libvirt_version() else {
        println!("libvirt: not taken: there is no virsh");
        return;
    };
    let name = |what: &str| format!("libvirt/libvirt-{libvirt}-qemu-{}-{what}", version.number());
    let whats = std::iter::once("running".to_owned()).chain(FORMATS.map(|format| format!("paused-{format}")));
    if !whats.clone().any(|what| wanted(&name(&what))) {
        return;
    }
    let binary = version.binary().expect("both QEMUs are needed: .ci/qemu");
    let _home = Home::new();
    fs::copy(&guest.firmware, at("firmware.bin")).expect("64 KiB");
    symlink(fs::canonicalize(binary.path()).expect("found before"), at("qemu-system-x86_64"))
        .expect("a link");
    fs::write(at("guest.xml"), domain()).expect("a small file");
    let described = |what: &str| {
        format!(
            "libvirt {libvirt} with {version}; virsh save {what}; machine pc-i440fx-7.2, -m {MEMORY_MIB}M; guest: {}",
            FEWEST_PAGES.command_line()
        )
    };
    let console = Console::new(&at("console"));
    let mut virsh = Virsh::start("raw");
    virsh.say("create guest.xml");
    console.wait_ready();
    console.wait_passes(2);
    virsh.say("save guest running");
    keep(&name("running"), &written("running"), &described("of the running guest"));
    virsh.say("restore --paused running");
    let first = "paused-raw";
    virsh.say(&format!("save guest {first}"));
    written(first);
    virsh.end();
    for format in FORMATS {
        let file = format!("paused-{format}");
        if format != "raw" {
            let mut virsh = Virsh::start(format);
            virsh.say(&format!("restore --paused {first}"));
            virsh.say(&format!("save guest {file}"));
            written(&file);
            virsh.end();
        }
        let what = format!("of the paused guest, save_image_format = {format}");
        keep(&name(&file), &written(&file), &described(&what));
    }
}

/// What virsh has written, once it is complete: the magic changes last.
fn written(file: &str) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    loop {
        let bytes = fs::read(at(file)).unwrap_or_default();
        if bytes.starts_with(b"LibvirtQemudSave") {
            return bytes;
        }
        assert!(Instant::now() < end, "virsh has not saved {file}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Major and minor number of the libvirt that is installed.
fn libvirt_version() -> Option<String> {
    let output = Command::new("virsh").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().rsplit_once('.')?.0.to_owned())
}

fn domain() -> String {
    let options = FEWEST_PAGES.command_line();
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>guest</name>
  <uuid>{UUID}</uuid>
  <memory unit='MiB'>{MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <sysinfo type='fwcfg'><entry name='opt/guest'>{options}</entry></sysinfo>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <loader readonly='yes' type='rom'>{HOME}/firmware.bin</loader>
  </os>
  <devices>
    <emulator>{HOME}/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-debugcon'/>
    <qemu:arg value='file:{HOME}/console'/>
  </qemu:commandline>
</domain>
"
    )
}
