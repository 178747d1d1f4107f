//! What people read: `info`, `dump` and `diff` without `--format`.

use crate::common::{all, corpus, names, program, run, stdout, stream};

/// No line is wider than 100 columns, and nothing but ASCII goes to a terminal.
fn assert_fits(what: &str, text: &str, width: usize) {
    for line in text.lines() {
        assert!(line.chars().count() <= width, "{what}: {} columns: {line}", line.len());
        assert!(line.is_ascii(), "{what}: {line}");
        assert_eq!(line, line.trim_end(), "{what}: nothing hangs over");
    }
}

#[test]
fn every_output_for_people_fits_into_100_columns() {
    for name in names() {
        for command in ["info", "dump", "stat"] {
            assert_fits(&name, &stdout(&run(&[command, &name])), 100);
        }
    }
    for folder in ["libvirt", "channels"] {
        for entry in std::fs::read_dir(corpus().join("..").join(folder)).expect("the corpus is there") {
            let path = entry.expect("readable").path();
            let path = path.to_str().expect("plain names");
            for command in ["info", "dump"] {
                // The name of the file is the user's, and may be longer.
                let text = stdout(&run(&[command, path]));
                assert_fits(path, &text.replace(path, "FILE"), 100);
            }
        }
    }
}

#[test]
fn every_verdict_for_people_fits_into_100_columns() {
    for (source, target) in [("7.2", "10.0"), ("10.0", "11.1"), ("11.1", "7.2")] {
        for configuration in ["pc", "q35", "pc-virtio-net", "pc-type-7.2", "pc-type-7.2-esp"] {
            let files = [source, target].map(|version| format!("qemu-{version}-{configuration}.bin.zst"));
            if files.iter().all(|file| corpus().join(file).exists()) {
                assert_fits(configuration, &stdout(&run(&["compat", &files[0], &files[1]])), 100);
            }
        }
    }
}

