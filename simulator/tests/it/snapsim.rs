//! The program: its exit status, its messages, and what it writes where.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_snapsim");

fn userfaultfd_works() -> bool {
    match background_snapshot::Userfault::open(0) {
        Ok(_) => true,
        Err(error) => {
            test_support::not_run(&format!("no userfaultfd: {error}"));
            false
        }
    }
}

/// Runs a shell command in which `$S` is the program.
fn shell(command: &str, folder: &std::path::Path) -> Output {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).env("S", PROGRAM).current_dir(folder).stdin(Stdio::null());
    shell.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn check(command: &str, folder: &std::path::Path, status: i32, expected: &str) -> String {
    let output = shell(command, folder);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{command}: {stdout}{stderr}");
    assert!(stdout.contains(expected) || stderr.contains(expected), "{command}: {stdout}{stderr}");
    stdout
}

#[test]
fn names_of_faults_are_printed_and_an_answer_that_goes_nowhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for command in ["source", "destination"] {
        for help in ["--fault help", "--fault=help"] {
            let names = check(&format!("$S {command} {help}"), folder, 0, "request-unknown-block\n");
            assert!(
                names.lines().all(|line| !line.contains(' ')) && names.contains("kill-at=N\n"),
                "{names}"
            );
        }
        check(&format!("$S {command} --fault none"), folder, 2, "expected request-unknown-block");
    }
    let source = "source --mode precopy --ram 1M exec:'cat >/dev/null'";
    for arguments in [source, "--help", "--version", "source --fault help", "explore --seeds 1"] {
        check(&format!("exec $S {arguments} >&-"), folder, 2, "snapsim: stdout: Bad file descriptor");
        check(&format!("exec $S {arguments} >/dev/full"), folder, 2, "snapsim: stdout: No space left");
    }
}

#[test]
fn a_precopy_goes_through_a_file_a_pipe_a_descriptor_and_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = "$S source --mode precopy --ram 4M --workload zipf --warm-up 10 --digest digest";
    check(&format!("{source} > stream"), folder, 0, "stream bytes");
    let all = "wrong                              0";
    check("$S destination --exec 'cat stream' --digest digest", folder, 0, all);
    check("$S destination fd:5 --digest digest 5< stream", folder, 0, all);
    check("$S destination stdio --digest digest < stream", folder, 0, all);
    let json =
        check("$S destination --exec 'cat stream' --digest digest --json", folder, 0, "\"verified\":1056");
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
    check(&format!("{source} exec:'cat > second'"), folder, 0, "downtime ms");
    check("$S destination --exec 'cat second' --digest digest", folder, 0, all);
    // The same pages, written by the destination.
    check("$S destination --exec 'cat second' --digest-out found", folder, 0, "");
    assert_eq!(fs::read(folder.join("digest")).unwrap(), fs::read(folder.join("found")).unwrap());
}

#[test]
fn what_is_wrong_is_status_1_and_what_cannot_be_is_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    check("$S source --mode precopy --ram 1M --digest digest > stream", folder, 0, "");
    check("head -c 100000 stream | $S destination stdio", folder, 1, "the connection ended in state NONE");
    check(
        "echo nothing at all | $S destination stdio",
        folder,
        1,
        "snapsim: offset 0x0: not a migration stream",
    );
    check("sed -i 's/^[0-9]* [0-9a-f]*$/256 0/' digest", folder, 0, "");
    check(
        "$S destination --exec 'cat stream' --digest digest",
        folder,
        1,
        " pages are wrong: page 0x0 of block",
    );
    check("$S destination --exec 'cat stream; exit 3'", folder, 1, "the command ended with exit status: 3");
    check("$S destination", folder, 2, "required");
    check("$S destination fd:99", folder, 2, "snapsim: connect: Bad file descriptor");
    check("$S destination --exec 'sleep 1' --timeout 0", folder, 2, "snapsim: the stream: nothing for 0 s");
    check("$S source --ram 5000", folder, 2, "expected a multiple of 4096");
    check("$S source --bitmap disk0:b0:1G", folder, 2, "a background snapshot has no dirty bitmaps");
    check("$S source --workload trace:none", folder, 2, "none: No such file or directory");
    check(
        "$S source --mode precopy --ram 1M --fault close-at=1000",
        folder,
        2,
        "write the stream: broken pipe",
    );
}

#[test]
fn bitmap_rules_differ() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    check("$S source --mode precopy --ram 1M --bitmap disk0:b0:1G > stream", folder, 0, "");
    let load = "$S destination --exec 'cat stream' --node disk0:1G";
    check(load, folder, 0, "\"b0\" of \"disk0\": ");
    let cancelled = "dirty bitmap \"b0\" of node \"disk0\": it exists already";
    check(&format!("{load} --bitmap disk0:b0:64K"), folder, 0, cancelled);
    check(&format!("{load} --bitmap disk0:b0:64K --bitmap-rules=2017"), folder, 0, "\"b0\" of \"disk0\": ");
    let other = "granularity 65536, it exists with 4096";
    check(&format!("{load} --bitmap disk0:b0:4K --bitmap-rules=2017"), folder, 1, other);
    check(
        "$S destination --exec 'cat stream' --bitmap-rules=2017",
        folder,
        1,
        "node \"disk0\": unknown node",
    );
    check("$S destination --exec 'cat stream'", folder, 0, "node \"disk0\": unknown node");
}

#[test]
fn a_background_snapshot_and_a_postcopy_by_the_programs() {
    if !userfaultfd_works() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for strategy in ["copy", "priority"] {
        // Slow enough for the guest to write meanwhile, on whatever machine.
        let busy = "--ram 8M --workload hot-cold --warm-up 20 --bandwidth 32M --digest digest";
        check(&format!("$S source {busy} --strategy {strategy} > stream"), folder, 0, "write faults");
        check("$S destination --exec 'cat stream' --digest digest --workload random", folder, 0, "arrived ");
    }
    let source = thread::spawn({
        let folder = folder.to_owned();
        move || shell("$S source unix:socket --mode postcopy --ram 8M --preempt --digest digest", &folder)
    });
    let output = shell("$S destination unix:socket --preempt --workload random --digest-out found", folder);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let source = source.join().unwrap();
    assert!(source.status.success(), "{}", text(&source.stderr));
    assert_eq!(fs::read(folder.join("digest")).unwrap(), fs::read(folder.join("found")).unwrap());
    assert!(!folder.join("socket").exists(), "the socket is left behind");
}

#[test]
fn strategies_are_compared_in_one_table() {
    if !userfaultfd_works() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let table = check("$S strategies --ram 8M --workload hot-cold --slow 40M", folder.path(), 0, "p99.9");
    let rows: Vec<Vec<&str>> =
        table.lines().skip(1).map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(rows, [["copy", "fast"], ["priority", "fast"], ["copy", "slow"], ["priority", "slow"]]);
}

#[test]
fn a_source_whose_reader_goes_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = Command::new(PROGRAM);
    source.args(["source", "--mode", "precopy", "--ram", "64M"]).stdin(Stdio::null());
    let stderr = File::create(folder.path().join("stderr")).unwrap();
    let mut child = source.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    drop(child.stdout.take());
    let start = std::time::Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(start.elapsed() < Duration::from_secs(10));
}
