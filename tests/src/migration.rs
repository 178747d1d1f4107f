//! Saves and reverts of a running machine.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use test_support::{in_part, not_run};

use crate::{
    image::{assert_whole, run_tool, text},
    qemu::{Judged, Qemu},
    qmp::QmpError,
    tool::qemu_snapshot,
};

const POLL: Duration = Duration::from_millis(10);
/// How long a source may take to put away a migration that has ended. One of 7.2 that failed in its
/// setup never does.
const MIGRATION_PUT_AWAY: Duration = Duration::from_secs(3);

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `query-migrate` says so.
    Completed,
    /// `query-migrate` says so, with its `error-desc`; or the QEMU that was to load a stream has ended.
    Failed(String),
    /// `migrate_cancel`.
    Cancelled,
}

/// A save by `exec:` into an image.
#[derive(Clone, Copy, Debug)]
pub struct ToImage<'a> {
    /// The tool's options.
    pub options: &'a str,
    /// The image.
    pub image: &'a Path,
    /// Keep what was sent in this file, too.
    pub stream: Option<&'a Path>,
}

/// The address for QEMU's `migrate` or `migrate-incoming` that starts the tool with these options
/// on an image.
#[must_use]
pub fn exec_uri(options: &str, image: &Path) -> String {
    format!("exec:{}", command(options, image))
}

fn command(options: &str, image: &Path) -> String {
    format!("{} {options} {}", qemu_snapshot().display(), image.display())
}

impl ToImage<'_> {
    fn uri(&self) -> String {
        let tool = command(self.options, self.image);
        match self.stream {
            Some(stream) => format!("exec:tee {} | {tool}", stream.display()),
            None => format!("exec:{tool}"),
        }
    }
}

impl Qemu {
    /// Switches migration capabilities on or off.
    ///
    /// # Panics
    ///
    /// If QEMU refuses.
    pub fn set_capabilities(&mut self, capabilities: &[(&str, bool)]) {
        let list = capability_list(capabilities);
        self.execute("migrate-set-capabilities", json!({ "capabilities": list }));
    }

    /// Switches background snapshots on. False where the kernel cannot do it (write protection by
    /// userfaultfd): the test is to return, this has said why, or failed in CI. False, too, with a
    /// QEMU that has none.
    ///
    /// # Panics
    ///
    /// If QEMU refuses for another reason.
    #[must_use]
    pub fn background_snapshot_or_skip(&mut self) -> bool {
        self.background_snapshot(not_run)
    }

    /// The same in a test that goes on with other kinds of saves.
    ///
    /// # Panics
    ///
    /// If QEMU refuses for another reason.
    #[must_use]
    pub fn background_snapshot_or_without(&mut self) -> bool {
        self.background_snapshot(in_part)
    }

    fn background_snapshot(&mut self, skip: fn(&str)) -> bool {
        if !self.version().has_background_snapshot() {
            return false;
        }
        let list = capability_list(&[("background-snapshot", true)]);
        match self.qmp().execute("migrate-set-capabilities", json!({ "capabilities": list })) {
            Ok(_) => true,
            Err(QmpError::Refused(why)) if why.contains("not supported by host kernel") => {
                skip("background snapshots need write protection by userfaultfd (Linux 5.7)");
                false
            }
            Err(error) => panic!("background-snapshot: {error:?}"),
        }
    }

    /// Sets migration parameters, as an object of QMP's `migrate-set-parameters`.
    ///
    /// # Panics
    ///
    /// If QEMU refuses.
    pub fn set_parameters(&mut self, parameters: Value) {
        self.execute("migrate-set-parameters", parameters);
    }

    /// Lets the source send as fast as it can and stop its guest as late as it likes.
    ///
    /// # Panics
    ///
    /// If QEMU refuses.
    pub fn set_fast(&mut self) {
        self.set_parameters(json!({ "max-bandwidth": 8_u64 << 30, "downtime-limit": 300 }));
    }

    /// Starts a save into an image. When it has completed, [`Qemu::wait_save`] has the image judged.
    ///
    /// # Panics
    ///
    /// If QEMU refuses.
    pub fn start_save_image(&mut self, save: &ToImage<'_>) {
        self.start_save(&save.uri());
        let stream = save.stream.map(Path::to_owned);
        self.judged = Some(Judged { image: save.image.to_owned(), stream });
    }

    /// Saves into an image and waits for the end, two minutes at most. If it has completed, the
    /// image is right: `qemu-img`, the tool's own revert and an independent reader were asked.
    ///
    /// # Panics
    ///
    /// If QEMU refuses, is gone, or does not come to an end; if the image is not right.
    pub fn save_image(&mut self, save: &ToImage<'_>) -> Outcome {
        self.start_save_image(save);
        self.wait_save(Duration::from_secs(120))
    }

    /// Starts a migration to `uri`, once QEMU has put away the one before: it reports `failed`
    /// earlier, and a background snapshot that starts in between ("duplicate yank instance",
    /// "`ram_write_tracking_start` failed") can leave 10.0 in state `setup`, in which it refuses
    /// every migration that follows.
    ///
    /// # Panics
    ///
    /// If QEMU refuses.
    pub fn start_save(&mut self, uri: &str) {
        let end = Instant::now() + MIGRATION_PUT_AWAY;
        while self.has_migration_to_put_away() && Instant::now() < end {
            thread::sleep(POLL);
        }
        self.execute("migrate", json!({ "uri": uri }));
    }

    /// Whether something of an outgoing migration is still registered. QEMU 5.2 cannot be asked.
    fn has_migration_to_put_away(&mut self) -> bool {
        let Ok(instances) = self.qmp().execute("query-yank", json!({})) else { return false };
        instances.as_array().is_some_and(|list| list.iter().any(|one| one["type"] == "migration"))
    }