/// A QCOW2 disk of 64 KiB clusters, empty, with internal snapshots of the disk alone that have these names.
fn disk(names: &[&str]) -> Vec<u8> {
    const CLUSTER: usize = 65536;
    let at = |cluster: usize| ((cluster * CLUSTER) as u64).to_be_bytes();
    let mut image = vec![0; 5 * CLUSTER];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16_u32.to_be_bytes());
    put(24, &(1_u64 << 20).to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    put(40, &at(2));
    put(48, &at(3));
    put(56, &1_u32.to_be_bytes());
    put(60, &u32::try_from(names.len()).expect("few").to_be_bytes());
    if !names.is_empty() {
        put(64, &at(1));
    }
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    let mut offset = CLUSTER;
    for name in names {
        put(offset, &at(2));
        put(offset + 8, &1_u32.to_be_bytes());
        put(offset + 14, &u16::try_from(name.len()).expect("short").to_be_bytes());
        put(offset + 40, name.as_bytes());
        offset += (40 + name.len()).next_multiple_of(8);
    }
    put(3 * CLUSTER, &at(4));
    for cluster in 0..5 {
        put(4 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

#[test]
fn a_disk_without_a_snapshot_of_a_vm_is_called_that() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk.qcow2");
    let path = path.to_str().expect("plain");
    std::fs::write(path, disk(&[])).expect("a file");
    for command in ["check", "stat", "dump"] {
        let output = run(&[command, path]);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", all(&output));
        assert!(stdout(&output).contains("a qcow2 disk without a snapshot of a VM"), "{}", all(&output));
        assert!(!all(&output).contains("VM-state header"), "{}", all(&output));
    }
    assert_eq!(stdout(&run(&["stat", path])).lines().count(), 1, "no table of nothing");
    std::fs::write(path, disk(&["first", "second"])).expect("a file");
    for command in ["check", "stat", "dump"] {
        let output = run(&[command, path]);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", all(&output));
        let wanted =
            "a qcow2 disk whose internal snapshots (first, second) are of the disk alone, without RAM";
        assert!(all(&output).contains(wanted), "{}", all(&output));
    }
}

#[test]
fn progress_goes_on_while_a_part_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let out = out.to_str().expect("plain");
    let multifd = "../channels/qemu-10.0-pc-multifd-none";
    let channels = [format!("--channel={multifd}.0.bin.zst"), format!("--channel={multifd}.1.bin.zst")];
    let main = format!("{multifd}.main.bin.zst");
    let rewritten = ["convert", &channels[0], &channels[1], &main, out, "--to=stream"];
    for command in [
        &["extract", "qemu-10.0-pc.bin.zst", "--block=pc.ram", "-o", out][..],
        &["extract", "qemu-10.0-pc.bin.zst", "--core", "-o", out],
        &["convert", "qemu-10.0-pc.bin.zst", out, "--to=stream"],
        &["convert", "qemu-10.0-pc.bin.zst", out, "--to=mapped-ram"],
        &["convert", "qemu-10.0-pc.bin.zst", out, "--to=image"],
        &rewritten,
    ] {
        let output = run(&[&["--progress=json"], command].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}: {}", all(&output));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains(r#""phase":"writing""#), "{command:?}: {words}");
        std::fs::remove_file(out).expect("written");
    }
}

#[test]
fn the_width_follows_the_terminal() {
    let output =
        program().env("COLUMNS", "72").args(["dump", "qemu-10.0-pc.bin.zst"]).output().expect("it runs");
    assert_fits("72 columns", &stdout(&output), 72);
    let wide =
        program().env("COLUMNS", "150").args(["dump", "qemu-10.0-pc.bin.zst"]).output().expect("it runs");
    assert!(stdout(&wide).lines().any(|line| line.len() > 100));
}

#[test]
fn dumps_for_people_are_as_pinned() {
    for name in ["qemu-7.2-pc", "qemu-10.0-pc-postcopy", "qemu-10.0-pc-postcopy.rp", "qemu-10.0-pc-nothing"] {
        let text = all(&run(&["dump", &format!("{name}.bin.zst")]));
        insta::assert_snapshot!(format!("people-dump-{name}"), text);
    }
    let main = "../channels/qemu-10.0-pc-multifd-zstd.main.bin.zst";
    insta::assert_snapshot!("people-dump-multifd", all(&run(&["dump", "--section", "ram", main])));
    let file = "qemu-7.2-pc.bin.zst";
    insta::assert_snapshot!("people-dump-hex", all(&run(&["dump", "--device", "i8254", "--hex", file])));
}

#[test]
fn a_dump_for_people_has_registers_times_and_texts() {
    let dump = stdout(&run(&["dump", "qemu-10.0-pc.bin.zst"]));
    for wanted in [
        "rax=0x37a470",
        "env.segs[1] (cs)",
        "runstate                  \"running\"",
        "base_rtc                  2026-11-21 03:23:28 UTC",
        "periodic_timer            not armed",
        "env.fpregs[0] to [7]      tmp.tmp_mant=0x0 tmp.tmp_exp=0x0",
        "--format line shows every record",
    ] {
        assert!(dump.contains(wanted), "no {wanted:?} in:\n{dump}");
    }
    assert!(!dump.contains("why=") && !dump.contains("=-"), "{dump}");
    // Whatever is folded is there once: as many devices as in the complete form.
    let lines = stdout(&run(&["dump", "--format=line", "qemu-10.0-pc.bin.zst"]));
    let devices = |text: &str, word: &str| text.lines().filter(|line| line.contains(word)).count();
    assert_eq!(devices(&dump, "  device "), devices(&lines, " device id="));
}

#[test]
fn a_long_ram_section_is_shortened_and_can_be_asked_for() {
    let file = "qemu-10.0-pc-postcopy.bin.zst";
    let dump = stdout(&run(&["dump", file]));
    assert!(dump.contains(" more run") && dump.contains("(--section ram shows all)"), "{dump}");
    let section = stdout(&run(&["dump", "--section", "ram", file]));
    assert!(!section.contains(" more run"));
    let lines = stdout(&run(&["dump", "--format=line", "--section", "ram", file]));
    let runs = lines.lines().filter(|line| line.contains("_run ")).count();
    let shown =
        section.lines().filter(|line| line.contains("with content") || line.contains("zero page")).count();
    assert_eq!(runs, shown);
}

#[test]
fn a_difference_is_summed_up_first_and_only_what_differs_is_shown() {
    let text = all(&run(&["diff", "qemu-7.2-pc.bin.zst", "qemu-10.0-pc.bin.zst"]));
    insta::assert_snapshot!("people-diff", text);
    assert_fits("diff", &text, 100);
    assert!(text.starts_with("different: 23 of 1,072 pages, "), "{text}");
    assert!(text.ends_with("exit status 1\n"));
    let equal = all(&run(&["diff", "qemu-7.2-pc.bin.zst", "qemu-7.2-pc.bin.zst"]));
    assert_eq!(equal, "no difference: 1,072 pages and 27 devices are equal\nexit status 0\n");
    let lines = stdout(&run(&["diff", "--json", "qemu-7.2-pc.bin.zst", "qemu-10.0-pc.bin.zst"]));
    let last: serde_json::Value =
        serde_json::from_str(lines.lines().last().expect("a summary")).expect("JSON");
    assert_eq!((&last["type"], &last["pages"], &last["of"]), (&"summary".into(), &23.into(), &1072.into()));
    let fields = lines.lines().filter(|line| line.contains("\"type\":\"field\"")).count();
    assert_eq!(last["fields"], fields);
}

/// The file's times are those of the checkout.
fn without_times(text: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once("the file was modified ") {
        Some((before, _)) => format!("{before}the file was modified TIME"),
        None => match line.split_once(" long, ") {
            Some((before, _)) if line.starts_with("  what") => format!("{before} long, SIZE on disk"),
            _ => line.to_owned(),
        },
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn info_is_one_screen() {
    for name in ["qemu-10.0-pc", "qemu-7.2-q35-iommu", "qemu-10.0-pc-postcopy", "qemu-7.2-s390x-virtio"] {
        let text = all(&run(&["info", &format!("{name}.bin.zst")]));
        assert!(text.lines().count() <= 24, "{text}");
        insta::assert_snapshot!(format!("people-info-{name}"), without_times(&text));
    }
    let libvirt = all(&run(&["info", "../libvirt/libvirt-9.0-qemu-7.2-running.bin.zst"]));
    insta::assert_snapshot!("people-info-libvirt", without_times(&libvirt));
    for (options, whole) in
        [(&["info"][..], "read to its end"), (&["info", "--check"], "checked to the last byte")]
    {
        let text = stdout(&run(&[options, &["qemu-10.0-pc.bin.zst"]].concat()));
        assert!(text.contains(whole), "{text}");
    }
}

#[test]
fn info_says_that_a_stream_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cut.stream");
    let bytes = stream("qemu-10.0-pc");
    std::fs::write(&path, &bytes[..bytes.len() - 5000]).expect("a file");
    let output = run(&["info", path.to_str().expect("plain")]);
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    assert!(stdout(&output).contains("verdict     WRONG: 1 error, the first: "), "{}", all(&output));
    let json = run(&["info", "--json", path.to_str().expect("plain")]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("one object");
    assert_eq!(json["verdict"]["errors"], 1);
}

#[test]
fn info_of_stdin_checks_nothing_twice() {
    assert_eq!(run(&["info", "--check", "-"]).status.code(), Some(2));
    let output = crate::common::run_with(&["info", "-"], &stream("qemu-10.0-pc"));
    assert!(stdout(&output).starts_with("stdin\n  what        migration stream\n"), "{}", all(&output));
}

#[test]
fn progress_for_programs_is_lines_of_json_on_stderr() {
    let output = run(&["check", "--progress=json", "qemu-10.0-pc.bin.zst"]);
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    assert!(!text.is_empty());
    for line in text.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("one object per line");
        assert_eq!((&object["type"], &object["phase"]), (&"progress".into(), &"reading".into()), "{line}");
        assert!(object["done_bytes"].is_number(), "{line}");
    }
    assert_eq!(stdout(&output), stdout(&run(&["check", "qemu-10.0-pc.bin.zst"])), "the answer is the same");
    assert!(run(&["check", "qemu-10.0-pc.bin.zst"]).stderr.is_empty());
}
