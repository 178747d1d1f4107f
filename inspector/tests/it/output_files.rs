//! What the program writes: never over an input or another file, whole or not at all, and not
//! without saying so.

use crate::common::{all, corpus, program, stdout};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STREAM: &str = "qemu-10.0-pc.bin.zst";

/// The commands that write a file, all but its name: `INPUT` and `OUTPUT` are paths.
const WRITERS: [&[&str]; 5] = [
    &["map", "INPUT", "-o", "OUTPUT"],
    &["extract", "INPUT", "--block", "pc.ram", "-o", "OUTPUT"],
    &["extract", "INPUT", "--core", "-o", "OUTPUT"],
    &["extract", "INPUT", "--vmdesc", "-o", "OUTPUT"],
    &["convert", "INPUT", "OUTPUT", "--to", "stream"],
];

fn run(command: &[&str], input: &Path, output: &Path, more: &[&str]) -> Output {
    let words = command.iter().map(|word| match *word {
        "INPUT" => input.as_os_str(),
        "OUTPUT" => output.as_os_str(),
        word => word.as_ref(),
    });
    program().args(words).args(more).output().expect("the program runs")
}

/// A copy of a stream; its name ends as that of a picture, so that each command would write to it.
fn input(folder: &Path) -> PathBuf {
    let path = folder.join("vm.svg");
    std::fs::copy(corpus().join(STREAM), &path).expect("a copy");
    path
}

/// Names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_input_is_never_overwritten_whatever_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = input(folder.path());
    let bytes = std::fs::read(&path).expect("there");
    let (hard, soft) = (folder.path().join("hard.svg"), folder.path().join("soft.svg"));
    std::fs::hard_link(&path, &hard).expect("a link");
    symlink(&path, &soft).expect("a link");
    let before = names(folder.path());
    for command in WRITERS {
        for output in [&path, &hard, &soft] {
            for more in [&[][..], &["--force"]] {
                let ended = run(command, &path, output, more);
                assert_eq!(ended.status.code(), Some(2), "{command:?}: {}", all(&ended));
                assert!(all(&ended).contains("is an input, and would be overwritten"), "{}", all(&ended));
                assert_eq!(std::fs::read(&path).expect("there"), bytes, "{command:?}");
            }
        }
    }
    // The second input of a picture, and what is given as a channel.
    let ended = run(&["map", STREAM, "--against", "INPUT", "-o", "OUTPUT", "--force"], &path, &path, &[]);
    assert!(all(&ended).contains("is an input"), "{}", all(&ended));
    let ended = run(&["extract", STREAM, "--channel", "INPUT", "--core", "-o", "OUTPUT"], &path, &path, &[]);
    assert!(all(&ended).contains("is an input"), "{}", all(&ended));
    assert_eq!(std::fs::read(&path).expect("there"), bytes);
    assert_eq!(names(folder.path()), before);
}

#[test]
fn stdout_that_is_the_input_is_refused_before_a_byte() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = input(folder.path());
    let bytes = std::fs::read(&path).expect("there");
    for command in ["dump", "check", "stat", "extract --block pc.ram -o -", "diff qemu-7.2-pc.bin.zst"] {
        let script = format!("exec \"$0\" {command} \"$1\" 1<>\"$1\"");
        let ended = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_snapinspect")])
            .arg(&path)
            .current_dir(corpus())
            .output()
            .expect("a shell");
        assert_eq!(ended.status.code(), Some(2), "{command}: {}", all(&ended));
        assert!(all(&ended).contains("stdout is an input"), "{}", all(&ended));
        assert!(std::fs::read(&path).expect("there") == bytes, "{command}");
    }
}

#[test]
fn a_file_that_is_there_is_replaced_with_force_only_and_belongs_to_its_owner_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = input(folder.path());
    for (number, command) in WRITERS.into_iter().enumerate() {
        let output = folder.path().join(format!("{number}.svg"));
        let link = folder.path().join(format!("link{number}.svg"));
        let first = run(command, &path, &output, &[]);
        assert_eq!(first.status.code(), Some(0), "{command:?}: {}", all(&first));
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&output), 0o600, "{command:?}");
        let whole = std::fs::read(&output).expect("there");
        std::fs::write(&output, "another's").expect("written");
        std::fs::set_permissions(&output, PermissionsExt::from_mode(0o644)).expect("ours");
        let again = run(command, &path, &output, &[]);
        assert_eq!(again.status.code(), Some(2), "{command:?}");
        assert!(all(&again).contains("exists; --force replaces it"), "{}", all(&again));
        assert_eq!(std::fs::read(&output).expect("there"), b"another's");
        // Through a link what it leads to is replaced.
        symlink(&output, &link).expect("a link");
        let forced = run(command, &path, &link, &["--force"]);
        assert_eq!(forced.status.code(), Some(0), "{command:?}: {}", all(&forced));
        assert!(link.is_symlink() && std::fs::read(&output).expect("there") == whole, "{command:?}");
        assert_eq!(mode(&output), 0o600, "{command:?}");
        // A link to nothing is not followed.
        std::fs::remove_file(&output).expect("there");
        let dangling = run(command, &path, &link, &["--force"]);
        assert_eq!(dangling.status.code(), Some(2), "{command:?}");
        assert!(all(&dangling).contains("a symbolic link to what does not exist"), "{}", all(&dangling));
        assert!(!output.exists(), "{command:?}");
    }
    for output in [folder.path().join("none.svg/x.svg"), folder.path().join("new.svg/")] {
        let ended = run(WRITERS[0], &path, &output, &[]);
        assert_eq!(ended.status.code(), Some(2), "{}", all(&ended));
    }
    assert!(names(folder.path()).iter().all(|name| !name.starts_with('.')), "{:?}", names(folder.path()));
}

