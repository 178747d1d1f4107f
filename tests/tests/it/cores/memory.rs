//! Where memory lies: NUMA nodes, the hole below 4 GiB, memory devices.

use super::elf::Core;
use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Version, Workload, tool::snapinspect, with_each_qemu,
};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;
const FOUR_GIB: u64 = 4 << 30;

/// What a machine is called, the machine, and where it has RAM: address and MiB.
type Machine = (&'static str, Config, &'static [(u64, u64)]);

/// A machine whose memory comes from backends of these names and sizes in MiB, a NUMA node each, in
/// this order.
fn nodes(machine: &str, backends: &[(&str, u32)]) -> Config {
    let memory_mib = backends.iter().map(|(_, mib)| mib).sum();
    let mut config = Config { machine: machine.to_owned(), memory_mib, ..quiet() };
    for (name, mib) in backends {
        config.more.extend(["-object".to_owned(), format!("memory-backend-ram,id={name},size={mib}M")]);
    }
    for (name, _) in backends {
        config.more.extend(["-numa".to_owned(), format!("node,memdev={name}")]);
    }
    config
}

/// A guest that writes some of its memory.
fn quiet() -> Config {
    Config { workload: Workload { limit_mib: 16, ..Workload::STEADY }, ..Config::default() }
}

fn with(mut config: Config, more: &[&str]) -> Config {
    config.more.extend(more.iter().map(|&word| word.to_owned()));
    config
}

/// A guest that was stopped with a mark of its own at each of these physical addresses, and its stream.
struct Stopped {
    qemu: Qemu,
    stream: PathBuf,
}

impl Stopped {
    fn new(binary: &Binary, guest: &Guest, config: Config, marks: impl Iterator<Item = u64>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("gdb");
        let channel = format!("socket,id=gdb,path={},server=on,wait=off", socket.display());
        let config = with(config, &["-chardev", &channel, "-gdb", "chardev:gdb"]);
        let mut qemu = Qemu::start(binary, guest, config);
        qemu.console().wait_ready();
        let mut debugger = Debugger::attach(&socket);
        for address in marks {
            debugger.write(address, address | 0x5eed);
        }
        qemu.execute("stop", json!({}));
        let stream = qemu.home().join("stream");
        qemu.set_fast();
        assert_eq!(qemu.save(&format!("exec:cat > {}", stream.display())), Outcome::Completed);
        Self { qemu, stream }
    }

    fn extract(&self, options: &[&str]) -> (PathBuf, Output) {
        let core = self.qemu.home().join("core");
        let output = Command::new(snapinspect())
            .args(["extract", "--core"])
            .args(options)
            .arg("-o")
            .arg(&core)
            .arg(&self.stream)
            .output()
            .expect("the program runs");
        (core, output)
    }

    /// The core has the pages of QEMU's dump, and no others.
    fn assert_equal_to_dump(&mut self, what: &str, options: &[&str]) {
        let dump = self.qemu.home().join("dump");
        let protocol = format!("file:{}", dump.display());
        self.qemu.execute("dump-guest-memory", json!({ "paging": false, "protocol": protocol }));
        let what = format!("{}: {what}", self.qemu.version());
        let (core, output) = self.extract(options);
        assert_eq!(output.status.code(), Some(0), "{what}: {}", text(&output));
        let (core, dump) = (Core::open(&core), Core::open(&dump));
        let [mut ours, mut theirs] = [&core, &dump].map(|core| core.pages().collect::<Vec<_>>());
        ours.sort_unstable();
        theirs.sort_unstable();
        assert!(ours == theirs, "{what}: {:x?} {:x?}", core.loads, dump.loads);
        assert!(core.machine == dump.machine && core.note_bytes == dump.note_bytes, "{what}: notes");
        for page in theirs {
            assert!(core.at(page, 4096) == dump.at(page, 4096), "{what}: page {page:#x} differs");
        }
    }

