//! What is left to do when the program itself is at its end: a panic, or memory that ran out where
//! that is no error.
//!
//! A guest of QEMU 7.2 stays stopped for good if the reader of its background snapshot goes away in
//! the middle, and a destination that was sent nothing waits without limit. So whatever happens, the
//! source is drained, the destination is sent what it refuses, and the exit status is 2:
//!
//! 1. A panic of a machine is caught ([`Guarded`]): an event says so, it stores nothing any more, and
//!    drains its source to the end.
//! 2. A panic of what it does then, or of the driver, and an abort (SIGABRT: an allocation that
//!    cannot be refused, a panic of another thread, or one in the middle of another) end in
//!    [`end`], which takes no memory, and drains the source, too.
//!
//! QEMU says that it has completed then; only the exit status shows that it has not.
//!
//! Each of them is reported in one line, without a backtrace: taking one needs memory, and waits
//! without limit if there is none.

use crate::wait;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGABRT;
use signal_hook::low_level;
use snapshot_engine::{Action, Event, Machine, Pool};
use std::fmt::{self, Write};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;

/// Exit status of a job that could not be done.
const COULD_NOT: i32 = 2;
/// No migration stream begins with it: QEMU refuses at once.
const NOT_A_STREAM: &[u8] = b"X";

static SOURCE: OnceLock<OwnedFd> = OnceLock::new();
static DESTINATION: OnceLock<OwnedFd> = OnceLock::new();
static HAS_SENT: AtomicBool = AtomicBool::new(false);
static MAIN_THREAD: OnceLock<ThreadId> = OnceLock::new();

/// Prepares for the worst: to be called once, at the start of the program.
///
/// # Errors
///
/// The operating system's.
pub fn prepare() -> io::Result<()> {
    let _ = MAIN_THREAD.set(std::thread::current().id());
    std::panic::set_hook(Box::new(report));
    // SAFETY: the handler makes system calls and reads atomics only, takes neither memory nor
    // locks, and never returns.
    unsafe { low_level::register(SIGABRT, || end()) }?;
    Ok(())
}

/// A source that has to be drained, whatever happens.
pub(crate) fn has_source(input: BorrowedFd<'_>) {
    if let Ok(copy) = input.try_clone_to_owned() {
        let _ = SOURCE.set(copy);
    }
}

/// A destination that has to see that nothing comes, whatever happens.
pub(crate) fn has_destination(output: BorrowedFd<'_>) {
    if let Ok(copy) = output.try_clone_to_owned() {
        let _ = DESTINATION.set(copy);
    }
}

/// Something was sent there.
pub(crate) fn has_sent() {
    HAS_SENT.store(true, Ordering::Relaxed);
}

/// Drains the source, or lets the destination refuse, and ends the process with a status that says
/// that it failed.
pub(crate) fn end() -> ! {
    // A source that says nothing any more is not waited for against the user's will.
    wait::release_signals();
    let _ = rustix::io::write(
        io::stderr(),
        b"qemu-snapshot: error: the program cannot go on; its source is drained, nothing is saved\n",
    );
    if let Some(destination) = DESTINATION.get()
        && !HAS_SENT.load(Ordering::Relaxed)
    {
        let _ = rustix::io::write(destination, NOT_A_STREAM);
    }
    if let Some(source) = SOURCE.get() {
        drain(source);
    }
    low_level::exit(COULD_NOT)
}

/// Reads a source to its end, whatever comes.
fn drain(source: &OwnedFd) {
    let mut bytes = [0; 4096];
    loop {
        match rustix::io::read(source, &mut bytes) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(source, PollFlags::IN)], None);
            }
            Err(_) => return,
        }
    }
}

/// A line in memory that is there already.
struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}

fn report(info: &PanicHookInfo<'_>) {
    let mut line = Line { bytes: [0; 1024], length: 0 };
    let text = info.payload_as_str().unwrap_or("a panic");
    let _ = match info.location() {
        Some(place) => writeln!(line, "qemu-snapshot: a bug: {place}: {}", text.escape_debug()),
        None => writeln!(line, "qemu-snapshot: a bug: {}", text.escape_debug()),
    };
    let _ = rustix::io::write(io::stderr(), &line.bytes[..line.length]);
    // No one would notice that another thread does not go on.
    if MAIN_THREAD.get().is_some_and(|main| *main != std::thread::current().id()) {
        end();
    }
}

/// A machine whose panics fail its job, and end nothing else.
#[derive(Debug)]
pub(crate) struct Guarded<M> {
    machine: M,
    broken: bool,
    #[cfg(debug_assertions)]
    planted: planted::Panics,
}

impl<M: Machine> Guarded<M> {
    pub(crate) fn new(machine: M) -> Self {
        Self {
            machine,
            broken: false,
            #[cfg(debug_assertions)]
            planted: planted::Panics::from_environment(),
        }
    }

    /// The machine.
    pub(crate) fn inner(&self) -> &M {
        &self.machine
    }

    fn caught<T>(&mut self, pool: &mut Pool, call: impl FnOnce(&mut M, &mut Pool) -> T) -> Option<T> {
        #[cfg(debug_assertions)]
        let planted = &mut self.planted;
        let (machine, broken) = (&mut self.machine, &mut self.broken);
        let called = || {
            #[cfg(debug_assertions)]
            planted.call();
            call(machine, pool)
        };
        match catch_unwind(AssertUnwindSafe(called)) {
            Ok(value) => return Some(value),
            Err(_) if std::mem::replace(broken, true) => end(),
            Err(_) => {}
        }
        if catch_unwind(AssertUnwindSafe(|| machine.handle(Event::Broken, pool))).is_err() {
            end();
        }
        None
    }
}

impl<M: Machine> Machine for Guarded<M> {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        self.caught(pool, |machine, pool| machine.handle(event, pool));
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        match self.caught(pool, |machine, pool| machine.poll(pool)) {
            Some(action) => action,
            None => self.caught(pool, |machine, pool| machine.poll(pool)).flatten(),
        }
    }
}

/// Runs a job that has a peer; what panics outside of its machine is the end.
pub(crate) fn or_end<T>(job: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| end())
}

/// Panics for tests of what follows; a release build has none.
#[cfg(debug_assertions)]
mod planted {
    /// The calls of a machine that panic, counted from 1; or abort, where a number is negative.
    #[derive(Debug)]
    pub(super) struct Panics {
        at: Vec<i64>,
        calls: i64,
    }

    impl Panics {
        /// `QEMU_SNAPSHOT_PANICS=100,150`.
        pub(super) fn from_environment() -> Self {
            let text = std::env::var("QEMU_SNAPSHOT_PANICS").unwrap_or_default();
            Self { at: text.split(',').filter_map(|number| number.parse().ok()).collect(), calls: 0 }
        }

        pub(super) fn call(&mut self) {
            self.calls += 1;
            if self.at.contains(&-self.calls) {
                std::process::abort();
            }
            assert!(!self.at.contains(&self.calls), "planted at call {}", self.calls);
        }
    }
}
