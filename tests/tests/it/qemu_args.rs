//! `snapinspect qemu-args`: what it prints starts a QEMU whose memory is mapped from the image, and
//! a revert into that goes on.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use snapshot_image::{HostOffset, ImageError, ReadOptions, SnapshotReader};
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, ToImage, Version, Workload, exec_uri,
    image::{run_tool, text},
    programs,
    tool::{qemu_snapshot, snapinspect},
    with_each_qemu_that,
};

/// Maps images: has `offset=` and `rom=off`.
fn maps_images(version: Version) -> bool {
    version >= Version::V8_2
}

fn machine(machine: &str, more: &[&str]) -> Config {
    let workload = Workload { limit_mib: 16, ..Workload::IDLE };
    let more = more.iter().map(|&word| word.to_owned()).collect();
    Config { machine: machine.to_owned(), workload, more, ..Config::of_mib(48) }
}

/// Two nodes of different sizes, two of one.
fn nodes(kind: &str, sizes: [u32; 2]) -> Config {
    let objects = [0, 1].map(|node| format!("memory-backend-ram,id=ram-node{node},size={}M", sizes[node]));
    let numa = ["node,memdev=ram-node0", "node,memdev=ram-node1"];
    let more =
        ["-smp", "2", "-object", &objects[0], "-object", &objects[1], "-numa", numa[0], "-numa", numa[1]];
    Config { memory_mib: sizes.iter().sum(), ..machine(kind, &more) }
}

/// Saves the guest into a linear image; its passes then.
fn save(binary: &Binary, guest: &Guest, config: Config, image: &Path) -> u32 {
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.console().wait_passes(1);
    source.set_fast();
    let passes = source.console().passes();
    let save = ToImage { options: "--create --layout=linear", image, stream: None };
    assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
    passes
}

fn qemu_args(arguments: &[&OsStr]) -> Output {
    let mut command = Command::new(snapinspect());
    command.arg("qemu-args").args(arguments).output().expect("it was built")
}

/// What is printed for an image.
fn script(image: &Path, options: &[&str]) -> String {
    let options = options.iter().map(OsStr::new);
    let arguments: Vec<&OsStr> = options.chain([image.as_os_str()]).collect();
    let output = qemu_args(&arguments);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Name, place in the file and length of each block.
fn blocks(image: &Path) -> Vec<(String, u64, u64)> {
    let file = fs::File::open(image).expect("the image is there");
    let read = |HostOffset(at), length| {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while let Ok(read @ 1..) = file.read_at(&mut bytes[filled..], at + filled as u64) {
            filled += read;
        }
        Ok::<_, ImageError>(bytes)
    };
    let length = file.metadata().expect("open").len();
    let reader = SnapshotReader::open_with(length, ReadOptions::default(), read).expect("a whole image");
    let blocks = reader.layout().blocks().iter().enumerate().map(|(number, block)| {
        let base = reader.linear_base(number).expect("a linear image");
        (String::from_utf8(block.name.clone()).expect("ASCII"), base.0, block.used_length)
    });
    blocks.collect()
}

/// Parts of the file that QEMU has in its memory, privately: offset and length of each.
fn mapped(qemu: &Qemu, file: &Path) -> Vec<(u64, u64)> {
    let inode = fs::metadata(file).expect("the file is there").ino().to_string();
    let maps = fs::read_to_string(format!("/proc/{}/maps", qemu.pid())).expect("our own child");
    // Address, offset, length.
    let mut parts: Vec<(u64, u64, u64)> = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[4] != inode {
            continue;
        }
        assert_eq!(fields[1], "rw-p", "{line}");
        let number = |digits| u64::from_str_radix(digits, 16).expect("proc(5)");
        let (from, to) = fields[0].split_once('-').expect("proc(5)");
        let (from, offset, length) = (number(from), number(fields[2]), number(to) - number(from));
        match parts.last_mut() {
            // A block that the kernel has in several pieces.
            Some(last) if (last.0 + last.2, last.1 + last.2) == (from, offset) => last.2 += length,
            _ => parts.push((from, offset, length)),
        }
    }
    let mut parts: Vec<(u64, u64)> = parts.into_iter().map(|(_, offset, length)| (offset, length)).collect();
    parts.sort_unstable();
    parts
}

