//! The tool beside QEMU, at the other end of a socket.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::tool::qemu_snapshot;

/// The end of a save or a revert.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Starts the tool, its stderr kept in a file.
///
/// # Panics
///
/// If the file or the process cannot be made.
#[must_use]
pub fn start(arguments: &[&str], stdin: Stdio, stderr: &Path) -> Child {
    let stderr = File::create(stderr).expect("a temporary file");
    let mut command = Command::new(qemu_snapshot());
    command.args(arguments).stdin(stdin).stdout(Stdio::null()).stderr(stderr);
    command.spawn().expect("the tool was built")
}

/// How the tool ended.
///
/// # Panics
///
/// If it has not after a minute.
pub fn end(tool: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = tool.try_wait().expect("our own child") {
            return status;
        }
        if Instant::now() > end {
            let _ = tool.kill();
            let _ = tool.wait();
            panic!("the tool has not ended after {PATIENCE:?}");
        }
        thread::sleep(POLL);
    }
}

/// Waits until a tool that listens has made its socket.
///
/// # Panics
///
/// If it has not after a minute.
pub fn wait_for(path: &Path) {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < end, "no {}", path.display());
        thread::sleep(POLL);
    }
}

/// As an argument.
///
/// # Panics
///
/// If the path is not UTF-8.
#[must_use]
pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}