/// A limit on the size of files is met as a full disk is, without one.
#[test]
fn what_cannot_be_written_whole_is_not_there_and_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = input(folder.path());
    let spool = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("out.svg");
    // 2 MiB: less than RAM, more than the output of the others.
    for command in &WRITERS[1..3] {
        let words: Vec<_> =
            command.iter().map(|word| word.replace("INPUT", "$1").replace("OUTPUT", "$2")).collect();
        let script = format!("trap '' XFSZ; ulimit -f 2048; exec \"$0\" {}", words.join(" "));
        let ended = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_snapinspect")])
            .args([&path, &output])
            .env("TMPDIR", spool.path())
            .output()
            .expect("a shell");
        assert_eq!(ended.status.code(), Some(2), "{command:?}: {}", all(&ended));
        assert!(!all(&ended).contains("stdout"), "{}", all(&ended));
        assert_eq!(names(folder.path()), ["vm.svg"], "{command:?}");
    }
    // A device that is always full is named, too.
    let ended = run(WRITERS[1], &path, Path::new("/dev/full"), &[]);
    let expected = "snapinspect: /dev/full: No space left on device (os error 28)\nexit status 2\n";
    assert_eq!(all(&ended), expected);
    let ended = run(WRITERS[1], &path, Path::new("/dev/null"), &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", all(&ended));
}

/// Runs the program with stdout as the shell sets it up.
fn with_stdout(arguments: &str, stdout: &str) -> Output {
    let script = format!("exec \"$0\" {arguments} {stdout}");
    Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_snapinspect")])
        .current_dir(corpus())
        .output()
        .expect("a shell")
}

#[test]
fn an_answer_that_goes_nowhere_is_an_error() {
    for arguments in [
        "check qemu-10.0-pc.bin.zst",
        "stat qemu-10.0-pc.bin.zst",
        "dump qemu-10.0-pc.bin.zst",
        "diff qemu-10.0-pc.bin.zst qemu-7.2-pc.bin.zst",
        "compat qemu-10.0-pc.bin.zst qemu-10.0-pc.bin.zst",
        "extract qemu-10.0-pc.bin.zst --vmdesc -o -",
        "completions bash",
        "man",
        "--help",
        "--version",
    ] {
        for (stdout, why) in [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")] {
            let ended = with_stdout(arguments, stdout);
            assert_eq!(ended.status.code(), Some(2), "{arguments} {stdout}: {}", all(&ended));
            assert!(all(&ended).contains(&format!("snapinspect: stdout: {why}")), "{}", all(&ended));
        }
        // Thrown away on purpose, in both ways in which that is done.
        for stdout in [">/dev/null", "1<>/dev/null"] {
            let ended = with_stdout(arguments, stdout);
            assert_ne!(ended.status.code(), Some(2), "{arguments} {stdout}: {}", all(&ended));
        }
    }
    // These need none.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let picture = folder.path().join("x.svg");
    let ended = with_stdout(&format!("map {STREAM} -o {}", picture.display()), ">&-");
    assert_eq!(ended.status.code(), Some(0), "{}", all(&ended));
    assert!(picture.exists() && stdout(&ended).is_empty());
}

#[test]
fn the_name_of_a_file_is_escaped_for_ci_as_names_in_it_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a\u{1b}[2J\u{202e},b:c\n%");
    std::fs::copy(corpus().join("qemu-7.2-pc-no-vmdesc.bin.zst"), &path).expect("a copy");
    for (command, more) in [("check", &[][..]), ("compat", &[STREAM])] {
        let output = program().args([command, "--format", "github"]).arg(&path).args(more).output();
        let text = stdout(&output.expect("the program runs"));
        assert!(text.lines().count() > 0, "something is reported");
        for line in text.lines() {
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", line.escape_debug());
            assert!(line.contains("a\\u{1b}[2J\\u{202e}%2Cb%3Ac%0A%25,title="), "{line}");
        }
    }
}
