//! The program as others call it: pipes, exit statuses, files it writes.

use crate::common::{all, corpus, program, run, run_with, stdout, stream};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn pipes_and_files_give_the_same_answer() {
    for name in ["qemu-10.0-pc", "qemu-7.2-pc-dirty-bitmap", "qemu-10.0-pc-postcopy.rp"] {
        let bytes = stream(name);
        let of_file = stdout(&run(&["dump", "--format=line", &format!("{name}.bin.zst")]));
        let of_pipe = stdout(&run_with(&["dump", "--format=line", "-"], &bytes));
        let without_first = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
        assert_eq!(without_first(&of_file), without_first(&of_pipe), "{name}");
    }
}

#[test]
fn exit_statuses_tell_what_happened() {
    let status = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(status(&["check", "qemu-10.0-pc.bin.zst"]), Some(0));
    assert_eq!(status(&["check", "nowhere"]), Some(2));
    assert_eq!(status(&["check", "."]), Some(2));
    assert_eq!(status(&["check", "/dev/null"]), Some(2));
    assert_eq!(status(&["check"]), Some(2));
    assert_eq!(status(&["diff", "-", "-"]), Some(2));
    assert_eq!(status(&["extract", "qemu-10.0-pc.bin.zst", "--block", "none", "-o", "-"]), Some(2));
    assert_eq!(status(&["map", "qemu-10.0-pc.bin.zst", "-o", "map.gif"]), Some(2));
    assert_eq!(run_with(&["check", "-"], b"hello").status.code(), Some(2));
    assert_eq!(run_with(&["check", "-"], &stream("qemu-10.0-pc")[..5000]).status.code(), Some(1));
    let text = all(&run_with(&["check", "-"], b"PK\x03\x04"));
    assert_eq!(
        text,
        "snapinspect: stdin: neither a migration stream nor an image: it begins with 50 4b 03 04\nexit status 2\n"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = program()
        .args(["dump", "--format=line", "--pages", "qemu-7.2-pc-dirty-bitmap.bin.zst"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut first = [0; 100];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("some output");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn packed_bombs_end_at_the_limit() {
    let zeros = vec![0; 4 << 20];
    let mut bytes = stream("qemu-10.0-pc");
    bytes.extend_from_slice(&zeros);
    let packed = zstd::encode_all(&bytes[..], 3).expect("memory is enough");
    let output = run_with(&["check", "--max-unpacked", "1000000", "-"], &packed);
    assert_eq!(output.status.code(), Some(2), "{}", all(&output));
    assert!(
        all(&output).contains("unpacks to more than 1000000 bytes; --max-unpacked sets the limit"),
        "{}",
        all(&output)
    );
}

/// The most memory that a process had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

/// Feeds a stream whose RAM is as large as wanted, and keeps the program waiting for its last byte.
#[test]
fn memory_stays_the_same_however_much_ram_there_is() {
    let small = stream("qemu-7.2-pc");
    let header = small.windows(8).position(|window| window == b"\x06pc.ram\0").expect("the block list") - 8;
    let total = u64::from_be_bytes(small[header..header + 8].try_into().expect("8 bytes"));
    let length = u64::from_be_bytes(small[header + 15..header + 23].try_into().expect("8 bytes"));
    let part =
        small.windows(8).position(|window| window == b"\x06pc.ram\0" && window[7] == 0).expect("there");
    assert!(part > 0);
    let large: u64 = 512 << 20;
    let first_part = header
        + small[header..].windows(5).position(|window| window == b"\x02\0\0\0\x02").expect("the first PART");
    let mut head = small[..header].to_vec();
    head.extend_from_slice(&(total - length + large).to_be_bytes());
    head.extend_from_slice(&small[header + 8..header + 15]);
    head.extend_from_slice(&large.to_be_bytes());
    head.extend_from_slice(&small[header + 23..first_part + 5]);
    let page = [0x5a; 4096];
    for command in ["check", "stat", "dump"] {
        let mut child = program()
            .args([command, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(&head).expect("it reads");
        let mut batch = Vec::new();
        for number in 0..large / 4096 {
            let name = if number == 0 { Some(&b"pc.ram"[..]) } else { None };
            migration_stream::ram::put_page_header(&mut batch, name, number * 4096);
            batch.extend_from_slice(&page);
            if batch.len() > 1 << 20 {
                stdin.write_all(&batch).expect("it reads");
                batch.clear();
            }
        }
        stdin.write_all(&batch).expect("it reads");
        let peak = peak_kib(child.id());
        drop(stdin);
        assert_eq!(child.wait().expect("it ends").code(), Some(1), "{command}: the stream is cut off");
        assert!(peak < 64 << 10, "{command}: {peak} KiB");
    }
}

#[test]
fn an_input_is_not_overwritten_by_what_is_taken_out_of_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [file, link] = ["stream", "link"].map(|name| folder.path().join(name));
    std::fs::copy(corpus().join("qemu-10.0-pc.bin.zst"), &file).expect("copied");
    std::os::unix::fs::symlink(&file, &link).expect("linked");
    let before = std::fs::read(&file).expect("there");
    for (input, output) in [(&*file, &*file), (&file, &link), (&link, &file), (Path::new("-"), &file)] {
        let mut extract = program();
        extract.args(["extract", "--vmdesc"]).arg(input).arg("-o").arg(output);
        let output = extract.stdin(File::open(&file).expect("there")).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(2), "{}", all(&output));
        assert!(all(&output).contains("is an input, and would be overwritten"), "{}", all(&output));
        assert!(std::fs::read(&file).expect("there") == before, "changed");
    }
}

#[test]
fn ram_devices_and_the_vmdesc_can_be_taken_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = corpus().join("qemu-10.0-pc.bin.zst");
    let extract = |arguments: &[&str], to: &Path| {
        let output =
            program().args(["extract", "--force"]).arg(&file).args(arguments).arg("-o").arg(to).output();
        let output = output.expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{}", all(&output));
        std::fs::read(to).expect("written")
    };
    let path = folder.path().join("out");
    let bios = extract(&["--block", "pc.bios"], &path);
    // The processor's first instruction, 16 bytes before the end, is a jump.
    assert!([0xea, 0xe9].contains(&bios[bios.len() - 16]), "{:x?}", &bios[bios.len() - 16..]);
    let part = extract(&["--block", "pc.bios", "--start", "0xfff0", "--length", "16"], &path);
    assert_eq!(part, bios[0xfff0..0x1_0000]);
    let device = extract(&["--device", "timer"], &path);
    assert_eq!(device.len(), 24);
    let vmdesc = extract(&["--vmdesc"], &path);
    assert!(serde_json::from_slice::<serde_json::Value>(&vmdesc).expect("JSON")["devices"].is_array());
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).expect("written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what a guest has in memory is secret");
}

#[test]
fn gdb_opens_a_core_and_sees_registers_and_memory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let core = folder.path().join("core");
    let output = program().args(["extract", "qemu-7.2-pc.bin.zst", "--core", "-o"]).arg(&core).output();
    assert_eq!(output.expect("the program runs").status.code(), Some(0));
    let gdb = Command::new("gdb")
        .args(["-q", "-batch", "-nx", "-ex", "info registers eip", "-ex", "x/1xb 0xfffffff0", "-c"])
        .arg(&core)
        .output();
    let Ok(gdb) = gdb else {
        return test_support::not_run("no gdb");
    };
    let text = String::from_utf8_lossy(&gdb.stdout).into_owned();
    let dump = stdout(&run(&["dump", "--format=line", "--device", "cpu", "qemu-7.2-pc.bin.zst"]));
    let eip = dump.lines().find(|line| line.contains("\"env.eip\"")).expect("a register");
    let eip = eip.split("value=").nth(1).and_then(|rest| rest.split(' ').next()).expect("its value");
    // A guest that is not in long mode is one of i386, to QEMU, too.
    assert!(text.contains(&format!("eip            {eip}")), "{eip}: {text}");
    assert!(text.contains("0xfffffff0:\t0xea") || text.contains("0xfffffff0:\t0xe9"), "{text}");
}

#[test]
fn compat_takes_descriptions_allow_lists_and_thresholds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let allow = folder.path().join("allow");
    let list = "\
machine machine - another machine type is wanted here
switchover-start machine - we do not go back
* \"device *\" 2999-12-31 looked through by hand
";
    std::fs::write(&allow, list).expect("a file");
    let status = |arguments: &[&str]| {
        let output = program().arg("compat").args(arguments).output().expect("the program runs");
        (output.status.code(), all(&output))
    };
    let files = ["qemu-7.2-pc.bin.zst", "qemu-10.0-pc.bin.zst"];
    let (code, text) = status(&files);
    assert_eq!(code, Some(1), "{text}");
    let list = allow.to_str().expect("plain");
    let (code, text) = status(&[files[0], files[1], "--allow", list]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("(allowed: another machine type is wanted here)"), "{text}");
    assert!(text.contains("allow-list: line 2: nothing matches it"), "{text}");
    std::fs::write(&allow, "machine machine 2001-01-01 long ago\n").expect("a file");
    let (code, text) = status(&[files[0], files[1], "--allow", list]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("expired on 2001-01-01: long ago"), "{text}");
    std::fs::write(&allow, "machine\n").expect("a file");
    assert_eq!(status(&[files[0], files[1], "--allow", list]).0, Some(2));

    let json = folder.path().join("vmstate.json");
    let description = r#"{"vmschkmachine": {"Name": "pc-i440fx-10.0"}, "i8254": {"Name": "i8254", "version_id": 2,
        "minimum_version_id": 2, "Description": {"name": "i8254", "version_id": 2, "minimum_version_id": 2}}}"#;
    std::fs::write(&json, description).expect("a file");
    let json = json.to_str().expect("plain");
    let (code, text) = status(&[files[1], json, "--fail-on", "breaks"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("version 3, the target knows up to 2"), "{text}");
}

