//! The program as its users meet it: messages, exit status, and what the peer sees when a job cannot begin.

use super::bed::{end, tool};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The file header of a stream, its first 8 bytes: what a source sends at once.
const FILE_HEADER: &[u8] = b"QEVM\0\0\0\x03";

fn run(arguments: &[&str]) -> Output {
    tool().args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// It failed with one line on stderr that says this.
fn assert_fails(output: &Output, status: i32, wanted: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.starts_with("qemu-snapshot: error: ") && said.lines().count() == 1, "{said}");
    assert!(said.contains(wanted), "expected {wanted:?} in {said:?}");
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends the header and waits until the tool has taken it: now everything is open, and signals are expected.
fn send_header(mut source: &ChildStdin) {
    source.write_all(FILE_HEADER).expect("the tool reads");
    let start = Instant::now();
    while rustix::io::ioctl_fionread(source).expect("a pipe") > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "the tool reads nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs the program as the shell sets up its descriptors; `$S` is the program.
fn shell(script: &str, folder: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("S", env!("CARGO_BIN_EXE_qemu-snapshot")).current_dir(folder);
    shell.stdin(Stdio::null()).output().expect("a shell")
}

#[test]
fn an_answer_that_goes_nowhere_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    std::fs::write(folder.join("image"), [0; 4096]).expect("a file");
    for arguments in ["--completions bash", "--completions zsh", "--man", "--help", "--version"] {
        for (stdout, why) in [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")] {
            let output = shell(&format!("exec $S {arguments} {stdout}"), folder);
            assert_fails(&output, 2, &format!("stdout: {why}"));
        }
        // A reader that is gone: the pipe's other end is closed before the program starts.
        let output = shell(&format!("{{ sleep 0.2; $S {arguments}; echo $? >&2; }} | true"), folder);
        let said = text(&output.stderr);
        assert!(said.contains("stdout: Broken pipe") && said.ends_with("\n2\n"), "{arguments}: {said}");
    }
    assert_fails(&shell("exec $S --revert image >&-", folder), 2, "stdout is closed");
    assert_fails(&shell("exec $S --create new <&-", folder), 2, "stdin is closed");
    assert!(!folder.join("new").exists());
    // A save needs no stdout.
    let output = shell("exec $S --create new >&- </dev/null", folder);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[test]
fn a_revert_never_writes_over_an_image_whatever_is_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let bytes = b"no image, but somebody's".repeat(300);
    std::fs::write(folder.join("image"), &bytes).expect("a file");
    std::fs::hard_link(folder.join("image"), folder.join("other")).expect("a link");
    let itself = "the output is the image, which would be overwritten";
    for (arguments, status, wanted) in [
        ("--revert image 1<>image", 2, itself),
        ("--revert image 1>>image", 2, itself),
        ("--revert image 1<>other", 2, itself),
        ("--revert --uri fd:5 image 5<>image", 2, itself),
        ("--revert --postcopy=0 image 1<>image", 2, itself),
        ("--revert image,file.aio=wrong 1<>image", 2, ""),
        ("--revert --postcopy=0 --preempt image 1<>image", 2, ""),
        ("--revert --wrong image 1<>image", 2, ""),
        ("--revert nowhere 1<>image", 2, "nowhere"),
    ] {
        let output = shell(&format!("exec $S {arguments}"), folder);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {said}");
        assert!(said.contains(wanted), "{arguments}: {said}");
        assert_eq!(std::fs::read(folder.join("image")).expect("there"), bytes, "{arguments}");
    }
}

#[test]
fn help_shows_examples_and_goes_to_stdout() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    for wanted in [
        "migrate_set_capability",
        "exec:/usr/local/bin/qemu-snapshot --revert",
        "Exit status: 0 done",
        "[default: 16T]",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is not in the help");
    }
    assert!(output.stderr.is_empty());
}

#[test]
fn completions_and_manual_page_come_from_the_command_line_itself() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["--completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("fresh-ram"), "{shell}");
    }
    let output = run(&["--man"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains(".TH qemu-snapshot"));
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &[][..],
        &["--page-size=5000", "image"],
        &["--uri=tcp:host", "image"],
        &["--create", "--revert", "image"],
        &["--timeout=0", "image"],
        &["--memory=64MB", "image"],
        &["image", "another"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("error:"), "{arguments:?}");
        // A destination that waits behind a revert learns of it.
        let told = arguments.contains(&"--revert");
        assert_eq!(output.stdout, if told { &b"X"[..] } else { b"" }, "{arguments:?}");
    }
}

