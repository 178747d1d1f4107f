//! The thread of strategy *copy*: a write fault copies the page and lets the writer go on at once.

use crate::error::{Error, at};
use crate::pages::{PageId, Pages, find};
use crate::pool::Pool;
use crate::sys::{Fault, Userfault};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What both threads see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) userfault: Userfault,
    pub(crate) pages: Arc<[Pages]>,
    pub(crate) pool: Pool,
    /// Readable when the handler is to end.
    pub(crate) stop: OwnedFd,
}

/// Serves faults until `stop` is readable.
pub(crate) fn run(shared: &Arc<Shared>) {
    let result = serve(shared);
    if let Err(error) = result {
        shared.pool.lock().failure = Some(error);
        shared.pool.notify();
    }
}

fn serve(shared: &Shared) -> Result<(), Error> {
    let mut faults: Vec<Fault> = Vec::new();
    loop {
        let mut fds =
            [PollFd::new(&shared.userfault, PollFlags::IN), PollFd::new(&shared.stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(at("wait for write faults")(error.into())),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        shared.userfault.read_faults(&mut faults).map_err(at("read write faults"))?;
        for fault in faults.drain(..) {
            if let Some(id) = find(&shared.pages, fault.address) {
                handle(shared, id)?;
            }
        }
    }
}

fn handle(shared: &Shared, id: PageId) -> Result<(), Error> {
    let pages = &shared.pages[id.region];
    let page_size = pages.region.page_size();
    if !pages.take(id.page) {
        // The saver has it and unprotects it soon, or has already: the report was late.
        return Ok(());
    }
    let buffer = {
        let mut handover = shared.pool.lock();
        handover.faults += 1;
        let buffer = handover.buffer();
        if buffer.is_none() {
            handover.pool_full += 1;
            pages.give_back(id.page);
            handover.urgent.push_back(id);
        }
        buffer
    };
    let Some(mut buffer) = buffer else {
        shared.pool.notify();
        return Ok(());
    };
    pages.region.read(id.page * page_size, &mut buffer[..page_size]);
    shared
        .userfault
        .write_protect(&pages.region, id.page * page_size, page_size, false)
        .map_err(at("unprotect a copied page"))?;
    shared.pool.lock().copies.push_back((id, buffer));
    shared.pool.notify();
    Ok(())
}