/// The printed script starts a QEMU that has these blocks mapped at their places, and both kinds of
/// reverts into it go on.
fn check(binary: &Binary, guest: &Guest, config: Config, names: &[&str], options: &[&str]) {
    let folder = tempfile::Builder::new().prefix("a, b'c $d\n").tempdir().expect("a temporary folder");
    let odd = folder.path().join("vm, 1'.qcow2");
    // The bed's own lines for `exec:` know no quotes.
    let image = folder.path().join("image");
    let plain = tempfile::tempdir().expect("a temporary folder");
    let link = plain.path().join("image");
    std::os::unix::fs::symlink(&image, &link).expect("a link");
    let passes = save(binary, guest, config.clone(), &plain.path().join("saved"));
    fs::rename(plain.path().join("saved"), &image).expect("on one disk");
    fs::hard_link(&image, &odd).expect("a second name");
    let script = script(&odd, options);
    let blocks = blocks(&image);
    let wanted = names.iter().map(|name| blocks.iter().find(|block| block.0 == *name).expect("a block"));
    let mut wanted: Vec<(u64, u64)> = wanted.map(|block| (block.1, block.2)).collect();
    wanted.sort_unstable();
    assert!(qemu_snapshot().exists(), "beside the script's other words in PATH");
    for mapped_option in ["", "--mapped"] {
        let config = Config { script: Some(script.clone()), more: Vec::new(), ..config.clone() };
        let mut destination = Qemu::start(binary, guest, config.incoming());
        assert_eq!(mapped(&destination, &image), wanted, "{}\n{script}", binary.version());
        let outcome = destination.revert(&exec_uri(&format!("--revert {mapped_option}"), &link));
        assert_eq!(outcome, Outcome::Completed, "{mapped_option}: {}\n{script}", destination.stderr());
        destination.console().wait_passes(3);
        assert!(destination.console().passes() >= passes + 3, "goes on from the saved moment");
        destination.quit();
    }
}

#[test]
fn printed_arguments_start_an_i440fx_from_the_image() {
    with_each_qemu_that(maps_images, |binary, guest| {
        check(binary, guest, machine("pc", &[]), &["pc.ram"], &[])
    });
}

#[test]
fn printed_arguments_start_a_q35_from_the_image() {
    with_each_qemu_that(maps_images, |binary, guest| {
        let config = machine("q35", &["-smp", "2"]);
        check(binary, guest, config, &["pc.ram"], &["--qemu", binary.version().number()]);
    });
}

#[test]
fn printed_arguments_start_numa_nodes_in_their_order() {
    with_each_qemu_that(maps_images, |binary, guest| {
        check(binary, guest, nodes("q35", [32, 64]), &["ram-node0", "ram-node1"], &[]);
        check(binary, guest, nodes("pc", [32, 32]), &["ram-node0", "ram-node1"], &[]);
    });
}

#[test]
fn printed_arguments_plug_a_dimm_from_the_image() {
    let dimm = ["-m", "48M,slots=3,maxmem=2G", "-object", "memory-backend-ram,id=more,size=128M"];
    let dimm = [&dimm[..], &["-device", "pc-dimm,memdev=more"]].concat();
    with_each_qemu_that(maps_images, |binary, guest| {
        check(binary, guest, machine("q35", &dimm), &["pc.ram", "more"], &[]);
        let two = ["-object", "memory-backend-ram,id=second,size=128M", "-device", "pc-dimm,memdev=second"];
        let config = machine("pc", &[&dimm[..], &two].concat());
        let (first, second) = ("--dimm=more=0x100000000", "--dimm=second=0x108000000");
        check(binary, guest, config, &["pc.ram", "more", "second"], &[first, second]);
    });
}

/// Blocks of machine types up to 3.1 are named after the object's path, unless a property says otherwise.
#[test]
fn printed_arguments_of_old_machine_types_name_blocks_as_the_image_does() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    for kind in ["pc-i440fx-2.12", "pc-i440fx-3.1", "pc-i440fx-4.0"] {
        check(&binary, guest, machine(kind, &[]), &["pc.ram"], &[]);
    }
    let path = ["-object", "memory-backend-memfd,id=mine,size=48M"];
    check(&binary, guest, machine("pc-i440fx-3.1,memory-backend=mine", &path), &["/objects/mine"], &[]);
}

#[test]
fn printed_arguments_start_a_microvm_from_the_image() {
    with_each_qemu_that(maps_images, |binary, guest| {
        check(binary, guest, machine("microvm", &[]), &["microvm.ram"], &[]);
    });
}

