//! What is in the files, and what is left when a disk is full or the tool is killed.

use std::{
    fs::{self, File, Permissions},
    io::Read,
    mem,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use migration_stream::{Entry, Options, Record, SliceReader, ram};
use qemu_snapshot::RamFiles;
use snapshot_tests::{
    SmallDisk, beside, corpus,
    image::{run_tool, text},
    ram::{Contents, contents},
    tool,
};

use super::{open, run_unpack, unpack};

/// Streams of all kinds of machines and of blocks.
const STREAMS: [&str; 5] = [
    "qemu-10.0-pc-rounds",
    "qemu-10.0-q35-virtio-vga",
    "qemu-10.0-microvm",
    "qemu-7.2-aarch64-virt",
    "qemu-11.1-pc-background",
];

const LAYOUTS: [&str; 2] = ["--layout=dense", "--layout=linear"];

fn save(stream: &[u8], layout: &str, image: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("stream");
    fs::write(&path, stream).expect("a file");
    let output = run_tool(["--create".as_ref(), layout.as_ref(), image.as_os_str()], Some(&path));
    assert!(output.status.success(), "{}", text(&output));
}

/// The files are what the stream leaves in RAM, and take no more space than its pages.
fn assert_holds(files: &RamFiles, wanted: &Contents) {
    let blocks: Vec<_> = files.blocks.iter().map(|block| (block.name.clone(), block.stamp.size)).collect();
    assert_eq!(blocks, wanted.blocks);
    let page = wanted.page_bytes as u64;
    for block in &files.blocks {
        let mut bytes = Vec::new();
        (&block.file).read_to_end(&mut bytes).expect("a file");
        let mut pages = 0;
        for (number, found) in bytes.chunks_exact(wanted.page_bytes).enumerate() {
            let key = (block.name.clone(), number as u64 * page);
            let there = wanted.ram.get(&key);
            pages += u64::from(there.is_some());
            let same = there.map_or(found.iter().all(|&byte| byte == 0), |page| page == found);
            assert!(same, "{} offset {:#x}", block.path.display(), key.1);
        }
        // A file system counts more than the data of a file: its extents, and on tmpfs whole huge pages.
        let (space, most) = (block.file.metadata().expect("open").blocks() * 512, pages * page + (64 << 10));
        assert!(space <= most, "{} takes {space} bytes for {pages} pages", block.path.display());
    }
}

#[test]
fn files_hold_what_the_stream_has() {
    for (name, layout) in STREAMS.iter().flat_map(|name| LAYOUTS.map(|layout| (name, layout))) {
        let stream = corpus::stream(name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        save(&stream, layout, &image);
        assert_holds(&unpack(&image, &folder.path().join("ram")), &contents(&stream));
    }
}

/// A stream of a guest of whose RAM no page is zero.
fn full_ram() -> Vec<u8> {
    let stream = corpus::stream("qemu-10.0-pc-background");
    let mut reader = SliceReader::new(&stream, Options::default());
    let (mut out, mut filled) = (Vec::new(), false);
    while let Some(Entry { record, blocks, .. }) = reader.advance().expect("a valid stream") {
        match &record {
            // All pages of the block in the place of the first of them.
            Record::Page(page) if blocks[page.block].idstr == b"pc.ram" => {
                if !mem::replace(&mut filled, true) {
                    for offset in (0..blocks[page.block].used_length).step_by(4096) {
                        ram::put_page_header(&mut out, Some(b"pc.ram"), offset);
                        out.extend((0..512).flat_map(|word| (offset * 512 + word + 1).to_be_bytes()));
                    }
                }
            }
            _ => record.put(&mut out, blocks),
        }
    }
    assert!(filled, "a stream with pages of pc.ram");
    out
}

/// An image of [`full_ram`] in the folder, and what it holds.
fn full_image(layout: &str, folder: &Path) -> (PathBuf, Contents) {
    let (stream, image) = (full_ram(), folder.join("image"));
    save(&stream, layout, &image);
    (image, contents(&stream))
}

fn free_bytes(folder: &Path) -> u64 {
    // What is written later is counted only then.
    rustix::fs::syncfs(File::open(folder).expect("a folder")).expect("a file system");
    let status = rustix::fs::statvfs(folder).expect("a file system");
    status.f_bfree * status.f_frsize
}

/// Where files can share their bytes, unpacked RAM takes none of its own; and it stays what it was when the
/// image goes.
#[test]
fn files_share_the_bytes_of_the_image_where_they_can() {
    for (kind, layout) in ["xfs", "btrfs"].into_iter().flat_map(|kind| LAYOUTS.map(|layout| (kind, layout))) {
        let Some(disk) = SmallDisk::formatted_or_skip(kind, 400 << 20) else { continue };
        let (image, wanted) = full_image(layout, &disk.path(""));
        let before = free_bytes(&disk.path(""));
        let files = unpack(&image, &disk.path("ram"));
        let taken = before.saturating_sub(free_bytes(&disk.path("")));
        assert!(taken < 1 << 20, "{kind}: {taken} bytes for 4 MiB of RAM");
        fs::remove_file(image).expect("ours");
        assert_holds(&files, &wanted);
    }
}

/// From one file system to another, and on those that share nothing.
#[test]
fn files_are_copied_where_they_cannot_share() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, wanted) = full_image(LAYOUTS[0], folder.path());
    assert_holds(&unpack(&image, &folder.path().join("ram")), &wanted);
    let Some(disk) = SmallDisk::mounted_or_skip(64 << 20) else { return };
    assert_holds(&unpack(&image, &disk.path("ram")), &wanted);
    // The root of a file system is a folder that is there.
    let Some(disk) = SmallDisk::mounted_or_skip(64 << 20) else { return };
    assert_holds(&unpack(&image, &disk.path("")), &wanted);
}

