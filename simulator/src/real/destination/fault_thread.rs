//! Missing pages become requests.

use super::shared::{Shared, lock};
use crate::real::error::{Error, at};
use background_snapshot::{Fault, Userfault};
use migration_stream::name_text;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Serves faults until `stop` is readable.
pub(super) fn run(shared: &Shared, userfault: &Arc<Userfault>, stop: &OwnedFd) {
    if let Err(error) = serve(shared, userfault, stop) {
        shared.fail(error);
    }
}

fn serve(shared: &Shared, userfault: &Userfault, stop: &OwnedFd) -> Result<(), Error> {
    let mut faults: Vec<Fault> = Vec::new();
    loop {
        let mut fds = [PollFd::new(userfault, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(at("wait for faults")(error.into())),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        userfault.read_faults(&mut faults).map_err(at("read faults"))?;
        for fault in faults.drain(..) {
            let place = shared.regions.iter().enumerate().find_map(|(block, region)| {
                let offset = fault.address.checked_sub(region.address())?;
                (offset < region.length()).then_some((block, offset))
            });
            if let Some((block, offset)) = place {
                missing(shared, userfault, block, offset)?;
            }
        }
        lock(&shared.back).flush(&shared.memory)?;
    }
}

fn missing(shared: &Shared, userfault: &Userfault, block: usize, offset: usize) -> Result<(), Error> {
    let known = &shared.memory.blocks()[block];
    let offset = offset - offset % known.host_page;
    {
        let mut pending = lock(&shared.pending);
        if shared.has_host_page(block, offset) {
            drop(pending);
            // It was placed between the fault and now.
            return userfault
                .wake(&shared.regions[block], offset, known.host_page)
                .map_err(at("UFFDIO_WAKE"));
        }
        if pending.contains_key(&(block, offset)) {
            return Ok(());
        }
        pending.insert((block, offset), Instant::now());
    }
    {
        let progress = lock(&shared.progress);
        match (progress.eof, progress.running) {
            (false, _) => {}
            // Missing pages are about to be taken for zero.
            (true, true) => return Ok(()),
            (true, false) => {
                drop(progress);
                return Err(unanswered(shared, block, offset));
            }
        }
    }
    let result = lock(&shared.back).request(&shared.memory, block, offset);
    match result {
        // The channel is broken: whoever reads it notices, and the request is repeated after a recovery.
        Err(Error::Io { .. }) if lock(&shared.progress).running => Ok(()),
        other => other,
    }
}

/// A page that the devices need and that will never arrive. A QEMU destination waits without end.
pub(super) fn unanswered(shared: &Shared, block: usize, offset: usize) -> Error {
    let name = name_text(&shared.memory.blocks()[block].name);
    let state = shared.state();
    Error::Wrong(format!(
        "page {offset:#x} of block \"{name}\" was requested and not sent before the end mark, in state {state}"
    ))
}