    /// Waits for the migration that was started to end.
    ///
    /// # Panics
    ///
    /// If it has not within `limit`, or QEMU is gone; if an image was to be saved and is not right.
    pub fn wait_save(&mut self, limit: Duration) -> Outcome {
        let end = Instant::now() + limit;
        loop {
            let info = self.execute("query-migrate", json!({}));
            if let Some(outcome) = outcome_of(&info) {
                if let Some(judged) = self.judged.take().filter(|_| outcome == Outcome::Completed) {
                    judge(&judged, end);
                }
                return outcome;
            }
            assert!(Instant::now() < end, "{}: no end of the migration: {info}", self.version());
            thread::sleep(POLL);
        }
    }

    /// Migrates to `uri` and waits for the end, two minutes at most.
    ///
    /// # Panics
    ///
    /// If QEMU refuses, is gone, or does not come to an end.
    pub fn save(&mut self, uri: &str) -> Outcome {
        self.start_save(uri);
        self.wait_save(Duration::from_secs(120))
    }

    /// State of the migration that QEMU is in, whichever its direction: `postcopy-active`,
    /// `completed`, and so on.
    ///
    /// # Panics
    ///
    /// If QEMU does not answer.
    pub fn migration_status(&mut self) -> String {
        let info = self.execute("query-migrate", json!({}));
        info["status"].as_str().unwrap_or("none").to_owned()
    }

    /// Waits until the guest runs: a source says that its migration has failed before it starts its
    /// guest again.
    ///
    /// # Panics
    ///
    /// If it does not within a minute, or QEMU is gone.
    pub fn wait_running(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let state = self.run_state();
            if state == "running" {
                return;
            }
            assert!(Instant::now() < end, "{}: {state}, expected running: {}", self.version(), self.stderr());
            thread::sleep(POLL);
        }
    }

    /// Waits until the migration is in this state.
    ///
    /// # Panics
    ///
    /// If it is not within a minute, has failed, or QEMU is gone.
    pub fn wait_migration(&mut self, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.migration_status();
            if status == wanted {
                return;
            }
            let over = status == "failed" || Instant::now() > end;
            assert!(!over, "{}: {status}, expected {wanted}: {}", self.version(), self.stderr());
            thread::sleep(POLL);
        }
    }

    /// Waits until an incoming migration that may fail (`exit-on-error` off) has failed.
    ///
    /// # Panics
    ///
    /// If it has not within a minute, or QEMU is gone.
    pub fn wait_failed(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.migration_status() != "failed" {
            assert!(Instant::now() < end, "{}: no failure: {}", self.version(), self.stderr());
            thread::sleep(POLL);
        }
    }

    /// Loads a stream from `uri` into a machine that was started to wait for one. Completed: the
    /// machine is in the run state that the stream has.
    ///
    /// # Panics
    ///
    /// If QEMU refuses the address, or does not come to an end within two minutes.
    pub fn revert(&mut self, uri: &str) -> Outcome {
        let end = Instant::now() + Duration::from_secs(120);
        match self.qmp().execute("migrate-incoming", json!({ "uri": uri })) {
            Ok(_) => {}
            Err(QmpError::Closed) => return self.ended(),
            Err(error) => panic!("migrate-incoming: {error:?}"),
        }
        loop {
            let info = match self.qmp().execute("query-migrate", json!({})) {
                Ok(info) => info,
                Err(QmpError::Closed) => return self.ended(),
                Err(error) => panic!("query-migrate: {error:?}"),
            };
            if let Some(outcome) = outcome_of(&info) {
                // "completed" may come a moment before the run state changes.
                if outcome != Outcome::Completed || self.run_state() != "inmigrate" {
                    return outcome;
                }
            }
            assert!(Instant::now() < end, "{}: no end of the revert: {info}", self.version());
            thread::sleep(POLL);
        }
    }

    /// A destination that refuses a stream ends, and says why on stderr.
    fn ended(&mut self) -> Outcome {
        let status = self.wait_exit(Duration::from_secs(30)).expect("a QEMU with a closed monitor ends");
        Outcome::Failed(format!("{status}: {}", self.stderr()))
    }
}

/// Has the image of a save that has completed looked at.
fn judge(judged: &Judged, end: Instant) {
    // QEMU may say that it has completed when all bytes are taken, a moment before the snapshot is
    // sealed: until then the tool holds the image, or it has another name.
    while !judged.image.exists() || is_held(&judged.image) {
        assert!(Instant::now() < end, "no {}, or the tool has not ended", judged.image.display());
        thread::sleep(POLL);
    }
    let saved = judged.stream.as_ref().map(|path| fs::read(path).expect("recorded"));
    assert_whole(&judged.image, saved.as_deref());
}

/// The tool that saves has not let go of its lock.
fn is_held(image: &Path) -> bool {
    let output = run_tool(["--revert".as_ref(), image.as_os_str()], None);
    text(&output).contains("cannot lock the image")
}

fn capability_list(capabilities: &[(&str, bool)]) -> Vec<Value> {
    capabilities.iter().map(|(name, on)| json!({ "capability": name, "state": on })).collect()
}

fn outcome_of(info: &Value) -> Option<Outcome> {
    match info["status"].as_str()? {
        "completed" => Some(Outcome::Completed),
        "failed" => Some(Outcome::Failed(info["error-desc"].as_str().unwrap_or("").to_owned())),
        "cancelled" => Some(Outcome::Cancelled),
        _ => None,
    }
}