/// A bit that is wrong in a page is found whoever copies it, and nothing is left.
#[test]
fn a_damaged_page_is_named() {
    let Some(tmpfs) = SmallDisk::mounted_or_skip(64 << 20) else { return };
    let Some(btrfs) = SmallDisk::formatted_or_skip("btrfs", 200 << 20) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (from, to) in [
        (folder.path().to_owned(), folder.path().to_owned()),
        (folder.path().to_owned(), tmpfs.path("")),
        (btrfs.path(""), btrfs.path("")),
    ] {
        let (image, _) = full_image(LAYOUTS[1], &from);
        let bytes = fs::read(&image).expect("a file");
        // Word 77 of page 1000 of pc.ram.
        let word = (1000_u64 * 4096 * 512 + 77 + 1).to_be_bytes();
        let at = bytes.windows(8).position(|found| found == word).expect("it is in the image");
        fs::set_permissions(&image, Permissions::from_mode(0o600)).expect("ours");
        let file = File::options().write(true).open(&image).expect("ours");
        file.write_all_at(&[bytes[at] ^ 0x10], at as u64).expect("a file");
        let output = run_unpack(&image, &to.join("ram"));
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let said = text(&output);
        assert!(said.contains("ram block \"pc.ram\" offset 0x3e8000: page checksum"), "{said}");
        fs::remove_file(&image).expect("ours");
        assert_eq!(fs::read_dir(&to).expect("a folder").count(), 0, "something is left");
    }
}

#[test]
fn a_disk_that_is_full_has_nothing_of_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, wanted) = full_image(LAYOUTS[0], folder.path());
    let Some(disk) = SmallDisk::mounted_or_skip(3 << 20) else { return };
    for target in [disk.path("ram"), disk.path("")] {
        let output = run_unpack(&image, &target);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("pc.ram: No space left on device"), "{}", text(&output));
        assert_eq!(fs::read_dir(disk.path("")).expect("a folder").count(), 0, "something is left");
        assert_eq!(free_bytes(&disk.path("")), 3 << 20, "something is held");
    }
    // A limit of the user is no other than one of the disk.
    let script = "ulimit -f 2048; exec $S unpack image --ram-files=ram";
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).env("S", tool::qemu_snapshot()).current_dir(folder.path());
    let output = shell.output().expect("a shell");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("pc.ram: File too large"), "{}", text(&output));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "something is left");
    assert_holds(&unpack(&image, &folder.path().join("ram")), &wanted);
}

/// What a killed unpack leaves has no name but a hidden one, and no bytes of RAM; the next one removes it.
#[test]
fn a_killed_unpack_leaves_no_ram() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (image, wanted) = full_image(LAYOUTS[0], folder.path());
    let (target, said) = (folder.path().join("ram"), folder.path().join("said"));
    let arguments = ["unpack", beside::utf8(&image), "--ram-files", beside::utf8(&target)];
    let (mut struck, mut whole) = (0, 0);
    for round in 0..40 {
        let mut tool = beside::start(&arguments, Stdio::null(), &said);
        thread::sleep(Duration::from_micros(700 * round));
        let _ = tool.kill();
        if beside::end(&mut tool).code().is_none() {
            struck += 1;
        }
        if target.exists() {
            whole += 1;
            assert_holds(&open(&target), &wanted);
        } else {
            let hidden = fs::read_dir(folder.path()).expect("a folder").flatten();
            let hidden = hidden.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            // Only in the moment in which the files have got their names, all of them whole.
            let left = hidden.flat_map(|entry| fs::read_dir(entry.path()).expect("ours").flatten());
            let partial = left.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."));
            assert_eq!(partial.count(), 0, "half a file");
            assert_holds(&unpack(&image, &target), &wanted);
        }
        fs::remove_dir_all(&target).expect("ours");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "something is left");
    }
    println!("{struck} kills struck, {whole} of 40 were whole");
    assert!(struck > 0, "no kill struck");
}
