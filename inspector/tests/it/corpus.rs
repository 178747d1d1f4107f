//! The output on real streams, pinned.

use crate::common::{all, names, run, stdout};

#[test]
fn every_stream_is_clean_and_every_byte_accounted_for() {
    for name in names() {
        let check = run(&["check", &name]);
        assert_eq!(check.status.code(), Some(0), "{name}: {}", all(&check));
        let coverage = run(&["dump", "--coverage", &name]);
        assert_eq!(coverage.status.code(), Some(0), "{name}: {}", all(&coverage));
        assert!(stdout(&coverage).contains("skipped_bytes=0 complete=true"), "{name}: {}", all(&coverage));
    }
}

#[test]
fn fields_of_every_device_are_decoded_where_there_is_a_vmdesc() {
    for name in names() {
        let coverage = stdout(&run(&["dump", "--coverage", &name]));
        // QEMU before 10.0 describes s390x's array of NULL pointers wrongly.
        let undescribed =
            ["no-vmdesc", "nothing", "pc-postcopy.bin", "7.2-s390x"].iter().any(|part| name.contains(part));
        let all_decoded = coverage.contains(" opaque_bytes=0 ");
        assert_eq!(all_decoded, !undescribed, "{name}: {coverage}");
    }
}

#[test]
fn check_and_stat_of_every_stream_are_as_pinned() {
    for name in names() {
        let mut text = all(&run(&["check", &name]));
        text.push_str(&all(&run(&["stat", &name])));
        insta::assert_snapshot!(format!("stat-{}", name.trim_end_matches(".bin.zst")), text);
    }
}

#[test]
fn dumps_are_as_pinned() {
    for name in [
        "qemu-7.2-pc",
        "qemu-10.0-pc",
        "qemu-10.0-pc-postcopy",
        "qemu-10.0-pc-postcopy.rp",
        "qemu-7.2-pc-postcopy.rp",
        "qemu-10.0-pc-nothing",
    ] {
        let text = all(&run(&["dump", "--format", "line", &format!("{name}.bin.zst")]));
        insta::assert_snapshot!(format!("dump-{name}"), text);
    }
    let json = all(&run(&["dump", "--json", "qemu-10.0-pc-uuid.bin.zst"]));
    insta::assert_snapshot!("dump-json-qemu-10.0-pc-uuid", json);
}

#[test]
fn a_part_of_a_dump_can_be_asked_for() {
    let file = "qemu-7.2-pc.bin.zst";
    insta::assert_snapshot!(
        "dump-device",
        all(&run(&["dump", "--format=line", "--device", "i8254", "--hex", file]))
    );
    insta::assert_snapshot!("dump-section", all(&run(&["dump", "--format=line", "--section", "ram", file])));
    insta::assert_snapshot!("dump-at", all(&run(&["dump", "--format=line", "--at", "0x2d", "--hex", file])));
    let pages = stdout(&run(&["dump", "--format=line", "--pages", "--section", "ram", file]));
    let stat: serde_json::Value =
        serde_json::from_str(&stdout(&run(&["stat", "--json", file]))).expect("JSON");
    let zero: u64 =
        stat["blocks"].as_array().expect("blocks").iter().filter_map(|b| b["zero"].as_u64()).sum();
    assert_eq!(pages.lines().filter(|line| line.contains(" zero_page ")).count() as u64, zero);
    assert!(zero > 100);
}

#[test]
fn comparisons_are_as_pinned() {
    let (old, new) = ("qemu-7.2-pc.bin.zst", "qemu-10.0-pc.bin.zst");
    insta::assert_snapshot!("diff", all(&run(&["diff", "--format=line", old, new])));
    insta::assert_snapshot!("compat", all(&run(&["compat", old, new])));
    for (a, b) in [(old, old), ("qemu-10.0-pc-postcopy.rp.bin.zst", "qemu-10.0-pc-postcopy.rp.bin.zst")] {
        assert_eq!(all(&run(&["diff", "--format=line", a, b])), "exit status 0\n");
    }
    assert_eq!(all(&run(&["compat", new, new])), "safe: 0 differences, 0 of them allowed\nexit status 0\n");
}
