//! The core of a Linux guest, in QEMU's eyes and in those of debuggers.

use super::boot::{Linux, unpacked};
use super::elf::Core;
use snapshot_tests::{Version, tool::snapinspect};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use test_support::{in_part, programs::in_path};

/// Bits that QEMU sets in each virtual address of long mode, also in those of processes, where they
/// are not (`walk_pml4e`).
const HIGH_BITS: u64 = 0xffff << 48;

/// QEMU 10.0, for booting takes its time, or those that `QEMU_VERSIONS` names.
fn is_wanted(version: Version) -> bool {
    version == Version::V10_0 || std::env::var_os("QEMU_VERSIONS").is_some()
}

fn extract(linux: &Linux, stream: &Path, options: &[&str]) -> PathBuf {
    let core = linux.path(&format!("core{}", options.concat()));
    let output =
        Command::new(snapinspect()).arg("extract").arg(stream).args(options).arg("-o").arg(&core).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    core
}

/// Where each page is mapped to.
fn pages(core: &Core) -> BTreeMap<u64, u64> {
    let loads = core.loads.iter().flat_map(|load| {
        (0..load.bytes).step_by(4096).map(|at| ((load.virtual_address + at) | HIGH_BITS, load.address + at))
    });
    loads.collect()
}

#[test]
fn a_core_of_a_linux_guest_is_one_to_qemu_gdb_and_drgn() {
    for binary in Version::each_that(is_wanted) {
        let Some(mut linux) = Linux::booted_or_skip(&binary) else { return };
        let (dump, dump_by_tables) = (linux.dump("dump", false), linux.dump("dump-paging", true));
        let stream = linux.save();
        let physical = extract(&linux, &stream, &["--core"]);
        let by_tables = extract(&linux, &stream, &["--core", "--virtual"]);
        assert_equal_to_qemu(&physical, &dump);
        assert_mapped_as_by_qemu(&by_tables, &dump_by_tables);
        assert_gdb_reads_it(&by_tables);
        for core in [&physical, &by_tables] {
            assert_drgn_knows_it(core, &linux.release);
        }
    }
}

/// All bytes of notes and memory.
fn assert_equal_to_qemu(core: &Path, dump: &Path) {
    let (core, dump) = (Core::open(core), Core::open(dump));
    let of = |core: &Core| core.notes.iter().map(|note| (note.name.clone(), note.kind)).collect::<Vec<_>>();
    let names = [("CORE", 1), ("CORE", 1), ("QEMU", 0), ("QEMU", 0), ("VMCOREINFO", 0)];
    assert_eq!(of(&dump), names.map(|(name, kind)| (name.to_owned(), kind)));
    for (ours, theirs) in core.notes.iter().zip(&dump.notes) {
        assert!(ours == theirs, "{}: {:x?}, QEMU has {:x?}", theirs.name, ours.content, theirs.content);
    }
    assert!(core.note_bytes == dump.note_bytes && core.machine == dump.machine);
    let [mut ours, mut theirs] = [&core, &dump].map(|core| core.pages().collect::<Vec<_>>());
    ours.sort_unstable();
    theirs.sort_unstable();
    assert!(ours == theirs, "{:x?}, QEMU has {:x?}", core.loads, dump.loads);
    for page in theirs {
        assert!(core.at(page, 4096) == dump.at(page, 4096), "page {page:#x} differs");
    }
}

/// The same virtual addresses, mapped to the same pages, which have the same content.
fn assert_mapped_as_by_qemu(core: &Path, dump: &Path) {
    let (core, dump) = (Core::open(core), Core::open(dump));
    let (ours, theirs) = (pages(&core), pages(&dump));
    assert!(ours.len() > 30_000, "all of RAM is mapped by the kernel: {}", ours.len());
    let differ = theirs.iter().find(|(page, address)| ours.get(page) != Some(address));
    assert!(ours == theirs, "{} pages, QEMU has {}: {differ:x?}", ours.len(), theirs.len());
    for load in &core.loads {
        let first = load.virtual_address;
        assert!(
            core.at_virtual(first, 4096) == dump.at_virtual(first | HIGH_BITS, 4096),
            "{first:#x} differs"
        );
    }
    // The program of the guest is where programs are.
    assert!(core.loads.iter().any(|load| load.virtual_address == 0x40_0000), "{:x?}", core.loads);
}

/// As in the examples of `--help`.
fn assert_gdb_reads_it(core: &Path) {
    if in_path("gdb").is_none() {
        in_part("without gdb");
        return;
    }
    let output = Command::new("gdb")
        .args(["-q", "-batch", "-nx", "-ex", "x/4i $pc", "-ex", "bt", "-c"])
        .arg(core)
        .output()
        .expect("it was found before");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("=> 0xffffffff"), "an instruction of the kernel: {text}");
    assert!(text.contains("#2  0xffffffff"), "three frames of the kernel: {text}");
    assert!(!text.contains("Cannot access memory"), "{text}");
}

/// drgn takes it for the core of a kernel, and reads a variable of it by the kernel's own page tables.
fn assert_drgn_knows_it(core: &Path, release: &str) {
    let script = "\
import drgn, sys
program = drgn.Program()
program.set_core_dump(sys.argv[1])
info = dict(line.split('=', 1) for line in program['VMCOREINFO'].string_().decode().splitlines())
name = int(info['SYMBOL(init_uts_ns)'], 16) + int(info['OFFSET(uts_namespace.name)'])
print(program.flags, program['UTS_RELEASE'].string_().decode(), program.read(name, 5))
";
    let output =
        Command::new("python3").env("PYTHONPATH", unpacked("drgn")).args(["-c", script]).arg(core).output();
    let Some(output) = output.ok().filter(|_| unpacked("drgn").exists()) else {
        in_part("without drgn: run .ci/linux-guest");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("IS_LINUX_KERNEL") && text.contains(&format!("{release} b'Linux'")),
        "{text}{words}"
    );
}
