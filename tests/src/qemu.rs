//! One running QEMU.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    console::Console,
    guest::{Guest, Workload},
    qmp::{Qmp, QmpError},
    tool::build_folder,
    version::{Binary, Version},
};

const POLL: Duration = Duration::from_millis(10);

/// Two NUMA nodes of 4 MiB together, by libvirt's names; the larger one comes first in the stream.
pub const TWO_UNEQUAL_NODES: &[&str] = &[
    "-object",
    "memory-backend-ram,id=ram-node0,size=1M",
    "-object",
    "memory-backend-ram,id=ram-node1,size=3M",
    "-numa",
    "node,memdev=ram-node0",
    "-numa",
    "node,memdev=ram-node1",
];

/// What a machine's RAM is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ram {
    /// Private anonymous memory, as without any option.
    #[default]
    Private,
    /// A file that several QEMUs may share: what it holds is there when the machine starts.
    SharedFile(PathBuf),
    /// A part of a file, private and read-only: what a mapped revert needs (QEMU 8.2 and later).
    Mapped {
        /// The file.
        file: PathBuf,
        /// Where RAM begins in it, in bytes.
        offset: u64,
    },
    /// A file that belongs to this machine alone, private: its guest's writes stay in the machine.
    PrivateFile(PathBuf),
    /// A shared memory file descriptor.
    SharedMemfd,
    /// The same of pages of 2 MiB, which the system must have reserved.
    Huge,
}

/// How a machine comes to its guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boot {
    /// QEMU's own firmware loads the guest by the multiboot protocol.
    #[default]
    Multiboot,
    /// The guest is the firmware: no code or tables of others are in memory.
    Firmware,
}

/// A machine to start. The default is a `pc` with 64 MiB and a guest that rewrites its memory at a
/// steady rate.
#[derive(Clone, Debug)]
pub struct Config {
    /// `-accel`: `tcg`, or `kvm`, which no test may need.
    pub accel: &'static str,
    /// `-machine`: a name, with properties behind commas if wanted.
    pub machine: String,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// What the RAM is made of.
    pub ram: Ram,
    /// How the guest is loaded.
    pub boot: Boot,
    /// How hard the guest works. A machine that waits for a stream takes it over with the guest.
    pub workload: Workload,
    /// Start with `-incoming defer`.
    pub incoming: bool,
    /// What `snapinspect qemu-args` printed: it starts QEMU, with a machine and RAM of its own.
    pub script: Option<String>,
    /// More arguments.
    pub more: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            accel: "tcg",
            machine: "pc".to_owned(),
            memory_mib: 64,
            ram: Ram::Private,
            boot: Boot::Multiboot,
            workload: Workload::STEADY,
            incoming: false,
            script: None,
            more: Vec::new(),
        }
    }
}

impl Config {
    /// The usual machine with so much RAM, in MiB.
    #[must_use]
    pub fn of_mib(memory_mib: u32) -> Self {
        Self { memory_mib, ..Self::default() }
    }

    /// The same machine, waiting for a stream.
    #[must_use]
    pub fn incoming(&self) -> Self {
        Self { incoming: true, ..self.clone() }
    }

    /// QEMU, or the script that starts it.
    fn program(&self, binary: &Binary) -> Command {
        // setpriv: a test program that is killed takes its QEMUs with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        match &self.script {
            None => command.arg(&binary.path),
            Some(script) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let folders = std::iter::once(build_folder()).chain(std::env::split_paths(&path));
                let path = std::env::join_paths(folders).expect("the folders of PATH, and one of ours");
                command.args(["sh", "-c", script, "sh"]).env("QEMU", &binary.path).env("PATH", path)
            }
        };
        command
    }

    fn arguments(&self, guest: &Guest, home: &Path) -> Vec<String> {
        let mut machine = self.machine.clone();
        let mut arguments = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        add(&["-accel", self.accel, "-nodefaults", "-no-user-config", "-display", "none"]);
        let id = format!("id=pc.ram,size={}M", self.memory_mib);
        let size = format!("{id},share=on");
        // The object's id becomes the RAM block's name; pc.ram is the name without any option.
        match &self.ram {
            Ram::Private => {}
            Ram::SharedFile(path) => {
                add(&["-object", &format!("memory-backend-file,{size},mem-path={}", doubled(path))]);
            }
            Ram::Mapped { file, offset } => {
                let part =
                    format!("mem-path={},offset={offset},share=off,readonly=on,rom=off", doubled(file));
                add(&["-object", &format!("memory-backend-file,{id},{part}")]);
            }
            Ram::PrivateFile(path) => {
                let part = format!("mem-path={},share=off", doubled(path));
                add(&["-object", &format!("memory-backend-file,{id},{part}")]);
            }
            Ram::SharedMemfd => add(&["-object", &format!("memory-backend-memfd,{size}")]),
            Ram::Huge => {
                add(&["-object", &format!("memory-backend-memfd,{size},hugetlb=on,hugetlbsize=2M")]);
            }
        }
        if self.ram != Ram::Private {
            machine.push_str(",memory-backend=pc.ram");
        }
        if self.script.is_none() {
            add(&["-machine", &machine, "-m", &format!("{}M", self.memory_mib)]);
        }
        let options = self.workload.command_line();
        match self.boot {
            Boot::Multiboot => add(&["-kernel", &guest.kernel.display().to_string(), "-append", &options]),
            Boot::Firmware => add(&[
                "-bios",
                &guest.firmware.display().to_string(),
                "-fw_cfg",
                &format!("name=opt/guest,string={options}"),
            ]),
        }
        let qmp = format!("unix:{},server=on,wait=off", home.join("qmp").display());
        add(&["-qmp", &qmp, "-debugcon", &format!("file:{}", home.join("console").display())]);
        if self.incoming {
            add(&["-incoming", "defer"]);
        }
        arguments.extend(self.more.iter().cloned());
        arguments
    }
}

