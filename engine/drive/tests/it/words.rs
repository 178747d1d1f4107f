//! What the program says of a job on stderr, for people and for programs.

use super::bed::tool;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Output, Stdio};

/// Runs the program with a stream of the corpus as stdin.
fn run(arguments: &[&str], image: &Path, input: &[u8]) -> Output {
    let mut child = tool().args(arguments).arg(image).stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // It may stop reading before the end.
    let writer = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("writing does not panic");
    output
}

fn stream() -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/valid/qemu-10.0-pc-background.bin.zst");
    zstd::decode_all(File::open(path).expect("the corpus is there")).expect("packed with zstd")
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Every line is one object; returns them.
fn objects(output: &Output) -> Vec<Value> {
    let words = words(output);
    words
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

/// Changes a byte in the middle of the first page with content.
fn damage(image: &Path) {
    let file = File::options().read(true).write(true).open(image).expect("the image is there");
    let length = file.metadata().expect("a file").len();
    let mut page = [0; 4096];
    for at in (0..length / 4096).map(|number| number * 4096) {
        file.read_exact_at(&mut page, at).expect("within the file");
        // The guest's program, which is not a table of QCOW2: it has many different bytes.
        let mut seen = [false; 256];
        page.iter().for_each(|&byte| seen[usize::from(byte)] = true);
        if seen.iter().filter(|&&seen| seen).count() > 100 {
            return file.write_all_at(&[!page[2000]], at + 2000).expect("writable");
        }
    }
    panic!("no page looks like a program");
}

#[test]
fn a_save_and_a_revert_say_what_was_done_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("vm.qcow2");
    let saved = words(&run(&["--create"], &image, &stream()));
    let path = image.display();
    assert!(
        saved.starts_with(&format!(
            "qemu-snapshot: saved 120 KiB of 4.1 MiB RAM (the rest is zero) to {path}, UUID "
        )),
        "{saved}"
    );
    assert!(saved.trim_end().ends_with(['s']) && saved.lines().count() == 1, "{saved}");
    let reverted = words(&run(&["--revert"], &image, &[]));
    let uuid = saved.split("UUID ").nth(1).and_then(|rest| rest.split(',').next()).expect("a UUID");
    assert!(
        reverted.starts_with(&format!(
            "qemu-snapshot: reverted from {path}, UUID {uuid}: sent 30 pages with content, each verified, and 1042 zero pages in "
        )),
        "{reverted}"
    );
}

#[test]
fn a_damaged_image_is_called_that_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("vm.qcow2");
    assert!(run(&["--create"], &image, &stream()).status.success());
    damage(&image);
    let output = run(&["--revert"], &image, &[]);
    let words = words(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.starts_with("qemu-snapshot: error: the image is damaged: ram block \""), "{words}");
    assert!(words.contains("snapinspect check"), "{words}");
}

#[test]
fn progress_json_is_objects_to_the_last_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("vm.qcow2");
    let ends = [
        (run(&["--progress=json", "--create"], &image, &stream()), "saved", 0),
        (run(&["--progress=json", "--create"], &image, &stream()), "failed", 2),
        (run(&["--progress=json", "--revert"], &image, &[]), "reverted", 0),
        (run(&["--progress=json", "--create"], &folder.path().join("no/folder"), &stream()), "failed", 2),
        (run(&["--progress=json", "--create"], &folder.path().join("x"), b"no stream"), "failed", 1),
    ];
    for (output, result, status) in ends {
        let objects = objects(&output);
        let (end, before) = objects.split_last().expect("an end");
        assert_eq!((&end["type"], &end["result"]), (&"end".into(), &result.into()), "{end}");
        assert_eq!(end["exit_status"], status, "{end}");
        assert_eq!(output.status.code(), Some(status));
        assert_eq!(end["error"].is_string(), result == "failed", "{end}");
        for object in before {
            assert!(object["type"] == "progress" || object["type"] == "message", "{object}");
            if object["type"] == "progress" {
                assert!(object["phase"].as_str().is_some_and(|phase| !phase.is_empty()), "{object}");
                assert!(object["bytes_per_second"].is_number() && object["seconds"].is_number(), "{object}");
            }
        }
        if result != "failed" {
            assert!(before.iter().any(|object| object["phase"] == "end"), "{before:?}");
            assert_eq!(end["uuid"].as_str().map(str::len), Some(36), "{end}");
        }
    }
}

#[test]
fn an_image_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("no/folder/vm.qcow2");
    let output = run(&["--create"], &image, &stream());
    let words = words(&output);
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains(&format!("{}: No such file or directory", image.display())), "{words}");
}