    fn assert_refused(&self, what: &str, options: &[&str], reason: &str) {
        let (core, output) = self.extract(options);
        let words = text(&output);
        assert_eq!(output.status.code(), Some(2), "{}: {what}: {words}", self.qemu.version());
        assert!(words.contains(reason), "{}: {what}: {words}", self.qemu.version());
        assert!(!core.exists(), "{what}: a core that is refused is not begun");
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// QEMU's gdb stub: the only way to write a guest's memory from outside.
struct Debugger(UnixStream);

impl Debugger {
    /// Attaches, which stops the guest, and has addresses be physical ones.
    fn attach(socket: &Path) -> Self {
        let mut debugger = Self(UnixStream::connect(socket).expect("QEMU listens"));
        debugger.command("Qqemu.PhyMemMode:1");
        debugger
    }

    fn write(&mut self, address: u64, value: u64) {
        let bytes: String = value.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        self.command(&format!("M{address:x},8:{bytes}"));
    }

    /// `$command#checksum`; `+` and `$OK#9a` come back.
    fn command(&mut self, command: &str) {
        let sum = command.bytes().fold(0_u8, u8::wrapping_add);
        self.0.write_all(format!("${command}#{sum:02x}").as_bytes()).expect("QEMU reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"#9a") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("QEMU answers");
            answer.push(byte[0]);
            assert!(answer.len() < 64, "{command}: {}", String::from_utf8_lossy(&answer));
        }
        self.0.write_all(b"+").expect("QEMU reads");
    }
}

/// One address in each MiB of these ranges.
fn marks(ranges: &[(u64, u64)]) -> impl Iterator<Item = u64> {
    let ranges = ranges.to_vec();
    ranges.into_iter().flat_map(|(start, mib)| (0..mib).map(move |number| start + number * MIB + 0x8_8000))
}

#[test]
fn nodes_follow_each_other_as_qemu_has_them() {
    // The first two with each QEMU, the others with one.
    let machines: [Machine; 6] = [
        (
            "32+96 around the hole",
            nodes("pc,max-ram-below-4g=64M", &[("ram-node0", 32), ("ram-node1", 96)]),
            &[(0, 64), (FOUR_GIB, 64)],
        ),
        ("16+64+16", nodes("q35", &[("m0", 16), ("m1", 64), ("m2", 16)]), &[(0, 96)]),
        ("32+96", nodes("pc", &[("ram-node0", 32), ("ram-node1", 96)]), &[(0, 128)]),
        ("96+32", nodes("q35", &[("big", 96), ("small", 32)]), &[(0, 128)]),
        ("24+24+24", nodes("pc", &[("ram-node0", 24), ("ram-node1", 24), ("ram-node2", 24)]), &[(0, 72)]),
        ("without ACPI", nodes("pc,acpi=off", &[("ram-node0", 32), ("ram-node1", 96)]), &[(0, 128)]),
    ];
    with_each_qemu(|binary, guest| {
        let count = if binary.version() == Version::V10_0 { machines.len() } else { 2 };
        for (what, config, ranges) in &machines[..count] {
            let mut stopped = Stopped::new(binary, guest, config.clone(), marks(ranges));
            stopped.assert_equal_to_dump(what, &[]);
        }
    });
}

#[test]
fn one_block_lies_around_the_hole_where_an_option_moved_it() {
    with_each_qemu(|binary, guest| {
        for machine in ["pc,max-ram-below-4g=64M", "q35,max-ram-below-4g=64M"] {
            let config = Config { machine: machine.to_owned(), memory_mib: 128, ..quiet() };
            let config = with(config, &["-smp", "2"]);
            let mut stopped = Stopped::new(binary, guest, config, marks(&[(0, 64), (FOUR_GIB, 64)]));
            stopped.assert_equal_to_dump(machine, &[]);
        }
    });
}

#[test]
fn nodes_of_equal_size_without_telling_names_are_refused_by_name() {
    with_each_qemu(|binary, guest| {
        let config = nodes("pc", &[("left", 32), ("right", 32)]);
        let mut stopped = Stopped::new(binary, guest, config, marks(&[(0, 64)]));
        stopped.assert_refused("32+32", &[], "is not in the file: left, right; ");
        stopped.assert_refused("32+32", &["--nodes", "left,left"], "block \"left\" is given twice");
        stopped.assert_equal_to_dump("32+32", &["--nodes", "left,right"]);
    });
}

#[test]
fn memory_devices_are_where_their_address_is_known_to_be() {
    with_each_qemu(|binary, guest| {
        let base = nodes("pc", &[("ram-node0", 64)]);
        let config = with(
            base,
            &["-m", "64M,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=memdimm0,size=128M"],
        );
        let mut stopped = Stopped::new(
            binary,
            guest,
            with(config, &["-device", "pc-dimm,id=dimm0,memdev=memdimm0"]),
            marks(&[(0, 64), (FOUR_GIB, 128)]),
        );
        stopped.assert_refused("dimm", &[], "is not in the file: memdimm0; ");
        stopped.assert_refused(
            "dimm",
            &["--place", "memdimm0=0x1000"],
            "block \"memdimm0\" at 0x1000 overlaps",
        );
        stopped.assert_equal_to_dump("dimm", &["--place", "memdimm0=0x100000000"]);
    });
}

#[test]
fn more_than_4_gib_lie_around_the_hole_of_the_chipset() {
    with_each_qemu(|binary, guest| {
        let config = nodes("q35", &[("ram-node0", 3072), ("ram-node1", 2048)]);
        let ends = [0x7fff_0000, FOUR_GIB, FOUR_GIB + 1024 * MIB - 0x1000, FOUR_GIB + 1024 * MIB];
        let mut stopped = Stopped::new(binary, guest, config, ends.into_iter());
        let (core, output) = stopped.extract(&[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let core = Core::open(&core);
        for address in ends {
            let window = stopped.qemu.home().join("window");
            let arguments = json!({ "val": address, "size": 4096, "filename": window });
            stopped.qemu.execute("pmemsave", arguments);
            let window = std::fs::read(window).expect("written");
            assert_eq!(window[..8], (address | 0x5eed).to_le_bytes(), "the mark");
            assert!(core.at(address, 4096) == Some(window), "{}: {address:#x}", stopped.qemu.version());
        }
        let last = core.loads.iter().map(|load| load.address + load.bytes).max();
        assert_eq!(last, Some(FOUR_GIB + 3072 * MIB));
    });
}
