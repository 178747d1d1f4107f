//! Multifd channels put together with their main stream: RAM as on one channel, and what is wrong
//! with a channel.

use crate::common::{all, corpus, program, run, stdout, unpacked};
use std::path::{Path, PathBuf};

const VERSIONS: [&str; 2] = ["7.2", "10.0"];
const COMPRESSIONS: [&str; 3] = ["none", "zlib", "zstd"];

fn file(version: &str, what: &str) -> String {
    format!("../channels/qemu-{version}-pc-multifd-{what}.bin.zst")
}

/// A command on a main stream with its channels, the second one first: their order does not matter.
fn joined(version: &str, compression: &str, arguments: &[&str]) -> std::process::Output {
    let [main, first, second] =
        ["main", "0", "1"].map(|what| file(version, &format!("{compression}.{what}")));
    let (command, rest) = arguments.split_first().expect("a command");
    let mut program = program();
    program.arg(command).arg(main).args(rest).args(["--channel", &second, "--channel", &first]);
    program.output().expect("the program runs")
}

fn for_each(check: impl Fn(&str, &str)) {
    for version in VERSIONS {
        for compression in COMPRESSIONS {
            check(version, compression);
        }
    }
}

/// Contents of a block, taken out by the program.
fn block(arguments: &[&str]) -> Vec<u8> {
    let output = program().arg("extract").args(arguments).args(["--block", "pc.ram", "-o", "-"]).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn ram_of_all_channels_is_that_of_the_same_guest_on_one() {
    for_each(|version, compression| {
        let single = file(version, "single");
        let output = joined(version, compression, &["diff", "--format=line", &single]);
        // The clock goes on in a stopped guest, and the commands are about the channel.
        let differences: Vec<_> = stdout(&output)
            .lines()
            .filter(|line| !line.contains("\"mc146818rtc/0\"") && !line.contains("property=commands"))
            .map(str::to_owned)
            .collect();
        assert_eq!(differences, [""; 0], "{version} {compression}: {}", all(&output));

        let [main, first, second] =
            ["main", "0", "1"].map(|what| file(version, &format!("{compression}.{what}")));
        let here = block(&[&main, "--channel", &first, "--channel", &second]);
        assert!(here == block(&[&single]), "{version} {compression}");
        assert!(here.iter().any(|&byte| byte != 0));
    });
}

#[test]
fn every_page_and_every_byte_is_accounted_for() {
    for_each(|version, compression| {
        let check = joined(version, compression, &["check"]);
        assert_eq!(check.status.code(), Some(0), "{}", all(&check));
        assert!(stdout(&check).ends_with(": 0 errors, 0 warnings, 0 notes\n"), "{}", all(&check));
        let coverage = joined(version, compression, &["dump", "--coverage"]);
        assert_eq!(coverage.status.code(), Some(0), "{}", all(&coverage));
        assert_eq!(stdout(&coverage).matches("complete=true").count(), 3, "{}", all(&coverage));
        let stat = joined(version, compression, &["stat", "--json"]);
        let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).expect("JSON");
        let single = run(&["stat", "--json", &file(version, "single")]);
        let single: serde_json::Value = serde_json::from_slice(&single.stdout).expect("JSON");
        for (number, block) in single["blocks"].as_array().expect("a list").iter().enumerate() {
            for key in ["name", "bytes", "normal", "zero", "missing"] {
                assert_eq!(stat["blocks"][number][key], block[key], "{version} {compression}: {key}");
            }
        }
    });
}

#[test]
fn they_become_every_other_form() {
    for_each(|version, compression| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for form in ["stream", "image", "mapped-ram"] {
            let to = folder.path().join(form);
            let to = to.to_str().expect("plain");
            let converted = joined(version, compression, &["convert", to, "--to", form]);
            assert_eq!(converted.status.code(), Some(0), "{form}: {}", all(&converted));
            let diff = joined(version, compression, &["diff", "--format=line", to]);
            let pages = stdout(&diff).lines().any(|line| line.contains("pages") || line.contains("block"));
            assert!(!pages, "{form}: {}", all(&diff));
        }
    });
}

