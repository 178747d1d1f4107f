//! A guest's snapshot, destinations for it, and the tool that serves them over a socket.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    beside::{self, utf8},
    guest::Guest,
    migration::{Outcome, ToImage},
    qemu::{Config, Qemu},
    version::Binary,
};

/// A guest's snapshot, in a folder of its own.
#[derive(Debug)]
pub struct Saved {
    /// Where the image is; removed when dropped.
    pub folder: tempfile::TempDir,
    /// The machine that was saved.
    pub config: Config,
    /// Passes that the guest had completed.
    pub passes: u32,
}

impl Saved {
    /// Saves a guest that has verified its memory once. [`None`] where this machine cannot do it.
    ///
    /// # Panics
    ///
    /// If the save fails.
    #[must_use]
    pub fn of(binary: &Binary, guest: &Guest, config: Config) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut source = Qemu::start(binary, guest, config.clone());
        source.console().wait_ready();
        let passes = save_after_a_pass(&mut source, &folder.path().join("vm.qcow2"))?;
        Some(Self { folder, config, passes })
    }

    /// Path of the image.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("vm.qcow2")
    }

    /// A destination for it, ready for postcopy.
    #[must_use]
    pub fn destination(&self, binary: &Binary, guest: &Guest) -> Qemu {
        let mut destination = Qemu::start(binary, guest, self.config.incoming());
        destination.set_capabilities(&[("postcopy-ram", true)]);
        destination
    }

    /// The guest has gone on from the saved moment, and has verified all of its memory.
    ///
    /// # Panics
    ///
    /// If it has not.
    pub fn assert_goes_on(&self, destination: &mut Qemu) {
        assert_eq!(destination.run_state(), "running", "{}", destination.stderr());
        destination.console().wait_passes(3);
        assert!(destination.console().passes() >= self.passes + 3, "goes on from the saved moment");
    }

    /// Starts the tool at the other end of a socket of the destination's, on which it listens by
    /// this monitor command.
    ///
    /// # Panics
    ///
    /// If QEMU refuses.
    #[must_use]
    pub fn serve(&self, destination: &mut Qemu, command: &str, options: &[&str]) -> Server {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let at = |name: &str| destination.home().join(format!("{name}{number}"));
        let (socket, said) = (at("socket"), at("said"));
        let uri = format!("unix:{}", socket.display());
        destination.execute(command, json!({ "uri": uri }));
        beside::wait_for(&socket);
        let image = self.image();
        let arguments = [&["--revert"], options, &["--uri", &uri, utf8(&image)]].concat();
        Server { tool: beside::start(&arguments, Stdio::null(), &said), said }
    }
}

/// The tool, and what it says; killed when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub tool: Child,
    /// The file with its stderr.
    pub said: PathBuf,
}

impl Server {
    /// What it has said so far.
    ///
    /// # Panics
    ///
    /// If it is no text.
    #[must_use]
    pub fn words(&self) -> String {
        fs::read_to_string(&self.said).expect("a text")
    }

    /// The option that recovers what this server left, as its hint has it.
    #[must_use]
    pub fn recovery(&self) -> Option<String> {
        let words = self.words();
        words.split_whitespace().find(|word| word.starts_with("--recover=")).map(str::to_owned)
    }

    /// The same, as soon as it gives the hint: the guest can run a moment before.
    ///
    /// # Panics
    ///
    /// If it does not within a minute.
    #[must_use]
    pub fn wait_recovery(&self) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(recovery) = self.recovery() {
                return recovery;
            }
            assert!(Instant::now() < end, "no hint how to go on: {}", self.words());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The option made of the UUID that the server names before the devices are loaded.
    #[must_use]
    pub fn recovery_by_uuid(&self) -> Option<String> {
        let words = self.words();
        let (_, rest) = words.split_once("serving pages of snapshot ")?;
        Some(format!("--recover={}", rest.lines().next()?))
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it has another exit status than this.
    pub fn assert_ends(&mut self, code: i32) {
        let status = beside::end(&mut self.tool);
        assert_eq!(status.code(), Some(code), "{}", self.words());
    }

    /// Kills it with SIGKILL, if it still runs. True if that was its end.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn kill(&mut self) -> bool {
        let _ = self.tool.kill();
        beside::end(&mut self.tool).code().is_none()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.tool.kill();
        let _ = self.tool.wait();
    }
}

/// Saves a guest after one more pass; the number of passes then. [`None`] where this machine cannot do it.
///
/// # Panics
///
/// If the save fails.
#[must_use]
pub fn save_after_a_pass(source: &mut Qemu, image: &Path) -> Option<u32> {
    source.console().wait_passes(1);
    source.set_fast();
    if !source.background_snapshot_or_skip() {
        return None;
    }
    let passes = source.console().passes();
    let save = ToImage { options: "--create", image, stream: None };
    assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
    Some(passes)
}
