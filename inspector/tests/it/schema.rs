//! `SCHEMA.md` is what `--json` writes, no more and no less.

use crate::common::{names, run, stdout};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// From the document: for each command and type, the keys that always and those that sometimes are there.
type Schema = BTreeMap<(String, String), (BTreeSet<String>, BTreeSet<String>)>;

fn schema() -> Schema {
    let text = include_str!("../../SCHEMA.md");
    let mut schema = Schema::new();
    let mut command = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            command = title.trim_matches('`').to_owned();
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, kind, keys, ..] = cells[..] else { continue };
        let Some(kind) = kind.strip_prefix('`').and_then(|kind| kind.strip_suffix('`')) else { continue };
        let mut always = BTreeSet::new();
        let mut sometimes = BTreeSet::new();
        for key in keys.split(',').map(str::trim).filter(|key| !key.is_empty()) {
            let name = key.trim_end_matches('?').trim_matches('`').to_owned();
            if key.ends_with('?') {
                sometimes.insert(name)
            } else {
                always.insert(name)
            };
        }
        schema.insert((command.clone(), kind.to_owned()), (always, sometimes));
    }
    assert!(schema.len() > 30, "the document has tables");
    schema
}

fn check(schema: &Schema, command: &str, common: &[&str], text: &str, seen: &mut BTreeSet<String>) {
    for line in text.lines() {
        let Value::Object(object) = serde_json::from_str(line).expect("one JSON object per line") else {
            panic!("not an object: {line}");
        };
        let kind = object["type"].as_str().expect("type is a text").to_owned();
        let Some((always, sometimes)) = schema.get(&(command.to_owned(), kind.clone())) else {
            panic!("{command}: type {kind} is not in the document: {line}");
        };
        let mut keys: BTreeSet<_> = object.keys().cloned().collect();
        keys.remove("type");
        for key in common {
            assert!(keys.remove(*key), "{command} {kind}: {key} is missing: {line}");
        }
        for key in always {
            assert!(keys.remove(key), "{command} {kind}: {key} is missing: {line}");
        }
        keys.retain(|key| !sometimes.contains(key));
        assert!(keys.is_empty(), "{command} {kind}: not in the document: {keys:?}");
        seen.insert(format!("{command} {kind}"));
    }
}

#[test]
fn json_is_as_documented() {
    let schema = schema();
    let mut seen = BTreeSet::new();
    for name in names() {
        let dump = run(&["dump", "--json", "--hex", &name]);
        check(&schema, "dump", &["offset", "length"], &stdout(&dump), &mut seen);
        let pages = run(&["dump", "--json", "--pages", "--section", "ram", &name]);
        check(&schema, "dump", &["offset", "length"], &stdout(&pages), &mut seen);
        let coverage = run(&["dump", "--json", "--coverage", &name]);
        check(&schema, "dump", &["offset", "length"], &stdout(&coverage), &mut seen);
        let checked = run(&["check", "--format", "json", &name]);
        check(&schema, "check", &[], &stdout(&checked), &mut seen);
    }
    let (old, new) = ("qemu-7.2-pc-uuid.bin.zst", "qemu-10.0-q35.bin.zst");
    let compat = run(&["compat", "--format", "json", old, new]);
    check(&schema, "compat", &[], &stdout(&compat), &mut seen);
    for (a, b) in [(old, new), ("qemu-7.2-pc.bin.zst", "qemu-10.0-pc-no-vmdesc.bin.zst")] {
        let diff = run(&["diff", "--json", a, b]);
        check(&schema, "diff", &["offset", "length"], &stdout(&diff), &mut seen);
    }
    // What is in the text of `info` is what it writes.
    let text = include_str!("../../SCHEMA.md");
    let section =
        text.split("## `info`").nth(1).and_then(|rest| rest.split("## ").next()).expect("a section");
    let info: Value = serde_json::from_str(&stdout(&run(&["info", "--json", new]))).expect("one object");
    for key in info.as_object().expect("an object").keys() {
        assert!(section.contains(&format!("`{key}`")), "info: {key} is not in the document");
    }
    for expected in [
        "diff summary",
        "dump page",
        "dump field",
        "dump return_path",
        "check summary",
        "compat judgement",
        "diff field",
    ] {
        assert!(seen.contains(expected), "{expected} was not tried: {seen:?}");
    }
}
