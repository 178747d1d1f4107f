//! RAM that is not in a file is not zeros: no command shows, compares or writes it, and each says
//! where it is.

use crate::common::{all, run, stdout, unpacked};
use std::path::Path;
use std::process::Output;

const SHARED: &str =
    "capability x-ignore-shared: it is in the memory or file that source and destination share";
const CPR: &str = "migration mode cpr-exec or cpr-transfer: QEMU hands it over in memory";
const MULTIFD: &str = "it was sent on multifd channels, which are not here";

fn elsewhere(name: &str) -> String {
    format!("../elsewhere/qemu-{name}.bin.zst")
}

/// Files of which `pc.ram` is elsewhere: name, what the inspector calls that, and why it is.
fn cases() -> Vec<(String, &'static str, &'static str)> {
    let mut cases = Vec::new();
    for version in ["7.2", "10.0", "11.1"] {
        cases.push((elsewhere(&format!("{version}-pc-ignore-shared")), "ignored_shared", SHARED));
    }
    for name in ["11.1-pc-mapped-ignore-shared", "11.1-pc-mapped-ignore-shared-multifd"] {
        cases.push((elsewhere(name), "ignored_shared", SHARED));
    }
    cases.push((elsewhere("11.1-pc-cpr-exec"), "cpr", CPR));
    // Before 8.1 nothing in the main stream says that RAM travels elsewhere.
    for version in ["7.2", "10.0"] {
        let main = format!("../channels/qemu-{version}-pc-multifd-none.main.bin.zst");
        cases.push((main, "multifd", MULTIFD));
    }
    cases
}

/// Refused with status 2 and in words that say where RAM is; nothing was written.
fn refused(output: &Output, reason: &str, written: &Path) {
    assert_eq!(output.status.code(), Some(2), "{}", all(output));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains(&format!("the RAM of block \"pc.ram\" is not in it: {reason}")), "{words}");
    assert!(output.stdout.is_empty(), "{}", all(output));
    assert!(!written.exists(), "{words}");
}

#[test]
fn extract_refuses_ram_that_is_elsewhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let name = out.to_str().expect("plain");
    for (file, _, reason) in cases() {
        refused(&run(&["extract", &file, "--block", "pc.ram", "-o", name]), reason, &out);
        refused(&run(&["extract", &file, "--core", "-o", name]), reason, &out);
    }
    // Any other block is there.
    let file = elsewhere("11.1-pc-mapped-ignore-shared");
    let output = run(&["extract", &file, "--block", "pc.bios", "-o", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert!(output.stdout.iter().any(|&byte| byte != 0));
}

#[test]
fn convert_refuses_forms_that_would_make_zeros_of_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let name = out.to_str().expect("plain");
    for (file, place, reason) in cases() {
        refused(&run(&["convert", &file, name, "--to", "image"]), reason, &out);
        if place != "ignored_shared" {
            refused(&run(&["convert", &file, name, "--to", "mapped-ram"]), reason, &out);
        }
    }
}

#[test]
fn ignored_blocks_stay_ignored_in_streams_and_mapped_ram_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    for (file, place, _) in cases().into_iter().filter(|(_, place, _)| *place == "ignored_shared") {
        for form in ["stream", "mapped-ram"] {
            let to = path(form);
            let output = run(&["convert", &file, &to, "--to", form]);
            assert_eq!(output.status.code(), Some(0), "{file} to {form}: {}", all(&output));
            // Of the same RAM nothing but the part that is elsewhere is not compared.
            let diff = stdout(&run(&["diff", "--format", "line", &file, &to]));
            let lines: Vec<_> = diff
                .lines()
                .filter(|line| !line.contains("property=capabilities") && !line.contains("property=commands"))
                .collect();
            let expected = format!("-          not_compared block=\"pc.ram\" a={place} b={place}");
            assert_eq!(lines, [expected], "{file} to {form}");
            let check = run(&["check", &to]);
            assert_eq!(check.status.code(), Some(0), "{}", all(&check));
            std::fs::remove_file(&to).expect("written before");
        }
    }
    // And what is there is there, address or not.
    for version in ["10.0", "11.1"] {
        let file = elsewhere(&format!("{version}-pc-mapped-ignore-shared-private"));
        let to = path("image");
        let output = run(&["convert", &file, &to, "--to", "image"]);
        assert_eq!(output.status.code(), Some(0), "{}", all(&output));
        let diff = stdout(&run(&["diff", "--format", "line", &file, &to]));
        assert!(!diff.contains("pages") && !diff.contains("not_compared"), "{diff}");
        // Also from the image, which has no record of blocks that are all zero.
        let again = path("again");
        let output = run(&["convert", &to, &again, "--to", "image"]);
        assert_eq!(output.status.code(), Some(0), "{}", all(&output));
        std::fs::remove_file(&again).expect("written before");
        std::fs::remove_file(&to).expect("written before");
    }
}

