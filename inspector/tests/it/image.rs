//! Images: what is in them beside the stream, and how damage is reported.

use crate::common::{all, corpus, program, stdout};
use std::path::{Path, PathBuf};

fn run(arguments: &[&str], path: &Path) -> std::process::Output {
    program().args(arguments).arg(path).output().expect("the program runs")
}

/// An image of a stream of the corpus.
fn image(folder: &Path) -> PathBuf {
    let image = folder.join("vm.qcow2");
    let from = corpus().join("qemu-10.0-pc.bin.zst");
    let output = program().arg("convert").arg(from).arg(&image).args(["--to", "image"]).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    image
}

/// Findings, with the file's name and numbers that differ from run to run taken out.
fn findings(path: &Path) -> String {
    let output = run(&["check"], path);
    all(&output).replace(&path.display().to_string(), "IMAGE")
}

#[test]
fn a_whole_image_is_clean_and_its_parts_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path());
    let check = run(&["check"], &image);
    assert_eq!(check.status.code(), Some(0), "{}", all(&check));
    let dump = stdout(&run(&["dump", "--format=line"], &image));
    let line = dump.lines().find(|line| line.contains(" image ")).expect("a line about the image");
    assert!(line.contains("verified=\"yes\"") && line.contains("page_size=4096"), "{line}");
    assert_eq!(dump.lines().filter(|line| line.contains(" image_block ")).count(), 3);
    assert!(dump.contains("device id=") && dump.contains(" field "), "devices are decoded");
}

#[test]
fn a_stream_can_be_compared_with_its_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path());
    let diff = run(&["diff", "--format=line", "qemu-10.0-pc.bin.zst"], &image);
    // The image keeps no commands, and nothing else differs.
    assert_eq!(stdout(&diff), "-          machine property=commands a=[SWITCHOVER_START] b=[]\n");
}

#[test]
fn a_changed_page_is_told_by_block_and_offset_and_so_are_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path());
    let mut bytes = std::fs::read(&image).expect("written");
    // Text of the guest's code.
    let marks: Vec<_> = (0..bytes.len() - 4096)
        .step_by(4096)
        .filter(|&at| at >= 4 << 16 && bytes[at..at + 4096].iter().filter(|&&byte| byte != 0).count() > 3000)
        .take(2)
        .collect();
    assert_eq!(marks.len(), 2, "pages with content");
    marks.iter().for_each(|&at| bytes[at + 100] ^= 1);
    std::fs::write(&image, &bytes).expect("a file");
    let text = findings(&image);
    let told =
        text.lines().filter(|line| line.contains(" error image: ") && line.contains("checksum")).count();
    assert!(told >= 1 && text.ends_with("exit status 1\n"), "{text}");
    assert!(text.contains("pc.ram") || text.contains("pc.bios"), "{text}");
}

#[test]
fn every_damaged_part_of_an_image_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path());
    let bytes = std::fs::read(&image).expect("written");
    let mut missed = Vec::new();
    // One bit in each 64 KiB, where there is anything.
    for start in (0..bytes.len()).step_by(64 << 10) {
        let end = (start + (64 << 10)).min(bytes.len());
        let Some(at) = (start..end).find(|&at| bytes[at] != 0) else { continue };
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        std::fs::write(&image, &changed).expect("a file");
        let output = run(&["check"], &image);
        assert!(matches!(output.status.code(), Some(0..=2)), "{at:#x}: {}", all(&output));
        if output.status.code() == Some(0) {
            missed.push(at);
        }
    }
    assert_eq!(missed, Vec::<usize>::new(), "damage that was not found");
}

#[test]
fn what_is_no_complete_snapshot_is_said_to_be_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path());
    let mut bytes = std::fs::read(&image).expect("written");
    let magic = bytes.windows(4).position(|window| window == b"STVM").expect("the VM-state header");
    bytes[magic..magic + 28].fill(0);
    std::fs::write(&image, &bytes).expect("a file");
    let text = findings(&image);
    assert!(text.contains(" error image: ") && text.contains("exit status 1"), "{text}");
    std::fs::write(&image, &bytes[..70_000]).expect("a file");
    let text = findings(&image);
    assert!(text.contains("exit status 1"), "{text}");
}

/// The layout of the original tool: the same, without an extension of ours.
fn without_extension(bytes: &mut [u8]) {
    let be32 = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    bytes[88..96].fill(0);
    let mut at = usize::try_from(be32(bytes, 100)).expect("small");
    while be32(bytes, at) != 0 {
        let next = at + 8 + usize::try_from(be32(bytes, at + 4)).expect("small").next_multiple_of(8);
        // No program knows this one.
        bytes[at..at + 4].copy_from_slice(&0x7e57_7e57_u32.to_be_bytes());
        at = next;
    }
}

#[test]
fn an_image_of_the_original_tool_is_read_and_said_to_be_unverified() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = image(folder.path());
    let mut bytes = std::fs::read(&image).expect("written");
    without_extension(&mut bytes);
    std::fs::write(&image, &bytes).expect("a file");
    let text = findings(&image);
    assert!(text.contains(" warning image: nothing can be verified: "), "{text}");
    assert!(text.contains("0 errors, 1 warning") && text.ends_with("exit status 1\n"), "{text}");
    let accepted = run(&["check", "--unverified"], &image);
    assert_eq!(accepted.status.code(), Some(0), "{}", all(&accepted));
    let diff = run(&["diff", "--format=line", "qemu-10.0-pc.bin.zst"], &image);
    assert_eq!(stdout(&diff).lines().count(), 1, "{}", all(&diff));

    // One of the two marks alone: another program has written to it.
    bytes[95] = 1;
    std::fs::write(&image, &bytes).expect("a file");
    let text = findings(&image);
    assert!(text.ends_with("exit status 1\n") || text.ends_with("exit status 2\n"), "{text}");
}
