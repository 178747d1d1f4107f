//! Threads that touch memory as a guest's vCPUs do: at a rate, and stopped while another thread
//! needs them to be.

use super::workload::Workload;
use crate::rng::Rng;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pauses between bursts where the rate is limited.
const BURST: Duration = Duration::from_millis(1);

/// One access to a page. `S` is what the accesses share with who stops them.
pub trait Access<S>: Send + Sync {
    /// Touches `page` on behalf of thread `thread`.
    fn access(&self, state: &S, thread: usize, page: u64, rng: &mut Rng);
}

/// What the threads do.
#[derive(Debug, Clone)]
pub struct Load {
    /// The pattern.
    pub workload: Workload,
    /// How many threads.
    pub threads: usize,
    /// Accesses per second of all threads; 0 is as many as they can.
    pub rate: u64,
    /// Decides the pattern.
    pub seed: u64,
}

#[derive(Debug)]
struct Shared<S> {
    /// Held for reading during each access.
    gate: RwLock<S>,
    quit: AtomicBool,
    accesses: AtomicU64,
}

/// Running threads. Dropping them ends them.
#[derive(Debug)]
pub struct Vcpus<S: Send + Sync + 'static> {
    shared: Arc<Shared<S>>,
    threads: Vec<JoinHandle<()>>,
}

impl<S: Send + Sync + 'static> Vcpus<S> {
    /// Starts them on `pages` pages.
    ///
    /// # Errors
    ///
    /// Threads cannot be started.
    pub fn start(
        load: &Load,
        pages: u64,
        state: S,
        access: &Arc<impl Access<S> + 'static>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: RwLock::new(state),
            quit: AtomicBool::new(false),
            accesses: AtomicU64::new(0),
        });
        let mut vcpus = Self { shared, threads: Vec::new() };
        if load.workload == Workload::Idle || pages == 0 {
            return Ok(vcpus);
        }
        for number in 0..load.threads {
            let (shared, access, load) = (Arc::clone(&vcpus.shared), Arc::clone(access), load.clone());
            let thread = std::thread::Builder::new().name(format!("vcpu {number}"));
            vcpus.threads.push(thread.spawn(move || run(&shared, &*access, &load, number, pages))?);
        }
        Ok(vcpus)
    }

    /// Does something while no access is under way.
    pub fn stopped<T>(&self, work: impl FnOnce(&mut S) -> T) -> T {
        let mut state = self.shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        work(&mut state)
    }

    /// Ends them; when this returns, no access is under way and none follows.
    pub fn pause(&self) {
        self.quit();
        self.stopped(|_| ());
    }

    /// Accesses so far.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.shared.accesses.load(Ordering::Relaxed)
    }

    /// Ends them without waiting for accesses that are blocked.
    pub fn quit(&self) {
        self.shared.quit.store(true, Ordering::Relaxed);
    }
}

impl<S: Send + Sync + 'static> Drop for Vcpus<S> {
    fn drop(&mut self) {
        self.quit();
        for thread in self.threads.drain(..) {
            // A panic of a vCPU has been reported where it happened.
            let _ = thread.join();
        }
    }
}

fn run<S>(shared: &Shared<S>, access: &dyn Access<S>, load: &Load, number: usize, pages: u64) {
    let mut rng = Rng::new(load.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let threads = load.threads as u64;
    let start = Instant::now();
    let rate = load.rate / threads.max(1);
    for count in 0.. {
        if shared.quit.load(Ordering::Relaxed) {
            return;
        }
        if load.rate != 0 {
            // As many as are due; then a pause.
            let due = Duration::from_secs_f64(seconds(count, rate.max(1)));
            while let Some(early) = due.checked_sub(start.elapsed()).filter(|early| *early > Duration::ZERO) {
                std::thread::sleep(early.clamp(Duration::from_micros(50), BURST));
                if shared.quit.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
        let Some(page) = load.workload.page(count, number as u64, threads, pages, &mut rng) else { return };
        let state = shared.gate.read().unwrap_or_else(PoisonError::into_inner);
        if shared.quit.load(Ordering::Relaxed) {
            return;
        }
        access.access(&state, number, page, &mut rng);
        drop(state);
        shared.accesses.fetch_add(1, Ordering::Relaxed);
    }
}

#[allow(clippy::cast_precision_loss, reason = "a time in a schedule")]
fn seconds(count: u64, per_second: u64) -> f64 {
    count as f64 / per_second as f64
}
