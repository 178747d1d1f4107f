//! What a source in postcopy hears, and what it still has to send.

use crate::real::channel::Input;
use crate::real::error::{Error, at};
use crate::real::memory::{GuestMemory, TARGET_PAGE_BYTES};
use crate::size::to_usize;
use migration_stream::name_text;
use migration_stream::protocol::ReceivedBitmap;
use migration_stream::return_path::{ReturnPathMessage, return_path_message};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// More requests than this are not kept: a page that is forgotten is sent in its turn.
const QUEUE_LIMIT: usize = 1 << 16;

/// Which host pages have been sent.
#[derive(Debug)]
pub(super) struct Sent(Vec<Vec<AtomicBool>>);

impl Sent {
    /// None.
    pub(super) fn new(memory: &GuestMemory) -> Self {
        let block = |block: &crate::real::Block| {
            (0..block.mapping.length() / block.host_page).map(|_| AtomicBool::new(false)).collect()
        };
        Self(memory.blocks().iter().map(block).collect())
    }

    /// Takes a page to send it; false if another thread has.
    pub(super) fn take(&self, block: usize, page: usize) -> bool {
        !self.0[block][page].swap(true, Ordering::AcqRel)
    }

    pub(super) fn set(&self, block: usize, page: usize, sent: bool) {
        self.0[block][page].store(sent, Ordering::Release);
    }

    pub(super) fn has(&self, block: usize, page: usize) -> bool {
        self.0[block][page].load(Ordering::Acquire)
    }

    pub(super) fn pages(&self, block: usize) -> usize {
        self.0[block].len()
    }

    pub(super) fn blocks(&self) -> usize {
        self.0.len()
    }
}

/// What arrived on the return path and waits for a reader.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Host pages, by block and number.
    pub(super) requests: VecDeque<(usize, usize)>,
    pub(super) request_count: u64,
    /// The destination has read the leader.
    pub(super) pong_1: bool,
    pub(super) shut: Option<u32>,
    pub(super) resumed: bool,
    /// Received bitmaps, in the order of their arrival.
    pub(super) bitmaps: Vec<(usize, ReceivedBitmap)>,
    /// The return path ended, or has to.
    pub(super) closed: bool,
    pub(super) failure: Option<Error>,
    /// Everything has been sent.
    pub(super) done: bool,
}

/// The same, for several threads.
#[derive(Debug, Default)]
pub(super) struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Ear {
    pub(super) fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until `ready`, or the return path ends.
    pub(super) fn wait<T>(
        &self,
        what: &'static str,
        timeout: Duration,
        mut ready: impl FnMut(&mut Heard) -> Option<T>,
    ) -> Result<T, Error> {
        let mut heard = self.lock();
        loop {
            if let Some(value) = ready(&mut heard) {
                return Ok(value);
            }
            if let Some(error) = heard.failure.take() {
                return Err(error);
            }
            if heard.closed {
                return Err(at(what)(ErrorKind::UnexpectedEof.into()));
            }
            let (guard, waited) =
                self.changed.wait_timeout(heard, timeout).unwrap_or_else(PoisonError::into_inner);
            heard = guard;
            if waited.timed_out() {
                return Err(Error::Timeout { what, seconds: timeout.as_secs() });
            }
        }
    }
}

/// Listens to a connection's return path until it ends.
pub(super) fn listen(mut input: Input, memory: &GuestMemory, ear: &Arc<Ear>) {
    let result = messages(&mut input, memory, ear);
    let mut heard = ear.lock();
    heard.closed = true;
    if let Err(error) = result {
        heard.failure.get_or_insert(error);
    }
    drop(heard);
    ear.notify();
}

