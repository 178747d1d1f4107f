//! Arrays, as each QEMU describes them: 7.2 gives all elements of structures an `index`, 10.0 all
//! but the last, 11.1 none.

use crate::common::{corpus, names, run, stdout, stream};
use serde_json::Value;
use snapinspect::compat::{Judgement, Shape, Verdict, judge};
use snapinspect::input::{OpenOptions, open_reader};
use std::collections::BTreeSet;
use std::io::{Cursor, Read};

const VERSIONS: [&str; 3] = ["7.2", "10.0", "11.1"];

fn json_lines(arguments: &[&str]) -> Vec<Value> {
    let text = stdout(&run(arguments));
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object per line")).collect()
}

/// The paths of one device's fields, in their order; the device by the end of its name.
fn paths(stream: &str, device: &str) -> Vec<String> {
    let mut inside = false;
    let mut paths = Vec::new();
    for line in json_lines(&["dump", "--json", stream]) {
        match line["type"].as_str() {
            Some("device") => inside = line["name"].as_str().is_some_and(|name| name.ends_with(device)),
            Some("field") if inside => paths.push(line["path"].as_str().expect("a text").to_owned()),
            _ => {}
        }
    }
    assert!(!paths.is_empty(), "{stream} has {device}");
    paths
}

fn shape(name: &str) -> Shape {
    // A pipe does not tell the page size before its end.
    let options =
        OpenOptions { page_size: Some(migration_stream::PageSize::DEFAULT), ..OpenOptions::default() };
    let opened = open_reader(name, Cursor::new(stream(name)), &options).expect("a stream");
    Shape::of_opened(opened, &options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn dump(version: &str) -> Shape {
    let path = corpus().join(format!("../dumps/qemu-{version}-pc.json.zst"));
    let mut text = Vec::new();
    let file = std::fs::File::open(path).expect("a file of the corpus");
    let mut reader = zstd::Decoder::new(file).expect("packed with zstd");
    reader.read_to_end(&mut text).expect("packed with zstd");
    Shape::of_dump(version, &text).expect("QEMU wrote it")
}

fn worst(judgements: &[Judgement]) -> Verdict {
    judgements.iter().map(|judgement| judgement.verdict).max().unwrap_or(Verdict::Safe)
}

/// Streams of one QEMU's PCs, with a vmdesc, that go to a destination.
fn streams_of(version: &str) -> Vec<String> {
    let of_pc = |name: &str| ["pc", "q35", "microvm"].iter().any(|machine| name.starts_with(machine));
    names()
        .into_iter()
        .filter_map(|name| Some(name.strip_suffix(".bin.zst")?.to_owned()))
        .filter(|name| name.strip_prefix(&format!("qemu-{version}-")).is_some_and(of_pc))
        .filter(|name| !["-no-vmdesc", "-nothing", ".rp"].iter().any(|end| name.ends_with(end)))
        .collect()
}

#[test]
fn no_two_fields_of_a_device_have_one_path() {
    let mut arrays = 0;
    for name in names() {
        let mut device = String::new();
        let mut seen = BTreeSet::new();
        for line in json_lines(&["dump", "--json", &name]) {
            match line["type"].as_str() {
                Some("device") => {
                    device = line["name"].to_string();
                    seen.clear();
                }
                Some("field") => {
                    let path = line["path"].as_str().expect("a text").to_owned();
                    arrays += usize::from(path.contains("[1]"));
                    assert!(seen.insert(path.clone()), "{name}: {device} has {path} twice");
                }
                _ => {}
            }
        }
    }
    assert!(arrays > 1000, "{arrays} second elements");
}

#[test]
fn elements_have_the_same_names_whichever_qemu_wrote_them() {
    let of = |version: &str| paths(&format!("qemu-{version}-pc-usb-xhci.bin.zst"), "/xhci");
    assert!(of("11.1").contains(&"xhci.intr[15].iman".to_owned()), "{:?}", of("11.1"));
    assert_eq!(of("10.0"), of("11.1"));
    assert_eq!(of("7.2"), of("11.1"));
    let ide = |version: &str| paths(&format!("qemu-{version}-pc-ide.bin.zst"), "/ide");
    for path in ["bmdma[0].cmd", "bmdma[1].cmd", "bus[0].cmd", "bus[1].unit", "bus[1].ifs[1].mult_sectors"] {
        assert!(ide("11.1").contains(&path.to_owned()), "{path}: {:?}", ide("11.1"));
    }
    assert_eq!(ide("10.0"), ide("11.1"));
    // One of two NULL pointers in an array that the destination allocates.
    let queues = paths("qemu-11.1-pc-nvme.bin.zst", "/nvme");
    for path in ["sq[0]", "sq[64]", "cq[1]"] {
        assert!(queues.contains(&path.to_owned()), "{path}: {queues:?}");
    }
}

#[test]
fn diff_compares_an_element_with_the_one_of_the_same_index() {
    for (a, b) in [("10.0", "11.1"), ("11.1", "7.2")] {
        let [a, b] = [a, b].map(|version| format!("qemu-{version}-pc-usb-xhci.bin.zst"));
        let lines = json_lines(&["diff", "--json", "--devices-only", &a, &b]);
        let of_arrays: Vec<_> = lines
            .iter()
            .filter(|line| {
                line["type"] == "field" && line["path"].as_str().is_some_and(|path| path.contains('['))
            })
            .filter(|line| !line["only"].is_null())
            .collect();
        assert_eq!(of_arrays, [&Value::Null; 0], "{a} {b}");
    }
}

#[test]
fn a_stream_has_no_difference_from_the_dump_of_its_own_qemu() {
    for version in VERSIONS {
        let dump = dump(version);
        let streams = streams_of(version);
        assert!(streams.len() > 20, "{streams:?}");
        for name in streams {
            let differences: Vec<_> = judge(&shape(&name), &dump)
                .into_iter()
                // The dump was made with another type of machine, which makes no difference to devices.
                .filter(|judgement| judgement.is_difference() && judgement.rule != "machine")
                .collect();
            assert_eq!(differences, [], "{name}");
        }
    }
}

#[test]
fn what_one_qemu_loads_of_another_the_dump_does_not_call_broken() {
    // Those that QEMU itself loaded.
    for configuration in ["pc-type-7.2", "q35-type-7.2", "pc-type-5.2", "microvm"] {
        for source in VERSIONS {
            let source_shape = shape(&format!("qemu-{source}-{configuration}"));
            for target in VERSIONS {
                let mut judgements = judge(&source_shape, &dump(target));
                judgements.retain(|judgement| judgement.rule != "machine");
                assert!(
                    worst(&judgements) < Verdict::Breaks,
                    "{source} {configuration} {target}: {judgements:?}"
                );
            }
        }
    }
}

#[test]
fn a_structure_of_a_newer_version_breaks_and_may_break_where_bytes_are_not_counted() {
    let newest = shape("qemu-11.1-pc-type-7.2-esp");
    for target in ["7.2", "10.0"] {
        for (what, target_shape) in
            [("stream", shape(&format!("qemu-{target}-pc-type-7.2-esp"))), ("dump", dump(target))]
        {
            let judgements = judge(&newest, &target_shape);
            let found = judgements.iter().find(|judgement| judgement.rule == "structure-version");
            let found = found.unwrap_or_else(|| panic!("{target} {what}: {judgements:?}"));
            let expected = if what == "stream" { Verdict::Breaks } else { Verdict::MayBreak };
            assert_eq!(found.verdict, expected, "{target} {what}: {found:?}");
            assert!(found.path.ends_with(": esp"), "{found:?}");
        }
    }
    // Other fields of as many bytes: 7.2 loads this one (corpus/LOADS), and its dump does not call it broken.
    let mut judgements = judge(&shape("qemu-10.0-pc-type-7.2-esp"), &dump("7.2"));
    judgements.retain(|judgement| judgement.rule != "machine");
    assert!(judgements.iter().any(|judgement| judgement.rule == "structure-version"), "{judgements:?}");
    assert_eq!(worst(&judgements), Verdict::MayBreak, "{judgements:?}");
    // The other way the device says what version it was of, and QEMU loads it.
    let judgements = judge(&shape("qemu-10.0-pc-type-7.2-esp"), &newest);
    assert_eq!(worst(&judgements), Verdict::MayBreak, "{judgements:?}");
}

#[test]
fn findings_of_one_cause_are_one_line_and_an_allow_list_names_one_of_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("plain names").to_owned();
    let (json, allow) = (path("json"), path("allow"));
    let packed =
        std::fs::read(corpus().join("../dumps/qemu-11.1-pc.json.zst")).expect("a file of the corpus");
    std::fs::write(&json, zstd::decode_all(&packed[..]).expect("packed with zstd")).expect("a small file");
    let source = "qemu-11.1-pc-usb-xhci.bin.zst";
    let of_rings = |arguments: &[&str]| -> Vec<Value> {
        let arguments = [&["compat", "--format", "json", source, &json][..], arguments].concat();
        let lines = json_lines(&arguments);
        lines
            .into_iter()
            .filter(|line| line["text"].as_str().is_some_and(|text| text.contains("\"ev_buffer\"")))
            .collect()
    };
    let lines = of_rings(&[]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["count"], &lines[0]["rule"]), (&16.into(), &"field-conditional".into()));
    assert!(lines[0]["path"].as_str().is_some_and(|path| path.ends_with("xhci: intr[*]")), "{lines:?}");
    assert!(lines[0]["paths"][3].as_str().is_some_and(|path| path.ends_with("xhci: intr[3]")), "{lines:?}");

    std::fs::write(&allow, "field-conditional \"*: intr[3]\" - seen\n").expect("a small file");
    let lines = of_rings(&["--allow", &allow]);
    let counts: Vec<_> = lines.iter().map(|line| (&line["count"], &line["allowed"])).collect();
    let (fifteen, one) = (Value::from(15), Value::from(1));
    assert_eq!(counts, [(&fifteen, &Value::Null), (&one, &Value::from("seen"))]);

    let text = stdout(&run(&["compat", source, &json]));
    let line = text.lines().find(|line| line.contains("\"ev_buffer\"")).expect("a line of text");
    assert!(line.starts_with("may break field-conditional    x16 device 0000:"), "{line}");
    let last = text.lines().last().expect("a summary");
    assert!(last.contains("things could not be compared"), "{last}");
}
