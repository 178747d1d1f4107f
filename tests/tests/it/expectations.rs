//! What `snapinspect` makes of the files of the corpus that no other test saves and reverts: those
//! with a place for each page, those whose RAM is elsewhere, other releases, and NUMA guests.
//!
//! `NAME.txt` beside a file has the findings of `check`, the pages of each block (`stat`), and how
//! often `dump` has which record. `UPDATE=1` writes it anew: look at the difference.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use snapshot_tests::{corpus, tool::snapinspect};

const FOLDERS: [&str; 4] = ["cores", "elsewhere", "mapped", "releases"];

fn inspect(arguments: &[&str], file: &Path) -> (Output, Vec<Value>) {
    let output = Command::new(snapinspect()).args(arguments).arg(file).output().expect("it runs");
    let lines = std::str::from_utf8(&output.stdout).expect("JSON is UTF-8").lines();
    let values = lines.map(|line| serde_json::from_str(line).expect("a JSON object per line")).collect();
    (output, values)
}

/// Status, severity and offset of each finding; its wording is pinned elsewhere.
fn checked(file: &Path) -> String {
    let (output, findings) = inspect(&["check", "--format", "json"], file);
    let mut text = format!("check: status {}\n", output.status.code().expect("not killed"));
    for finding in findings.iter().filter(|finding| finding["type"] == "finding") {
        let level = finding["level"].as_str().expect("a text");
        let place = finding["offset"].as_u64().map_or_else(String::new, |at| format!(" at {at:#x}"));
        writeln!(text, "{level}{place}").expect("a String");
    }
    text
}

/// The pages of each block by their kinds; what is 0 is left out.
fn pages(file: &Path) -> String {
    let (output, stat) = inspect(&["stat", "--json"], file);
    let mut text = format!("stat: status {}\n", output.status.code().expect("not killed"));
    let blocks = stat.first().map(|stat| stat["blocks"].as_array().expect("a list"));
    for block in blocks.into_iter().flatten() {
        let name = block["name"].as_str().expect("a text");
        write!(text, "{name}: {} bytes, {}", block["bytes"], block["ram"].as_str().expect("a text"))
            .expect("a String");
        for kind in ["normal", "zero", "xbzrle", "compressed", "repeated", "missing"] {
            if block[kind].as_u64().expect("a number") > 0 {
                write!(text, ", {} {kind}", block[kind]).expect("a String");
            }
        }
        text.push('\n');
    }
    text
}

/// How often each kind of record is there, and how many bytes they have.
fn records(file: &Path) -> String {
    let (output, lines) = inspect(&["dump", "--json"], file);
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for line in &lines {
        let count = counts.entry(line["type"].as_str().expect("a text")).or_default();
        *count = (count.0 + 1, count.1 + line["length"].as_u64().unwrap_or(0));
    }
    let mut text = format!("dump: status {}\n", output.status.code().expect("not killed"));
    for (kind, (count, bytes)) in counts {
        writeln!(text, "{kind}: {count}, {bytes} bytes").expect("a String");
    }
    text
}

#[test]
fn every_file_is_inspected_as_the_text_beside_it_says() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let file = scratch.path().join("file");
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for folder in FOLDERS {
        for name in corpus::names_in(folder) {
            if name.ends_with(".elf") {
                continue;
            }
            let name = format!("{folder}/{name}");
            fs::write(&file, corpus::unpacked(&name)).expect("a small file");
            let found = checked(&file) + &pages(&file) + &records(&file);
            let beside = corpus::root().join(format!("{name}.txt"));
            if env::var_os("UPDATE").is_some() {
                fs::write(&beside, &found).expect("in the repository");
            }
            let expected = fs::read_to_string(&beside).unwrap_or_default();
            if found != expected {
                wrong.push(format!("{name}:\n--- expected\n{expected}--- found\n{found}"));
            }
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 30, "{compared} files: the corpus is part of the repository");
}