fn messages(input: &mut Input, memory: &GuestMemory, ear: &Ear) -> Result<(), Error> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    let (mut at, mut current) = (0, None);
    let mut bitmap: Option<(usize, ReceivedBitmap)> = None;
    loop {
        let length = match input.read(&mut piece) {
            // A destination that needs nothing is silent for long; who waits for something has a time limit.
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                if ear.lock().done {
                    return Ok(());
                }
                continue;
            }
            other => other.map_err(crate::real::error::at("read the return path"))?,
        };
        if length == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&piece[..length]);
        let mut used = 0;
        loop {
            if let Some((block, mut reading)) = bitmap.take() {
                let name = || name_text(&memory.blocks()[block].name);
                let taken = reading
                    .take(&bytes[used..])
                    .map_err(|source| Error::ReceivedBitmap { block: name(), source })?;
                used += taken;
                if reading.is_complete() {
                    ear.lock().bitmaps.push((block, reading));
                    ear.notify();
                } else {
                    bitmap = Some((block, reading));
                    break;
                }
            }
            let Some((length, message)) = return_path_message(&bytes[used..], at + used as u64)? else {
                break;
            };
            used += length;
            let mut heard = ear.lock();
            match message {
                ReturnPathMessage::Shut(value) => heard.shut = Some(value),
                ReturnPathMessage::Pong(value) => heard.pong_1 |= value == 1,
                ReturnPathMessage::RequestPages { block, start, length } => {
                    let pages = requested(memory, &mut current, block, start, length)?;
                    heard.request_count += 1;
                    let block = current.unwrap_or(0);
                    let room = QUEUE_LIMIT.saturating_sub(heard.requests.len());
                    heard.requests.extend(pages.take(room).map(|page| (block, page)));
                }
                ReturnPathMessage::ReceivedBitmap(name) => {
                    let block = memory.find(name).ok_or_else(|| unknown(name))?;
                    if heard.bitmaps.len() >= memory.blocks().len() {
                        return Err(Error::ReturnPath("more received bitmaps than blocks".to_owned()));
                    }
                    bitmap = Some((block, ReceivedBitmap::new(memory.blocks()[block].pages())));
                }
                ReturnPathMessage::ResumeAck(1) => heard.resumed = true,
                ReturnPathMessage::ResumeAck(value) => {
                    return Err(Error::ReturnPath(format!("RESUME_ACK {value}, expected 1")));
                }
                ReturnPathMessage::SwitchoverAck => {}
                other => return Err(Error::ReturnPath(format!("unexpected message {other:?}"))),
            }
            drop(heard);
            ear.notify();
        }
        at += used as u64;
        bytes.drain(..used);
    }
}

fn unknown(name: &[u8]) -> Error {
    Error::ReturnPath(format!("unknown block \"{}\"", name_text(name)))
}

/// The host pages of a request.
fn requested(
    memory: &GuestMemory,
    current: &mut Option<usize>,
    name: Option<&[u8]>,
    start: u64,
    length: u32,
) -> Result<std::ops::Range<usize>, Error> {
    if let Some(name) = name {
        *current = Some(memory.find(name).ok_or_else(|| unknown(name))?);
    }
    let Some(number) = *current else {
        return Err(Error::ReturnPath("request without a block before it".to_owned()));
    };
    let block = &memory.blocks()[number];
    let used = block.mapping.length() as u64;
    let wrong = |what: &str| {
        let name = name_text(&block.name);
        Error::ReturnPath(format!("request for {length} bytes at {start:#x} of block \"{name}\": {what}"))
    };
    let page = block.host_page as u64;
    if length == 0 || !start.is_multiple_of(page) || !u64::from(length).is_multiple_of(page) {
        return Err(wrong(&format!("not made of whole host pages of {page} bytes")));
    }
    let end = start.checked_add(u64::from(length)).filter(|&end| end <= used);
    let end = end.ok_or_else(|| wrong(&format!("the block has {used} bytes")))?;
    let number = |bytes: u64| to_usize(bytes / page);
    Ok(number(start)..number(end))
}

/// Target pages of a host page, as byte offsets.
pub(super) fn target_pages(memory: &GuestMemory, block: usize, page: usize) -> impl Iterator<Item = usize> {
    let host_page = memory.blocks()[block].host_page;
    (page * host_page..(page + 1) * host_page).step_by(TARGET_PAGE_BYTES)
}
