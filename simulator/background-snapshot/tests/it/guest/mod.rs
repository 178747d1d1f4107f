//! A guest: threads that write memory, partly through the kernel, and can be stopped.

use background_snapshot::{Mapping, Userfault};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;

/// Whether tests of page faults can run; says so when they cannot.
pub(crate) fn userfaultfd_works() -> bool {
    match Userfault::open(0) {
        Ok(_) => true,
        Err(error) => {
            test_support::not_run(&format!("no userfaultfd: {error}"));
            false
        }
    }
}

pub(crate) struct Guest {
    /// Writers hold it for reading during each write.
    running: Arc<RwLock<()>>,
    quit: Arc<AtomicBool>,
    pub(crate) writes: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Guest {
    /// Starts `threads` that write to `pages` pages of the memory; every other one lets the kernel write.
    pub(crate) fn start(memory: &Arc<Mapping>, threads: u64, pages: usize) -> Self {
        let running = Arc::new(RwLock::new(()));
        let quit = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let writer = |number: u64| {
            let (memory, running) = (Arc::clone(memory), Arc::clone(&running));
            let (quit, writes) = (Arc::clone(&quit), Arc::clone(&writes));
            std::thread::spawn(move || {
                let random = File::open("/dev/urandom").unwrap();
                let mut state = number + 1;
                while !quit.load(Ordering::Relaxed) {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let page = usize::try_from(state >> 33).unwrap() % pages;
                    let offset =
                        page * memory.page_size() + 8 * (usize::try_from(state >> 20).unwrap() % 512);
                    let _running = running.read().unwrap();
                    if number.is_multiple_of(2) {
                        memory.store(offset, state);
                    } else {
                        let read = memory.read_from(&random, offset & !4095, 64).unwrap();
                        assert_eq!(read, 64, "the kernel's write was cut short");
                    }
                    writes.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..threads).map(writer).collect();
        Self { running, quit, writes, threads }
    }

    /// Runs something while no vCPU writes.
    pub(crate) fn stopped<T>(&self, work: impl FnOnce() -> T) -> T {
        let _stopped = self.running.write().unwrap();
        work()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a writer failed");
        }
    }
}