#[test]
fn image_errors_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.qcow2");
    let image = folder.path().join("image.qcow2");
    std::fs::write(&image, b"").unwrap();
    assert_fails(
        &run(&[path_text(&missing)]),
        2,
        "No such file or directory (os error 2); --create makes a new image",
    );
    assert_fails(&run(&[path_text(folder.path())]), 2, "a directory; images are regular files only");
    assert_fails(&run(&["/dev/zero"]), 2, "a character device; images are regular files only");
    assert_fails(
        &run(&[&format!("{},driver=raw", path_text(&image))]),
        2,
        "block option \"driver\" is not known here",
    );
    assert_fails(
        &run(&[&format!("{},file.aio=native", path_text(&image))]),
        2,
        "file.aio=native needs cache.direct=on",
    );
    assert_fails(&run(&["--create", "--cluster-size=4M", path_text(&missing)]), 2, "cluster size");
    assert!(!missing.exists());
}

#[test]
fn source_of_a_save_that_cannot_begin_is_drained() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.qcow2");
    for arguments in [&[path_text(&missing)][..], &["--no-such-option", path_text(&missing)]] {
        let mut child = tool().args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let source = child.stdin.take().unwrap();
        send_header(&source);
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?}: QEMU 7.2 would freeze its guest");
        drop(source);
        assert_eq!(end(child).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn usage_error_does_not_wait_for_a_pipe_on_which_nothing_comes() {
    let mut child = tool().arg("--no-such-option").stdin(Stdio::piped()).spawn().unwrap();
    let _silent = child.stdin.take().unwrap();
    assert_eq!(end(child).status.code(), Some(2));
}

#[test]
fn destination_of_a_revert_that_cannot_begin_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.qcow2");
    let output = run(&["--revert", path_text(&missing)]);
    assert_fails(&output, 2, "No such file or directory (os error 2)");
    assert_eq!(output.stdout, b"X", "one byte makes QEMU refuse; none lets it wait without limit");
    let output = run(&["--revert", "--no-such-option", path_text(&missing)]);
    assert_eq!((output.status.code(), output.stdout), (Some(2), b"X".to_vec()));
}

#[test]
fn image_that_a_save_has_locked_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    std::fs::write(&image, b"").unwrap();
    let mut first = tool().arg(&image).stdin(Stdio::piped()).spawn().unwrap();
    let source = first.stdin.take().unwrap();
    send_header(&source);
    let second = run(&["--revert", path_text(&image)]);
    drop(source);
    let first = end(first);
    // The empty file is no image: the first one is draining, and still holds it.
    assert_eq!(first.status.code(), Some(2), "{}", text(&first.stderr));
    assert_fails(&second, 2, "cannot lock the image: another process uses it (a running QEMU, or a save");
}

#[test]
fn something_else_than_a_stream_is_the_inputs_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (image, input) = (folder.path().join("image.qcow2"), folder.path().join("input"));
    std::fs::write(&input, b"this is not a migration stream").unwrap();
    let output = tool().arg("--create").arg(&image).stdin(File::open(&input).unwrap()).output().unwrap();
    assert_fails(&output, 1, "offset 0x0");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn unix_socket_is_private_and_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let (image, path) = (folder.path().join("image.qcow2"), folder.path().join("socket"));
    let uri = format!("--uri=unix:{}", path.display());
    let child = tool().args(["--create", &uri, path_text(&image)]).spawn().unwrap();
    wait_for(&path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut source = UnixStream::connect(&path).unwrap();
    source.write_all(FILE_HEADER).unwrap();
    drop(source);
    assert_fails(&end(child), 1, "truncated");
    assert!(!path.exists());

    std::fs::write(&path, b"in the way").unwrap();
    assert_fails(&run(&["--create", &uri, path_text(&image)]), 2, "Address already in use (os error 98)");
    assert_eq!(std::fs::read(&path).unwrap(), b"in the way");
}

#[test]
fn unix_socket_takes_connections_as_soon_as_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (image, path) = (folder.path().join("image.qcow2"), folder.path().join("socket"));
    let uri = format!("--uri=unix:{}", path.display());
    for round in 0..300 {
        let child = tool().args(["--create", &uri, path_text(&image)]).spawn().unwrap();
        let start = Instant::now();
        let source = loop {
            match UnixStream::connect(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    assert!(start.elapsed() < Duration::from_secs(10), "no socket");
                }
                connected => break connected,
            }
        };
        assert!(source.is_ok(), "round {round}: {source:?}");
        drop(source);
        assert_fails(&end(child), 1, "truncated");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
    }
}