#[test]
fn dump_shows_packets_where_they_belong() {
    let dump = joined("7.2", "none", &["dump", "--format=line", "--section", "ram"]);
    let kinds: Vec<_> = stdout(&dump)
        .lines()
        .filter_map(|line| {
            let kind = line.split(' ').nth(1)?;
            let channel = line.contains(" on_channel=");
            ["section_part", "section_end", "ram_end_of_section", "multifd_data"]
                .contains(&kind)
                .then(|| format!("{}{kind}", if channel { "channel " } else { "" }))
        })
        .collect();
    let expected = [
        "ram_end_of_section",
        "section_part",
        "channel multifd_data",
        "channel multifd_data",
        "ram_end_of_section",
        "section_end",
        "ram_end_of_section",
    ];
    assert_eq!(kinds, expected, "{}", all(&dump));
}

/// A channel of QEMU 10.0, changed.
struct Changed {
    folder: tempfile::TempDir,
}

impl Changed {
    fn new(change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut bytes = unpacked("channels/qemu-10.0-pc-multifd-none.1");
        change(&mut bytes);
        std::fs::write(folder.path().join("channel"), bytes).expect("a file");
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("channel")
    }
}

/// What a check says of the main stream with its first channel and `channel`.
fn check_with(channel: &Path) -> String {
    let output = program()
        .args(["check", &file("10.0", "none.main"), "--channel", &file("10.0", "none.0"), "--channel"])
        .arg(channel)
        .output()
        .expect("the program runs");
    all(&output)
}

#[test]
fn what_is_wrong_with_a_channel_is_found() {
    let bytes = unpacked("channels/qemu-10.0-pc-multifd-none.1");
    // The first packet with pages that have content.
    let header = 1344;
    let mut at = 64;
    while bytes[at + 19] == 0 {
        at += header;
    }
    let found = |expected: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let text = check_with(&Changed::new(change).path());
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(text.ends_with("exit status 1\n"), "{text}");
    };
    found("error multifd channel 1: truncated", &|bytes| bytes.truncate(at + header + 100));
    found("error multifd channel 1: ends without the SYNC number", &|bytes| bytes.truncate(at));
    found("error multifd channel 1: it is channel 0, which was given before", &|bytes| bytes[24] = 0);
    found("error multifd channel 1: UUID 07000000-", &|bytes| bytes[8] = 7);
    found("error multifd channel 1: block \"qc.ram\" is not in the block list", &|bytes| {
        bytes[at + 64] = b'q';
    });
    found("whose used length is 0x400000", &|bytes| bytes[at + 320 + 4] = 0x7f);
    found("warning multifd channel 1: 1 packets with pages behind the last SYNC", &|bytes| {
        let packet = bytes[at..at + header].to_vec();
        let data = bytes[at + header..at + header + 4096 * usize::from(packet[19])].to_vec();
        bytes.extend_from_slice(&packet);
        bytes.extend_from_slice(&data);
    });
}

#[test]
fn a_channel_that_is_not_there_is_missed() {
    for_each(|version, compression| {
        for channel in ["0", "1"] {
            let [main, channel] =
                ["main", channel].map(|what| file(version, &format!("{compression}.{what}")));
            let check = run(&["check", &main, "--channel", &channel]);
            assert_eq!(check.status.code(), Some(1), "{}", all(&check));
            assert!(all(&check).contains("a channel is missing"), "{}", all(&check));
            let to = tempfile::tempdir().expect("a temporary folder");
            let to = to.path().join("out");
            let to = to.to_str().expect("plain");
            let convert = run(&["convert", &main, to, "--to", "stream", "--channel", &channel]);
            assert_eq!(convert.status.code(), Some(1), "{}", all(&convert));
            assert!(!Path::new(to).exists());
        }
    });
}

#[test]
fn what_is_no_channel_or_has_none_is_refused() {
    let said = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", all(&output));
        all(&output)
    };
    let main = file("10.0", "none.main");
    let text = said(&["check", &main, "--channel", &main]);
    assert!(text.contains("a migration stream, expected a multifd channel"), "{text}");
    let channel = file("10.0", "none.0");
    let text = said(&["check", &channel, "--channel", &channel]);
    assert!(text.contains("a multifd channel; multifd channels belong to a migration stream"), "{text}");
    let text = said(&["check", &main, "--channel", "nowhere"]);
    assert!(text.contains("nowhere: No such file"), "{text}");
    assert!(corpus().join(&main).exists());
}