/// Without `offset=` and `rom=off` it is unpacked files that are mapped.
#[test]
fn printed_arguments_for_an_old_qemu_map_unpacked_files() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V7_2.binary_or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, ram) = (folder.path().join("image"), folder.path().join("image.ram"));
    let config = machine("pc", &[]);
    let passes = save(&binary, guest, config.clone(), &image);
    let script = script(&image, &["--qemu=7.2"]);
    let unpack =
        script.lines().find_map(|line| line.strip_prefix("#   qemu-snapshot ")).expect("what to do first");
    let output = run_tool(unpack.split(' '), None);
    assert!(output.status.success(), "{unpack}: {}", text(&output));
    let config = Config { script: Some(script), ..config };
    let mut destination = Qemu::start(&binary, guest, config.incoming());
    assert_eq!(mapped(&destination, &ram.join("pc.ram")), [(0, 48 << 20)]);
    assert_eq!(
        destination.revert(&exec_uri("--revert", &image)),
        Outcome::Completed,
        "{}",
        destination.stderr()
    );
    destination.console().wait_passes(3);
    assert!(destination.console().passes() >= passes + 3, "goes on from the saved moment");
}

/// QEMU inherits the descriptor with its lock: who writes is refused, and a save that replaces the
/// image leaves the guest its file.
#[test]
fn a_guest_holds_the_lock_of_its_image() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, stream) = (folder.path().join("image"), folder.path().join("stream"));
    let config = machine("pc", &[]);
    let passes = save(&binary, guest, config.clone(), &image);
    let output = run_tool([OsStr::new("--revert"), image.as_os_str()], None);
    fs::write(&stream, &output.stdout).expect("a file");
    let config = Config { script: Some(script(&image, &[])), ..config };
    let mut clones = [(); 2].map(|()| Qemu::start(&binary, guest, config.incoming()));
    for clone in &mut clones {
        let outcome = clone.revert(&exec_uri("--revert --mapped", &image));
        assert_eq!(outcome, Outcome::Completed, "{}", clone.stderr());
    }
    let before = fs::metadata(&image).expect("there").ino();
    let Some(qemu_io) = programs::qemu_img().map(|path| path.with_file_name("qemu-io")) else { return };
    let write = || {
        let mut command = Command::new(&qemu_io);
        command.args(["-c", "write 0 64k"]).arg(&image).output().expect("beside qemu-img")
    };
    fs::set_permissions(&image, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("ours");
    let output = write();
    assert!(!output.status.success() && text(&output).contains("lock"), "{}", text(&output));
    let overwrite = || run_tool([OsStr::new("--overwrite"), image.as_os_str()], Some(&stream));
    let output = overwrite();
    assert!(output.status.success(), "{}", text(&output));
    assert_ne!(fs::metadata(&image).expect("there").ino(), before, "a new file");
    for clone in &clones {
        clone.console().wait_passes(3);
        assert!(clone.console().passes() >= passes + 3, "goes on with the file that it has");
    }
    drop(clones);
}

#[test]
fn what_cannot_be_mapped_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let image = |name: &str, layout: &str, stream: &str| -> PathBuf {
        let path = at("stream");
        fs::write(&path, snapshot_tests::corpus::stream(stream)).expect("a file");
        let arguments =
            [OsStr::new("--create"), OsStr::new(layout), at(name).as_os_str()].map(OsStr::to_owned);
        let output = run_tool(arguments, Some(&path));
        assert!(output.status.success(), "{}", text(&output));
        at(name)
    };
    let refused = |arguments: &[&OsStr], status: i32, wanted: &str| {
        let output = qemu_args(arguments);
        assert_eq!(output.status.code(), Some(status), "{}", text(&output));
        assert!(text(&output).contains(wanted), "expected {wanted:?} in {}", text(&output));
        assert!(output.stdout.is_empty());
    };
    let dense = image("dense", "--layout=dense", "qemu-10.0-pc");
    refused(&[dense.as_os_str()], 2, "a dense image, whose blocks do not lie in one piece, cannot be mapped");
    refused(&[dense.as_os_str()], 2, "--to image --layout linear");
    assert!(script(&dense, &["--ram-files=ram"]).contains("mem-path="), "its unpacked files can");
    let linear = image("linear", "--layout=linear", "qemu-10.0-pc");
    let old = [OsStr::new("--qemu=7.2"), linear.as_os_str()];
    refused(&old, 2, "QEMU 7.2 has no machine pc-i440fx-10.0, which came with QEMU 10.0");
    refused(&[at("stream").as_os_str()], 2, "migration stream; only an image of qemu-snapshot can be mapped");
    let board = image("board", "--layout=linear", "qemu-7.2-microblaze-petalogix");
    refused(&[board.as_os_str()], 1, "how a machine petalogix-s3adsp1800 has its memory is not known");
    let virt = script(&image("virt", "--layout=linear", "qemu-7.2-aarch64-virt"), &[]);
    for part in [
        "qemu-system-aarch64",
        "-machine virt-7.2,memory-backend=mach-virt.ram",
        "id=mach-virt.ram,size=4194304,",
    ] {
        assert!(virt.contains(part), "{virt}");
    }
}
