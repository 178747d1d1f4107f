//! What the source, the destination and the exit status are when memory runs out, or the program has a bug.

use super::bed::{begin_of_ram, end, end_of_stream, said};
use migration_stream::{SectionHeader, SectionId, put_end_of_section, put_page_header, put_section_header};
use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PAGES: u64 = 12_000;

fn header(section_id: SectionId, idstr: &'static [u8], version_id: u32) -> SectionHeader<'static> {
    SectionHeader { section_id, idstr, instance_id: 0, version_id }
}

fn put_pages(out: &mut Vec<u8>) {
    for page in 0..PAGES {
        put_page_header(out, (page == 0).then_some(b"pc.ram"), page * 4096);
        out.extend((0..512).flat_map(|word: u64| (page * 512 + word + 1).to_be_bytes()));
    }
}

/// A guest all of whose pages differ, and its first device section.
fn stream() -> (Vec<u8>, Vec<u8>) {
    let mut out = begin_of_ram(PAGES);
    put_pages(&mut out);
    put_end_of_section(&mut out);
    let mut devices = Vec::new();
    put_section_header(&mut devices, true, &header(SectionId(3), b"timer", 2));
    devices.extend_from_slice(&[0; 48]);
    (out, devices)
}

/// Runs it behind a source of this stream: its end, and how much of the stream it took.
fn save(command: &mut Command, ram: &[u8], devices: &[u8]) -> (Output, bool) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let child =
        command.stdin(reader).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    // The end of the pipe that the command would hold.
    command.stdin(Stdio::null());
    let write = |mut pipe: PipeWriter| {
        let taken = ram.chunks(32 << 10).all(|chunk| pipe.write_all(chunk).is_ok());
        let _ = pipe.write_all(devices);
        taken
    };
    std::thread::scope(|scope| {
        let source = scope.spawn(move || write(writer));
        let output = end(child);
        (output, source.join().expect("no panic"))
    })
}

const TOOL: &str = env!("CARGO_BIN_EXE_qemu-snapshot");

/// The tool with so much address space, or data.
fn limited(limit: &str, bytes: u64) -> Command {
    let mut command = Command::new("prlimit");
    command.args([&format!("--{limit}={bytes}"), "--", TOOL]).env("RUST_BACKTRACE", "1");
    command
}

/// The least limit, in steps, with which the program starts at all.
fn least(limit: &str) -> u64 {
    let starts = |bytes: &u64| {
        let output =
            limited(limit, *bytes).arg("--version").output().expect("util-linux is on every Linux system");
        output.status.success()
    };
    (1..200).map(|step| step << 20).find(starts).expect("200 MiB are enough")
}

#[test]
fn memory_that_runs_out_fails_a_save_and_drains_its_source() {
    let (ram, devices) = stream();
    for limit in ["as", "data"] {
        let least = least(limit);
        let (mut refused, mut enough) = (0, 0);
        for step in 0..24 {
            let folder = tempfile::tempdir().unwrap();
            let bytes = least + (step << 19) + (step.saturating_sub(8) << 21);
            let mut command = limited(limit, bytes);
            let (output, taken) =
                save(command.arg("--create").arg(folder.path().join("image")), &ram, &devices);
            let what = format!("{limit} {bytes}: {:?}: {}", output.status, said(&output));
            match output.status.code() {
                // The stream is cut off.
                Some(1) => enough += 1,
                Some(2) => refused += 1,
                _ => panic!("{what}"),
            }
            assert!(taken, "{what}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{what}");
        }
        assert!(refused > 0 && enough > 0, "{limit} from {least}: {refused} refused, {enough} not: no use");
    }
}

#[test]
fn bug_fails_a_save_and_drains_its_source() {
    let (ram, devices) = stream();
    for (planted, wanted) in [
        ("1", "the program has a bug"),
        ("40", "the program has a bug"),
        ("1000", "the program has a bug"),
        ("1000,1001", "cannot go on"),
        ("1000,2000", "cannot go on"),
        ("-1000", "cannot go on"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(TOOL);
        command.args(["--create", "image"]).current_dir(folder.path()).env("QEMU_SNAPSHOT_PANICS", planted);
        let (output, taken) = save(&mut command, &ram, &devices);
        let what = format!("{planted}: {:?}: {}", output.status, said(&output));
        assert_eq!(output.status.code(), Some(2), "{what}");
        assert!(taken, "{what}");
        assert!(said(&output).contains(wanted), "{what}");
        assert!(
            planted.starts_with('-') || said(&output).contains("a bug: engine/drive/src/last_resort.rs"),
            "{what}"
        );
        assert!(!folder.path().join("image").exists(), "{what}");
    }
}

/// It would wait without limit for the first byte.
#[test]
fn bug_lets_the_destination_of_a_revert_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, [0; 4096]).unwrap();
    for planted in ["1", "2,3", "-2"] {
        let mut command = Command::new(TOOL);
        command.arg("--revert").arg(&image).env("QEMU_SNAPSHOT_PANICS", planted).stdin(Stdio::null());
        let output = end(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        assert_eq!(output.status.code(), Some(2), "{planted}: {}", said(&output));
        assert_eq!(output.stdout, b"X", "{planted}: {}", said(&output));
    }
}