#[test]
fn unix_socket_that_cannot_be_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    let missing = format!("--uri=unix:{}/missing/socket", folder.path().display());
    assert_fails(&run(&["--create", &missing, path_text(&image)]), 2, "No such file or directory");
    let long = format!("--uri=unix:{}", folder.path().join("s".repeat(120)).display());
    assert_fails(&run(&["--create", &long, path_text(&image)]), 2, "path must be shorter than SUN_LEN");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn wait_for_a_source_ends_by_signal_or_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let (image, path) = (folder.path().join("image.qcow2"), folder.path().join("socket"));
    let uri = format!("--uri=unix:{}", path.display());
    let child = tool().args(["--create", &uri, path_text(&image)]).spawn().unwrap();
    wait_for(&path);
    interrupt(&child);
    assert_fails(&end(child), 2, "interrupted by a signal before anyone connected");
    assert!(!path.exists());
    let output = run(&["--create", "--timeout=1", &uri, path_text(&image)]);
    assert_fails(&output, 2, "no one connected (--timeout)");
    assert!(!path.exists());
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

#[test]
fn signal_ends_a_save_without_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    let mut child = tool().arg("--create").arg(&image).stdin(Stdio::piped()).spawn().unwrap();
    let source = child.stdin.take().unwrap();
    send_header(&source);
    interrupt(&child);
    std::thread::sleep(Duration::from_millis(100));
    drop(source);
    assert_fails(&end(child), 2, "interrupted by a signal; nothing was committed");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn silent_source_ends_the_save_after_the_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    let mut child =
        tool().args(["--timeout=1", "--create"]).arg(&image).stdin(Stdio::piped()).spawn().unwrap();
    let source = child.stdin.take().unwrap();
    send_header(&source);
    assert_fails(&end(child), 2, "the peer was silent for 1 s; --timeout sets how long it may be");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn trace_shows_what_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (image, input) = (folder.path().join("image.qcow2"), folder.path().join("input"));
    std::fs::write(&input, b"nothing").unwrap();
    let mut command = tool();
    command.args(["-T", "disk_*", "--trace=enable=input_end", "--create"]).arg(&image);
    let output = command.stdin(File::open(&input).unwrap()).output().unwrap();
    let said = text(&output.stderr);
    let names: Vec<&str> = said.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert!(names.contains(&"disk_create") && names.contains(&"disk_done"), "{said}");
    assert!(!names.contains(&"tick") && !names.contains(&"finish"), "{said}");
    assert!(text(&run(&["-T", "file=x", "image"]).stderr).contains("expected [enable=]PATTERN"));
}

#[test]
fn descriptors_are_taken_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    assert_fails(
        &run(&["--uri=fd:77", path_text(&image)]),
        2,
        "file descriptor 77: Bad file descriptor (os error 9)",
    );
    // As number 0, which every program has.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let child = tool()
        .args(["--revert", "--uri=fd:0", path_text(&image)])
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let output = end(child);
    let mut seen = Vec::new();
    ours.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"X");
    assert_fails(&output, 2, "No such file or directory");
}

#[test]
fn terminal_is_no_channel() {
    let Ok(controller) = nix::pty::openpty(None, None) else {
        return eprintln!("skipped: no pseudo terminals here");
    };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.qcow2");
    let terminal = controller.slave;
    let output = tool().arg(&image).stdin(terminal.try_clone().unwrap()).output().unwrap();
    assert_fails(&output, 2, "stdin is a terminal; a stream goes through a pipe, a socket or a file");
    let output = tool().arg("--revert").arg(&image).stdout(terminal).output().unwrap();
    assert_fails(&output, 2, "stdout is a terminal; a stream goes through a pipe, a socket or a file");
}

/// Options of postcopy mean nothing in a precopy, and one that cannot be had must not leave a
/// destination waiting.
#[test]
fn options_of_postcopy_are_refused_where_they_mean_nothing() {
    for (arguments, wanted) in [
        (&["--revert", "--preempt", "image"][..], "--postcopy <PERCENT>|--recover <UUID>"),
        (&["--revert", "--host-page=pc.ram:2M", "image"], "--postcopy <PERCENT>|--recover <UUID>"),
        (&["--revert", "--postcopy=101", "image"], "101 is not in 0..=100"),
        (&["--revert", "--postcopy=0", "--host-page=2M", "image"], "expected BLOCK:SIZE"),
        (&["--revert", "--recover=1", "image"], "expected a UUID"),
        (&["--postcopy=0", "image"], "--revert"),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "expected {wanted:?} in {said:?}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    std::fs::write(&image, [0; 4096]).expect("a file");
    let output = run(&["--revert", "--postcopy=0", "--preempt", path_text(&image)]);
    assert_fails(&output, 2, "--preempt needs a second connection");
    assert_eq!(output.stdout, b"X", "the destination would wait without limit");
}
