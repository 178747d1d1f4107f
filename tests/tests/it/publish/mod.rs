//! The end of a save: the image gets its name before QEMU's last byte, or QEMU sees that it cannot.

mod disks;
mod late;
mod mid_save;

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::IFlags;
use snapshot_tests::{
    corpus,
    image::{run_tool, text},
    ram::assert_same,
    tool::qemu_snapshot,
};

/// The stream that these tests save.
const STREAM: &str = "qemu-10.0-pc-dirty-bitmap";
/// What is held back until the file has its name: less than a pipe of one page takes.
const HELD_BYTES: usize = 300;
const PATIENCE: Duration = Duration::from_secs(20);

fn stream() -> Vec<u8> {
    corpus::stream(STREAM)
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<OsString> {
    let entries = folder.read_dir().expect("a folder");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("a name").file_name()).collect();
    names.sort();
    names
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A save from a pipe that is written as QEMU writes it: an error of a write is a migration that
/// fails, and nothing else is.
struct Source {
    tool: Child,
    /// The source had to notice that nothing was saved.
    failed: bool,
}

impl Source {
    fn start(arguments: &[&str], image: &Path) -> Self {
        let mut tool = Command::new(qemu_snapshot());
        tool.args(arguments).arg(image).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { tool: tool.spawn().expect("the tool was built"), failed: false }
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(32 << 10) {
            let pipe = self.tool.stdin.as_mut().expect("not closed yet");
            self.failed = self.failed || pipe.write_all(part).is_err();
        }
    }

    /// Waits until the tool has taken what was written.
    fn wait_taken(&self) {
        let pipe = self.tool.stdin.as_ref().expect("not closed yet");
        wait_until("the pipe is empty", || rustix::io::ioctl_fionread(pipe).expect("a pipe") == 0);
    }

    /// The end of the stream; how the tool ended, and whether the source had an error before.
    fn end(mut self) -> (Output, bool) {
        drop(self.tool.stdin.take());
        (self.tool.wait_with_output().expect("our own child"), self.failed)
    }

    fn kill(mut self) {
        self.tool.kill().expect("our own child");
        self.tool.wait().expect("our own child");
    }
}

/// A save up to the last bytes: the tool waits for them.
fn up_to_the_last_bytes(arguments: &[&str], image: &Path) -> Source {
    let bytes = stream();
    let mut source = Source::start(arguments, image);
    source.write(&bytes[..bytes.len() - HELD_BYTES]);
    let folder = image.parent().expect("a file in a folder").to_owned();
    let name = image.file_name().expect("a file").to_string_lossy().into_owned();
    // A new image has its name then, and one that replaces has a hidden one.
    let wanted = if arguments.contains(&"--overwrite") { format!(".{name}.") } else { name };
    let is_claimed = move || names(&folder).iter().any(|found| found.to_string_lossy().starts_with(&wanted));
    wait_until("the file has a name", is_claimed);
    source
}

/// In an image that is there already nothing else shows that the space for its end is held.
fn wait_until_ballast_is_held(image: &Path) {
    let file = File::open(image).expect("it is there");
    wait_until("the ballast is held", || {
        let metadata = file.metadata().expect("it is open");
        std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 > metadata.len()
    });
}

fn last_bytes() -> Vec<u8> {
    let bytes = stream();
    bytes[bytes.len() - HELD_BYTES..].to_vec()
}

fn is_snapshot(image: &Path) -> bool {
    run_tool(["--revert".as_ref(), image.as_os_str()], None).status.success()
}

/// It holds what was saved, whole.
fn assert_holds(image: &Path, saved: &[u8]) {
    let reverted = run_tool(["--revert".as_ref(), image.as_os_str()], None);
    assert!(reverted.status.success(), "{}", text(&reverted));
    assert_same(saved, &reverted.stdout);
}

/// `chattr` for as long as this is there.
struct Attribute {
    file: File,
    before: IFlags,
}

impl Attribute {
    /// None where the file system has none, or not for this user: the test says what it could not do.
    fn set_or_skip(path: &Path, flags: IFlags) -> Option<Self> {
        let file = File::open(path).expect("a file");
        let set = rustix::fs::ioctl_getflags(&file)
            .and_then(|before| rustix::fs::ioctl_setflags(&file, before | flags).map(|()| before));
        match set {
            Ok(before) => Some(Self { file, before }),
            Err(error) => {
                snapshot_tests::in_part(&format!("no {flags:?} of {}: {error}", path.display()));
                None
            }
        }
    }
}

impl Drop for Attribute {
    fn drop(&mut self) {
        let _ = rustix::fs::ioctl_setflags(&self.file, self.before);
    }
}
