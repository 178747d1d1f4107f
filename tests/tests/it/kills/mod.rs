//! `kill -9` of the tool at random moments of saves and reverts under real QEMU.
//!
//! `KILLS` (10) says how often for each kind of save or revert, `KILL_SEED` at which moments; it is
//! printed. A seed does not bring a failure back for certain, since QEMU and the guest have a clock
//! of their own.

mod reverts;
mod saves;

use std::{
    env,
    os::fd::{AsFd, OwnedFd},
    process::Child,
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::pipe::{PipeFlags, pipe_with};
use snapshot_tests::{Binary, Qemu, Version, beside};
use vm_simulator::Rng;

/// Time between two looks at a tool that runs.
const POLL: Duration = Duration::from_millis(1);

/// How often with this QEMU, for one of two kinds: these and the QEMUs share the kills.
fn kills(binary: &Binary, kind: usize) -> usize {
    let all = env::var("KILLS").map_or(10, |count| count.parse().expect("KILLS is a number"));
    let versions = Version::chosen();
    let part = versions.iter().position(|&version| version == binary.version()).expect("it runs with it");
    let parts = 2 * versions.len();
    (all + parts - 1 - (kind * versions.len() + part)) / parts
}

/// When the tool is killed: anywhere from before its first byte to a little after its usual end.
struct Moments {
    rng: Rng,
    /// How long a run took that was not killed, as far as we know now.
    whole: Duration,
    struck: u64,
    done: u64,
}

impl Moments {
    fn new(what: &str) -> Self {
        let time = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        let seed = env::var("KILL_SEED")
            .map_or_else(|_| time(), |seed| seed.parse().expect("KILL_SEED is a number"));
        println!("{what}: KILL_SEED={seed}");
        Self { rng: Rng::new(seed), whole: Duration::ZERO, struck: 0, done: 0 }
    }

    /// Forgets how long a run takes: the next one is another kind's.
    fn of_run_without_a_kill(&mut self, run: impl FnOnce()) {
        let started = Instant::now();
        run();
        self.whole = started.elapsed();
    }

    /// Kills the tool at a moment of its run. False: it had ended by itself before.
    fn strike(&mut self, tool: &mut Child) -> bool {
        let started = Instant::now();
        let moment = self
            .whole
            .mul_f64(if self.few() { 0.5 } else { 1.1 })
            .mul_f64(f64::from(u32::try_from(self.rng.below(10_000)).expect("small")) / 1e4);
        while started.elapsed() < moment {
            if tool.try_wait().expect("our own child").is_some() {
                let last = started.elapsed();
                self.whole = if self.few() { last } else { (self.whole + last) / 2 };
                self.done += 1;
                return false;
            }
            thread::sleep(POLL);
        }
        let _ = tool.kill();
        let struck = beside::end(tool).code().is_none();
        *if struck { &mut self.struck } else { &mut self.done } += 1;
        struck
    }

    /// Most came too late, and say nothing: the next one comes early in what the last run took,
    /// which may have been far less than the first one.
    fn few(&self) -> bool {
        self.struck * 2 <= self.done
    }

    /// The kills have to have come while the tool ran, or they say nothing.
    fn assert_struck(&self, what: &str) {
        println!("{what}: {} kills in the run, {} behind its end", self.struck, self.done);
        assert!(self.struck * 2 >= self.done, "{} kills, {} too late", self.struck, self.done);
    }
}

/// Both ends of a pipe.
fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("a pipe")
}

/// Gives QEMU its end of the pipe, as `fd:channel`; no one else has it then.
fn give(qemu: &mut Qemu, end: OwnedFd) {
    qemu.qmp().give_fd("channel", end.as_fd()).expect("QEMU takes a descriptor");
}

/// What a run is called in messages.
fn name(binary: &Binary, what: &str) -> String {
    format!("{} {what}", binary.version())
}