#[test]
fn a_map_shows_as_hot_what_a_destination_requested() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let hot_cells = |more: &[&str]| {
        let picture = folder.path().join("map.svg");
        let output = program()
            .args(["map", "--force", "qemu-10.0-pc.bin.zst", "-o"])
            .arg(&picture)
            .args(more)
            .output()
            .expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{}", all(&output));
        let text = std::fs::read_to_string(&picture).expect("written");
        // Hot cells have a light mark; those of the legend are twice as large as the block's.
        let hot = text.lines().filter(|line| line.contains("Light6)"));
        let width = |line: &str| {
            line.split_once(['h'])?.1.rsplit_once("h-")?.1.split('z').next()?.parse::<u64>().ok()
        };
        hot.filter_map(width).sum::<u64>()
    };
    // Three pages at 2 MiB, and one behind them by the same block's name.
    let mut requests = b"\0\x03\0\x13\0\0\0\0\0\x20\0\0\0\0\x30\0\x06pc.ram".to_vec();
    requests.extend_from_slice(b"\0\x04\0\x0c\0\0\0\0\0\x20\x50\0\0\0\x10\0");
    let path = folder.path().join("requests");
    std::fs::write(&path, requests).expect("a file");
    let (without, with) = (hot_cells(&[]), hot_cells(&["--hot", path.to_str().expect("plain")]));
    assert_eq!(with, without + 4 * 6, "cells of six pixels");
    let output = program()
        .args(["map", "--force", "qemu-10.0-pc.bin.zst", "--hot", "qemu-10.0-pc.bin.zst", "-o"])
        .arg(folder.path().join("map.svg"))
        .output()
        .expect("the program runs");
    assert!(all(&output).contains("expected a hot set or a recorded return path"), "{}", all(&output));
}

#[test]
fn man_pages_and_completions_name_every_command() {
    for command in ["info", "dump", "check", "stat", "diff", "compat", "map", "extract", "convert"] {
        let page = stdout(&run(&["man", command]));
        assert!(page.contains(".TH snapinspect"), "{page}");
        assert!(stdout(&run(&["man"])).contains(command));
        for shell in ["bash", "zsh", "fish"] {
            assert!(stdout(&run(&["completions", shell])).contains(command), "{shell}");
        }
        assert_eq!(run(&[command, "--help"]).status.code(), Some(0));
    }
    assert_eq!(run(&["man", "none"]).status.code(), Some(2));
}