#[test]
fn diff_and_compat_never_call_it_the_same() {
    for (file, place, reason) in cases() {
        let diff = run(&["diff", "--format", "line", &file, &file]);
        assert_eq!(diff.status.code(), Some(1), "{}", all(&diff));
        let line = format!("not_compared block=\"pc.ram\" a={place} b={place}");
        assert!(stdout(&diff).contains(&line), "{}", all(&diff));
        let people = run(&["diff", &file, &file]);
        assert_eq!(people.status.code(), Some(1), "{}", all(&people));
        let place = place.replace('_', " ");
        let words =
            format!("not compared: that of A is elsewhere ({place}), that of B is elsewhere ({place})");
        let said = stdout(&people).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(&words), "{said}");
        if place != "multifd" {
            let compat = run(&["compat", &file, &file]);
            assert_eq!(compat.status.code(), Some(1), "{}", all(&compat));
            let words = stdout(&compat).split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("may break block-elsewhere block pc.ram: "), "{words}");
            assert!(words.contains(reason), "{words}");
        }
    }
}

#[test]
fn check_stat_and_map_say_where_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("map.svg");
    let name = out.to_str().expect("plain");
    for (file, place, reason) in cases() {
        let check = run(&["check", &file]);
        assert_eq!(check.status.code(), Some(0), "{}", all(&check));
        let words = stdout(&check);
        let found = words.lines().any(|line| {
            line.contains(" note the RAM of ") && line.contains("\"pc.ram\"") && line.contains(reason)
        });
        assert!(found, "{words}");

        let json = run(&["stat", "--json", &file]);
        assert_eq!(json.status.code(), Some(0), "{}", all(&json));
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!(json["blocks"][0]["ram"], place, "{file}");
        let info = run(&["info", &file]);
        assert_eq!(info.status.code(), Some(0), "{}", all(&info));
        let said = stdout(&info).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(&format!("not in this file: {reason}")), "{said}");
        let text = stdout(&run(&["stat", &file]));
        assert!(text.lines().any(|line| line.starts_with("pc.ram ") && line.ends_with(place)), "{text}");
        assert!(text.contains(&format!("{place}: not in this file; {reason}")), "{text}");

        let map = run(&["map", &file, "-o", name]);
        let words = String::from_utf8_lossy(&map.stderr).into_owned();
        assert!(words.contains("\"pc.ram\""), "{words}");
        assert!(words.contains(reason), "{words}");
        // A machine of which something is there has a picture, without the block that is not.
        assert_eq!(map.status.code() == Some(0), out.exists(), "{words}");
        if let Ok(picture) = std::fs::read_to_string(&out) {
            assert!(!picture.contains("pc.ram"), "{file}");
            std::fs::remove_file(&out).expect("just written");
        } else {
            assert_eq!(map.status.code(), Some(2), "{words}");
        }
    }
}

#[test]
fn blocks_whose_pages_are_here_are_called_so() {
    for name in ["10.0-pc", "7.2-pc-background", "10.0-pc-postcopy"] {
        let json = run(&["stat", "--json", &format!("qemu-{name}.bin.zst")]);
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
        for block in json["blocks"].as_array().expect("a list") {
            assert_eq!(block["ram"], "here", "{name}: {block}");
        }
    }
}

/// A preempt channel names blocks and does not list them: where they end is not known, and what
/// else they hold.
#[test]
fn a_channel_of_a_postcopy_has_only_a_part_of_ram() {
    let mut channel = Vec::new();
    migration_stream::ram::put_page_header(&mut channel, Some(b"pc.ram"), 0);
    channel.resize(channel.len() + 4096, 7);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("channel");
    std::fs::write(&file, &channel).expect("a small file");
    let file = file.to_str().expect("plain");
    let reason = "postcopy: pages of it were sent on another connection (main, preempt or recovery)";
    let out = folder.path().join("out");
    refused(&run(&["extract", file, "--block", "pc.ram", "-o", out.to_str().expect("plain")]), reason, &out);
    let diff = run(&["diff", "--format", "line", file, file]);
    assert_eq!(diff.status.code(), Some(1), "{}", all(&diff));
    assert!(stdout(&diff).contains("not_compared block=\"pc.ram\""), "{}", all(&diff));
    let map = folder.path().join("map.png");
    refused(&run(&["map", file, "-o", map.to_str().expect("plain")]), reason, &map);
}

/// A stream of a postcopy without what the source sent again behind its discards.
#[test]
fn a_postcopy_whose_pages_went_over_the_preempt_channel_says_so() {
    use migration_stream::{Entry, Options, Record, SliceReader};
    let stream = unpacked("valid/qemu-10.0-pc-postcopy");
    let mut reader = SliceReader::new(&stream, Options::default());
    let (mut out, mut blocks, mut discarded) = (Vec::new(), Vec::new(), false);
    while let Some(Entry { record, .. }) = reader.advance().expect("a whole stream") {
        match &record {
            Record::RamBlocks(list) => blocks.clone_from(&list.blocks),
            Record::Command(migration_stream::Command::PostcopyRamDiscard { .. }) => discarded = true,
            Record::Page(page) if discarded && !page.named => continue,
            _ => {}
        }
        record.put(&mut out, &blocks);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("stream");
    std::fs::write(&file, &out).expect("a small file");
    let file = file.to_str().expect("plain");
    let check = run(&["check", file]);
    assert!(
        stdout(&check).contains("is not in this file: postcopy: pages of it were sent"),
        "{}",
        all(&check)
    );
    let written = folder.path().join("out");
    let output = run(&["extract", file, "--block", "pc.ram", "-o", written.to_str().expect("plain")]);
    assert_eq!(output.status.code(), Some(2), "{}", all(&output));
}
