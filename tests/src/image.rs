//! Judges of an image: QEMU's own programs, and the tool's exit status.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use test_support::{in_part, not_run, programs};

use crate::{
    independent,
    ram::{assert_same, contents},
    tool,
};

/// `qemu-img` of [`programs`]. Where there is none, the test is to return: this has said why, or
/// failed in CI.
#[must_use]
pub fn qemu_img_or_skip() -> Option<PathBuf> {
    let found = programs::qemu_img();
    if found.is_none() {
        not_run("no qemu-img: run .ci/qemu");
    }
    found
}

/// Runs `qemu-img` with `arguments`, which has to succeed, and gives its stdout.
///
/// # Panics
///
/// If it fails: with what it said.
pub fn qemu_img<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).output().expect("qemu-img was found");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Panics unless `qemu-img check` finds nothing wrong in `image`, leaks included.
///
/// # Panics
///
/// That is its job.
pub fn assert_clean(program: &Path, image: &Path) {
    // The tool may hold its lock for a moment longer than QEMU waits for it, but it writes nothing any more.
    let options = ["check", "--force-share", "-f", "qcow2"].map(OsStr::new);
    let said = qemu_img(program, options.into_iter().chain([image.as_os_str()]));
    assert!(said.contains("No errors were found on the image."), "{said}");
}

/// Panics unless all judges find `image` right: `qemu-img check` nothing wrong, the tool's revert
/// what `saved` left (a recorded stream; none: anything whole), and imago, an independent reader,
/// the same RAM.
///
/// # Panics
///
/// That is its job.
pub fn assert_whole(image: &Path, saved: Option<&[u8]>) {
    match programs::qemu_img() {
        Some(program) => assert_clean(&program, image),
        None => in_part("without the judge qemu-img check"),
    }
    let output = run_tool([OsStr::new("--revert"), image.as_os_str()], None);
    assert_eq!(output.status.code(), Some(0), "{}: {}", image.display(), text(&output));
    if let Some(saved) = saved {
        assert_same(saved, &output.stdout);
    }
    // What was sent is the better judge of the two.
    independent::assert_reads(image, &contents(saved.unwrap_or(&output.stdout)));
}

/// What a save reserves for the VM state before it reads it.
const RESERVED_BYTES: u64 = 512 << 10;

/// Panics if `image`, which was not preallocated, is longer than RAM, 1 % of it, 8 clusters, and
/// its VM state: however often pages were sent. `stream` is what was saved, or what comes back.
///
/// A linear image is as long as it has to be, with holes: there it is its blocks on disk that count, and of
/// RAM only what is not zero. Each block of RAM is in the file as a whole.
///
/// With clusters larger than those that the tool chooses, or less than 32 MiB of RAM, that is
/// counted in clusters, and with all that is reserved for the VM state: each block begins at a
/// cluster of its own, and a ROM of 4 KiB costs as much as one of 1 MiB.
///
/// # Panics
///
/// That is its job.
pub fn assert_size(image: &Path, stream: &[u8]) {
    let contents = contents(stream);
    let mut header = [0; 376];
    File::open(image).and_then(|mut file| file.read_exact(&mut header)).expect("the image is there");
    let cluster = 1_u64 << header[23];
    let lengths = || contents.blocks.iter().map(|(_, length)| *length);
    let total: u64 = lengths().sum();
    let chosen = if cluster == 64 << 10 { total >= 32 << 20 } else { total >= 512 << 20 };
    let ram: u64 =
        lengths().map(|length| if chosen { length } else { length.next_multiple_of(cluster) }).sum();
    let devices: usize = contents.devices.iter().map(|(idstr, body)| idstr.len() + body.len() + 19).sum();
    let leader: usize = contents.blocks.iter().map(|(name, _)| name.len() + 25).sum::<usize>() + 1024;
    let vm_state = ((devices + leader + contents.vmdesc.len()) as u64).next_multiple_of(cluster);
    let vm_state = if chosen { vm_state } else { vm_state.max(RESERVED_BYTES) };
    let metadata = std::fs::metadata(image).expect("the image is there");
    let linear = u64::from_be_bytes(header[368..376].try_into().expect("eight bytes"));
    if linear != 0 {
        let ram = (contents.ram.len() * contents.page_bytes) as u64;
        // A longer device tail than was reserved at first is given twice its length.
        let tail =
            if vm_state > RESERVED_BYTES { 2 * vm_state.next_multiple_of(RESERVED_BYTES) } else { vm_state };
        let (found, allowed) = (metadata.blocks() * 512, ram * 101 / 100 + 8 * cluster + tail);
        assert!(found <= allowed, "{found} bytes on disk for {ram} bytes of RAM, {allowed} allowed");
        let end = lengths().fold(linear, |at, length| at.next_multiple_of(2 << 20) + length);
        assert!(metadata.len() >= end, "{} bytes of file, RAM ends at {end:#x}", metadata.len());
        return;
    }
    let allowed = ram * 101 / 100 + 8 * cluster + vm_state;
    let found = metadata.len();
    let blocks: Vec<u64> = lengths().collect();
    assert!(found <= allowed, "{found} bytes of image for blocks of {blocks:?} bytes, {allowed} allowed");
}

/// Runs `qemu-snapshot` with `arguments`, with the file `input` as its stdin (none: empty), and waits for it.
///
/// # Panics
///
/// If it cannot be started, or `input` cannot be opened.
pub fn run_tool<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>, input: Option<&Path>) -> Output {
    let stdin = input.map_or_else(Stdio::null, |path| File::open(path).expect("the input is there").into());
    let mut command = Command::new(tool::qemu_snapshot());
    command.args(arguments).stdin(stdin).output().expect("the tool was built")
}

/// Status, stdout's length and stderr of a program that ended: for messages.
#[must_use]
pub fn text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}, {} bytes on stdout, stderr: {stderr}", output.status, output.stdout.len())
}