/// A path as the value of a property: a comma is written twice.
fn doubled(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Runs `check` with the guest and every QEMU of [`Version::chosen`] that is there; says so where one is not.
pub fn with_each_qemu(check: impl Fn(&Binary, &Guest)) {
    with_each_qemu_that(|_| true, check);
}

/// The same with those that have what the test needs, as [`Version::has_background_snapshot`].
pub fn with_each_qemu_that(has: impl Fn(Version) -> bool, check: impl Fn(&Binary, &Guest)) {
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each_that(has) {
        check(&binary, guest);
    }
}

/// An image to look at after a save, and the stream that went into it, where that is kept.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) image: PathBuf,
    pub(crate) stream: Option<PathBuf>,
}

/// A running machine. Dropping it kills QEMU and removes its files; if the test is failing then,
/// what QEMU and the guest said last is printed.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    qmp: Qmp,
    /// What the save that is under way is to give.
    pub(crate) judged: Option<Judged>,
    console: Console,
    version: Version,
    home: tempfile::TempDir,
}

impl Qemu {
    /// Starts the machine and connects to its monitor.
    ///
    /// # Panics
    ///
    /// If QEMU does not start: with its stderr.
    #[must_use]
    pub fn start(binary: &Binary, guest: &Guest, config: Config) -> Self {
        let home = tempfile::Builder::new().prefix("qemu-").tempdir().expect("a temporary folder");
        let stderr = File::create(home.path().join("stderr")).expect("a temporary file");
        let mut child = config
            .program(binary)
            .args(config.arguments(guest, home.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("setpriv of util-linux is on every Linux system");
        let path = home.path().join("qmp");
        let qmp = Qmp::connect(&path, || matches!(child.try_wait(), Ok(None)));
        let qmp = qmp.unwrap_or_else(|error| {
            end(&mut child);
            let words = fs::read_to_string(home.path().join("stderr")).unwrap_or_default();
            panic!("{} did not start: {error:?}: {words}", binary.version);
        });
        let console = Console::new(&home.path().join("console"));
        Self { child, qmp, judged: None, console, version: binary.version, home }
    }

    /// The guest's console.
    #[must_use]
    pub fn console(&self) -> Console {
        self.console.clone()
    }

    /// Which release it is.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder for the test's own files; removed with the machine.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs a monitor command that has to succeed.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let version = self.version;
        let done = self.qmp.execute(command, arguments);
        done.unwrap_or_else(|error| panic!("{version}: {command}: {error:?}: {}", self.stderr()))
    }

    /// The machine's run state: `running`, `paused`, `inmigrate`, and so on.
    ///
    /// # Panics
    ///
    /// If QEMU does not answer.
    pub fn run_state(&mut self) -> String {
        self.execute("query-status", json!({}))["status"].as_str().expect("documented").to_owned()
    }

    /// Everything QEMU, and what it started by `exec:`, wrote to stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        fs::read(self.home.path().join("stderr"))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How QEMU ended, if it did within `limit`.
    ///
    /// # Panics
    ///
    /// If the process cannot be waited for.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            thread::sleep(POLL);
        }
    }

    /// Ends the machine by the monitor, so that QEMU closes its files in order.
    ///
    /// # Panics
    ///
    /// If QEMU does not end, or not well.
    pub fn quit(mut self) {
        match self.qmp.execute("quit", json!({})) {
            Ok(_) | Err(QmpError::Closed) => {}
            Err(error) => panic!("quit: {error:?}"),
        }
        let status = self.wait_exit(Duration::from_secs(30)).expect("QEMU quits");
        assert!(status.success(), "{status}, signal {:?}: {}", status.signal(), self.stderr());
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        end(&mut self.child);
        if thread::panicking() {
            let console = fs::read(self.home.path().join("console")).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            let last = console.lines().rev().take(5).collect::<Vec<_>>();
            let words = format!("{} stderr: {}\nguest, last first: {last:?}\n", self.version, self.stderr());
            let _ = std::io::stderr().write_all(words.as_bytes());
        }
    }
}

/// Kills and reaps a child that may have ended already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
