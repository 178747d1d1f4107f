//! `unpack`, as its users meet it: files and manifest, what is refused, and what is left when it ends early.

use super::bed::{end, said, tool};
use qemu_snapshot::RamFiles;
use serde_json::Value;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A folder with `image` in it, saved from a stream of the corpus.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/valid/qemu-10.0-pc-background.bin.zst");
    let stream = zstd::decode_all(File::open(path).expect("the corpus is there")).expect("packed with zstd");
    fs::write(folder.path().join("stream"), stream).expect("a file");
    let stream = File::open(folder.path().join("stream")).expect("a file");
    let output = tool().args(["--create"]).arg(folder.path().join("image")).stdin(stream).output();
    let output = output.expect("it starts");
    assert!(output.status.success(), "{}", said(&output));
    fs::remove_file(folder.path().join("stream")).expect("a file");
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = tool();
    command.current_dir(folder).args(arguments);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("it starts")
}

fn unpack(folder: &Path) -> Output {
    run(folder, &["unpack", "--ram-files=ram", "image"])
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn open(folder: &Path) -> RamFiles {
    let own = rustix::process::geteuid().as_raw();
    RamFiles::open(folder, &[own]).unwrap_or_else(|error| panic!("{error}"))
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn unpack_makes_private_files_and_a_manifest_that_fits() {
    let folder = folder();
    let folder = folder.path();
    let output = unpack(folder);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("each page verified, from image to 3 files in ram, UUID "),
        "{}",
        said(&output)
    );
    assert!(output.stdout.is_empty());
    assert_eq!(names(folder), ["image", "ram"]);
    assert_eq!(names(&folder.join("ram")), ["manifest.json", "pc.bios", "pc.ram", "pc.rom"]);
    assert_eq!(mode(folder.join("ram")), 0o700);
    let files = open(&folder.join("ram"));
    for block in &files.blocks {
        assert_eq!(mode(block.path.clone()), 0o600);
        assert_eq!(block.file.metadata().expect("open").size(), block.stamp.size);
    }
    assert_eq!(files.block(b"pc.ram").map(|block| block.stamp.size), Some(4 << 20));
    assert_eq!(mode(folder.join("ram/manifest.json")), 0o600);
    let uuid = snapshot_engine::uuid_text(&files.uuid);
    assert!(said(&output).contains(&uuid), "{uuid}: {}", said(&output));
}

#[test]
fn an_empty_folder_is_filled_and_any_other_is_left_alone() {
    let folder = folder();
    let folder = folder.path();
    let ram = folder.join("ram");
    fs::create_dir(&ram).expect("a folder");
    fs::set_permissions(&ram, Permissions::from_mode(0o777)).expect("ours");
    let check = |wanted: &str| {
        let output = unpack(folder);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).starts_with("qemu-snapshot: error: ram: "), "{}", said(&output));
        assert!(said(&output).contains(wanted), "expected {wanted:?} in {:?}", said(&output));
        assert!(names(folder).len() <= 3, "{:?}", names(folder));
    };
    check("others than its owner may write to it (mode 0777)");
    fs::set_permissions(&ram, Permissions::from_mode(0o750)).expect("ours");
    let inode = fs::metadata(&ram).expect("there").ino();
    let output = run(folder, &["unpack", "image", "--ram-files=ram/"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(fs::metadata(&ram).expect("there").ino(), inode, "it may be the root of a file system");
    let before = fs::read(ram.join("manifest.json")).expect("there");
    check("the folder is not empty");
    assert_eq!(fs::read(ram.join("manifest.json")).expect("there"), before);
    open(&ram);
    fs::remove_dir_all(&ram).expect("ours");
    fs::write(&ram, b"another's").expect("a file");
    check("Not a directory");
    fs::remove_file(&ram).expect("ours");
    std::os::unix::fs::symlink("nowhere", &ram).expect("a link");
    check("a symbolic link to nothing");
    fs::remove_file(&ram).expect("ours");
    let output = run(folder, &["unpack", "image", "--ram-files=nowhere/ram"]);
    assert!(said(&output).contains("nowhere/ram: No such file or directory"), "{}", said(&output));
    assert_eq!(names(folder), ["image"]);
    // A name with slashes at its end is the folder's.
    let output = run(folder, &["unpack", "image", "--ram-files=ram//"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    open(&ram);
}

#[test]
fn what_is_wrong_with_the_image_leaves_nothing() {
    let folder = folder();
    let folder = folder.path();
    let check = |arguments: &[&str], status: i32, wanted: &str| {
        let output = run(folder, arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(wanted), "expected {wanted:?} in {:?}", said(&output));
        assert_eq!(names(folder), ["image"], "{arguments:?}");
    };
    check(&["unpack", "--ram-files=ram", "nowhere"], 2, "nowhere: No such file or directory");
    check(&["unpack", "--ram-files=ram", "image,cache.direct=on"], 2, "block options mean nothing here");
    check(&["unpack", "--ram-files=ram", "."], 2, "images are regular files only");
    check(&["unpack", "image"], 2, "--ram-files <DIR>");
    check(&["unpack", "--ram-files=ram"], 2, "<IMAGE>");
    let image = File::options().read(true).write(true).open(folder.join("image")).expect("ours");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &image, &mut bytes).expect("a file");
    let is_full = |page: &[u8]| page.iter().filter(|&&byte| byte != 0).count() > 3000;
    let page = bytes.chunks_exact(4096).position(is_full).expect("code of the firmware");
    let at = page * 4096;
    image.write_all_at(&[bytes[at] ^ 1], at as u64).expect("a file");
    check(&["unpack", "--ram-files=ram", "image"], 1, "the image is damaged: ram block \"");
    image.set_len(0).expect("a file");
    check(&["unpack", "--ram-files=ram", "image"], 1, "not a qcow2 image: 0 bytes long");
}

#[test]
fn an_image_may_be_called_unpack() {
    let folder = folder();
    let folder = folder.path();
    let stream = run(folder, &["--revert", "image"]).stdout;
    assert!(stream.len() > 4096);
    fs::rename(folder.join("image"), folder.join("unpack")).expect("ours");
    for arguments in [&["--revert", "unpack"][..], &["--revert", "./unpack"], &["-r", "--", "unpack"]] {
        assert_eq!(run(folder, arguments).stdout, stream, "{arguments:?}");
    }
    fs::write(folder.join("stream"), &stream).expect("a file");
    for arguments in
        [&["./unpack", "--overwrite"][..], &["--overwrite", "unpack"], &["--overwrite", "--", "unpack"]]
    {
        let stream = File::open(folder.join("stream")).expect("a file");
        let output = command(folder, arguments).stdin(stream).output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    }
    let output = run(folder, &["unpack", "--ram-files=ram", "unpack"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// The stdin of a command is nobody's stream: a wrong option must not read it.
#[test]
fn a_wrong_command_line_of_a_command_reads_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("lines"), b"one\ntwo\n").expect("a file");
    let script =
        "{ $S unpack --wrong; echo $?; cat; } <lines; cat lines | { $S unpack image; echo $?; cat; }";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("S", env!("CARGO_BIN_EXE_qemu-snapshot")).current_dir(folder.path());
    let output = shell.output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2\none\ntwo\n2\none\ntwo\n");
}

#[test]
fn help_and_manual_page_are_of_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |arguments: &[&str]| {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let help = text(&["unpack", "--help"]);
    assert!(help.contains("Usage: qemu-snapshot unpack [OPTIONS] --ram-files <DIR> <IMAGE>"), "{help}");
    assert!(help.contains("\n  qemu-snapshot unpack --ram-files=/run/vm1.ram /vm/1.qcow2\n"), "{help}");
    assert!(text(&["--help"]).contains("\n  unpack "), "the commands are in the help");
    assert!(text(&["--man"]).contains("qemu\\-snapshot\\-unpack(1)"));
    let page = text(&["--man=unpack"]);
    assert!(page.contains(".TH qemu-snapshot-unpack 1") && page.contains("ram\\-files"), "{page}");
    let output = run(folder.path(), &["--man=pack"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--man=pack: the commands are unpack"), "{}", said(&output));
    assert!(text(&["--completions", "bash"]).contains("ram-files"));
}

#[test]
fn json_has_the_result_last() {
    let folder = folder();
    let output = run(folder.path(), &["unpack", "--progress=json", "--ram-files=ram", "image"]);
    let last = said(&output).lines().last().map(str::to_owned).expect("lines");
    let last: Value = serde_json::from_str(&last).expect("an object");
    assert_eq!(
        (&last["type"], &last["result"], &last["exit_status"]),
        (&"end".into(), &"unpacked".into(), &0.into())
    );
    assert_eq!((&last["files"], &last["folder"]), (&3.into(), &"ram".into()));
    let output = run(folder.path(), &["unpack", "--progress=json", "--ram-files=ram", "image"]);
    let last: Value = serde_json::from_str(said(&output).trim()).expect("an object");
    assert_eq!((&last["result"], &last["exit_status"]), (&"failed".into(), &2.into()));
}

/// A signal ends it, and nothing is left; what a kill leaves is hidden, and goes with the next unpack.
#[test]
fn an_unpack_that_ends_early_leaves_no_half_of_a_folder() {
    let folder = folder();
    let folder = folder.path();
    let (mut whole, mut early) = ([0; 2], [0; 2]);
    for (round, kill) in (0..60).flat_map(|round| [(round, false), (round, true)]) {
        let child = command(folder, &["unpack", "--ram-files=ram", "image"]).stdin(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        std::thread::sleep(Duration::from_micros(300 * round));
        if kill {
            child.kill().expect("our own child");
        } else {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        }
        let output = end(child);
        if folder.join("ram").exists() {
            open(&folder.join("ram"));
            fs::remove_dir_all(folder.join("ram")).expect("ours");
            whole[usize::from(kill)] += 1;
        } else {
            assert_ne!(output.status.code(), Some(0), "{}", said(&output));
            early[usize::from(kill)] += 1;
        }
        let left = names(folder).len() - 1;
        assert!(left <= usize::from(kill), "{:?}: {}", names(folder), said(&output));
        let output = unpack(folder);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(
            said(&output).contains("which an unpack that was killed left"),
            left == 1,
            "{}",
            said(&output)
        );
        assert_eq!(names(folder), ["image", "ram"]);
        fs::remove_dir_all(folder.join("ram")).expect("ours");
    }
    println!("whole {whole:?}, ended early {early:?}");
    assert!(early.iter().all(|&count| count > 0), "no kill struck: {early:?}, {whole:?}");
}

/// A hidden folder in which an unpack is at work is no leftover, nor is another program's file.
#[test]
fn only_what_no_one_holds_is_swept() {
    let folder = folder();
    let folder = folder.path();
    let [held, left] =
        [".ram.0123456789abcdef.tmp", ".ram.fedcba9876543210.tmp"].map(|name| folder.join(name));
    for path in [&held, &left] {
        fs::create_dir(path).expect("a folder");
        fs::write(path.join(".pc.ram.partial"), b"RAM").expect("a file");
    }
    fs::write(folder.join(".ram.0000000000000000.tmp"), b"another's").expect("a file");
    let lock = File::open(&held).expect("a folder");
    lock.lock().expect("no one else has it");
    let output = unpack(folder);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("removed .ram.fedcba9876543210.tmp"), "{}", said(&output));
    let wanted = [".ram.0000000000000000.tmp", ".ram.0123456789abcdef.tmp", "image", "ram"];
    assert_eq!(names(folder), wanted);
    assert!(held.join(".pc.ram.partial").exists());
}