#[test]
fn memory_that_runs_out_fails_a_revert_with_a_status() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, [0; 4096]).unwrap();
    for limit in ["as", "data"] {
        let least = least(limit);
        for step in 0..8 {
            for mode in [&["--revert"][..], &["--revert", "--postcopy=0"]] {
                let mut command = limited(limit, least + (step << 18));
                command.args(mode).arg(&image).stdin(Stdio::null());
                let output = end(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
                let what = format!("{limit} step {step}: {:?}: {}", output.status, said(&output));
                assert!(matches!(output.status.code(), Some(1 | 2)), "{what}");
                assert_eq!(output.stdout, b"X", "{what}");
            }
        }
    }
}

/// A whole snapshot of the guest.
fn snapshot(folder: &Path) -> PathBuf {
    let image = folder.join("image");
    let mut stream = begin_of_ram(PAGES);
    put_pages(&mut stream);
    end_of_stream(&mut stream);
    super::bed::save(&stream, &image);
    image
}

/// However little memory there is, a destination gets all of a snapshot, or no end of it.
#[test]
fn memory_that_is_too_little_for_a_revert_sends_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let image = snapshot(folder.path());
    let revert = |command: &mut Command| {
        command.arg("--revert").arg(&image).stdin(Stdio::null());
        end(command
            .stdout(File::create(folder.path().join("out")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap())
    };
    let sent = || std::fs::read(folder.path().join("out")).unwrap();
    assert!(revert(&mut Command::new(TOOL)).status.success());
    let whole = sent();
    for limit in ["as", "data"] {
        let least = least(limit);
        let (mut refused, mut enough) = (0, 0);
        for step in 0..24 {
            let bytes = least + (step << 19) + (step.saturating_sub(8) << 21);
            let output = revert(&mut limited(limit, bytes));
            let what = format!("{limit} {bytes}: {:?}: {}", output.status, said(&output));
            let sent = sent();
            match output.status.code() {
                Some(0) => {
                    assert!(sent == whole, "{what}");
                    enough += 1;
                }
                Some(2) => {
                    assert!(sent == b"X" || sent.len() < whole.len() && whole.starts_with(&sent), "{what}");
                    refused += 1;
                }
                _ => panic!("{what}"),
            }
        }
        assert!(refused > 0 && enough > 0, "{limit} from {least}: {refused} refused, {enough} not: no use");
    }
}

/// In the middle, too: no more memory than it has, from some moment on.
#[test]
fn memory_that_runs_out_in_the_middle_of_a_revert_sends_no_end() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let folder = tempfile::tempdir().unwrap();
    let image = snapshot(folder.path());
    let start = || {
        let mut command = Command::new(TOOL);
        command.arg("--revert").arg(&image).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let whole = start().wait_with_output().unwrap();
    assert!(whole.status.success(), "{}", said(&whole));
    for sixteenths in 0..16 {
        let mut child = start();
        let mut sent = vec![0; whole.stdout.len() * sixteenths / 16 + 1];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut sent).unwrap();
        let none = Rlimit { current: Some(0), maximum: None };
        prlimit(Some(Pid::from_child(&child)), Resource::Data, none).unwrap();
        prlimit(Some(Pid::from_child(&child)), Resource::As, none).unwrap();
        child.stdout.as_mut().unwrap().read_to_end(&mut sent).unwrap();
        let output = child.wait_with_output().unwrap();
        let what = format!("after {sixteenths}/16: {:?}: {}", output.status, said(&output));
        match output.status.code() {
            // It had all that it needed.
            Some(0) => assert!(sent == whole.stdout, "{what}"),
            Some(2) => {
                assert!(sent.len() < whole.stdout.len() && whole.stdout.starts_with(&sent), "{what}");
            }
            _ => panic!("{what}"),
        }
    }
}
