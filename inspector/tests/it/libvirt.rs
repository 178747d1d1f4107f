//! Save images that a real libvirt wrote (`virsh save`).

use crate::common::{all, program, run, stdout, unpacked};

const RUNNING: &str = "../libvirt/libvirt-9.0-qemu-7.2-running.bin.zst";

/// The guest of [`RUNNING`], stopped, in a format.
fn paused(format: &str) -> String {
    format!("../libvirt/libvirt-9.0-qemu-7.2-paused-{format}.bin.zst")
}

/// What is read, and how the dump names its packing.
const READ: [&str; 5] = ["raw", "gzip", "bzip2", "xz", "lzop"];

#[test]
fn they_are_clean_and_every_byte_is_explained() {
    for file in READ.map(paused).into_iter().chain([RUNNING.to_owned()]) {
        let check = run(&["check", &file]);
        assert_eq!(check.status.code(), Some(0), "{}", all(&check));
        let coverage = stdout(&run(&["dump", "--coverage", &file]));
        assert!(coverage.contains(" opaque_bytes=0 ") && coverage.contains("complete=true"), "{coverage}");
    }
}

#[test]
fn the_header_is_told() {
    let line = |file: &str| {
        let dump = stdout(&run(&["dump", "--format=line", file]));
        dump.lines().find(|line| line.contains(" libvirt ")).expect("a line about it").to_owned()
    };
    let running = line(RUNNING);
    assert!(running.contains(" libvirt version=2 was_running=true format=raw complete=true "), "{running}");
    // The XML alone, without the cookie behind its NUL.
    assert!(
        running.contains("xml=\"<domain type=\\'qemu\\' ") && running.ends_with("</domain>\\n\""),
        "{running}"
    );
    for format in READ {
        let line = line(&paused(format));
        let expected = format!(" libvirt version=2 was_running=false format={format} complete=true ");
        assert!(line.contains(&expected), "{line}");
    }
}

#[test]
fn all_formats_hold_the_same_guest() {
    let raw = paused("raw");
    let extract = |file: &str| {
        let output = program().args(["extract", file, "--block", "pc.ram", "-o", "-"]).output();
        output.expect("the program runs").stdout
    };
    let expected = extract(&raw);
    assert!(expected.len() == 4 << 20 && expected.iter().any(|&byte| byte != 0));
    for format in READ {
        assert!(extract(&paused(format)) == expected, "{format}");
        let diff = stdout(&run(&["diff", "--format=line", &raw, &paused(format)]));
        assert!(!diff.contains("pages") && !diff.contains("block"), "{format}: {diff}");
        let compat = run(&["compat", &paused(format), &raw]);
        assert_eq!(compat.status.code(), Some(0), "{}", all(&compat));
    }
}

/// The machine that libvirt makes of its XML loads a stream of the same versioned machine without
/// libvirt only if their devices agree: libvirt's has what `-nodefaults` leaves out, and `compat`
/// says so.
#[test]
fn they_can_be_compared_with_plain_streams() {
    let compat = run(&["compat", RUNNING, "qemu-7.2-pc-type-7.2.bin.zst"]);
    assert!([Some(0), Some(1)].contains(&compat.status.code()), "{}", all(&compat));
    assert!(!stdout(&compat).contains("machine pc-i440fx"), "the machine type is one: {}", all(&compat));
}

#[test]
fn what_is_behind_the_xml_decides_not_what_the_header_says() {
    // A save image that was unpacked by hand keeps its format's number.
    let mut bytes = unpacked("libvirt/libvirt-9.0-qemu-7.2-running");
    assert_eq!(bytes[28..32], [0; 4], "raw");
    bytes[28] = 1;
    let check = crate::common::run_with(&["check", "-"], &bytes);
    assert_eq!(check.status.code(), Some(0), "{}", all(&check));
}

#[test]
fn one_that_was_not_completed_is_an_error() {
    let mut bytes = unpacked("libvirt/libvirt-9.0-qemu-7.2-running");
    bytes[..16].copy_from_slice(b"LibvirtQemudPart");
    let check = crate::common::run_with(&["check", "-"], &bytes);
    assert_eq!(check.status.code(), Some(1), "{}", all(&check));
    assert!(stdout(&check).contains("the save was not completed (LibvirtQemudPart)"), "{}", all(&check));
}
