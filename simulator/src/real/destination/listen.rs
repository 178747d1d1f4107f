//! The listen thread: the main channel in postcopy, and the same after a recovery; and the preempt channel.

use super::fault_thread::unanswered;
use super::shared::{Shared, lock};
use crate::real::bitmaps::Bitmaps;
use crate::real::error::Error;
use crate::real::faults::Faults;
use crate::real::memory::TARGET_PAGE_BYTES;
use crate::real::stream::{End, Flow, RecordStream};
use crate::size::to_usize;
use migration_stream::protocol::OutOfOrder;
use migration_stream::{Command, Page, PageContent, Record, name_text};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The preempt channel has brought everything when it was quiet for so long behind the main
/// channel's end mark. A request may have crossed that mark and never be answered, so it is not
/// enough to wait for all of them.
const QUIET: Duration = Duration::from_millis(200);

/// How a channel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// With its end mark.
    Eof,
    /// Not at all: a source that connected again wants to go on; see [`resume`].
    Resume,
    /// Without.
    Broken,
}

/// Names the place of what came out of order.
pub(super) fn out_of_order(offset: u64) -> impl FnOnce(OutOfOrder) -> Error {
    move |source| Error::OutOfOrder { offset, source }
}

/// Gathers the target pages of a host page.
#[derive(Debug, Default)]
struct Assembly {
    /// Block, offset and target pages of the host page that is under way.
    current: Option<(usize, usize, usize)>,
    data: Vec<u8>,
    seen: Vec<bool>,
    zero: bool,
}

impl Assembly {
    fn page(
        &mut self,
        shared: &Shared,
        block: usize,
        offset: u64,
        data: Option<&[u8]>,
        at: u64,
    ) -> Result<(), Error> {
        let known = &shared.memory.blocks()[block];
        let offset = to_usize(offset);
        if known.host_page == TARGET_PAGE_BYTES && self.current.is_none() {
            return shared.place(block, offset, data, at);
        }
        let within = offset % known.host_page;
        let host = offset - within;
        let wrong = |what: &str| {
            let text = format!("page {offset:#x} of block \"{}\": {what}", name_text(&known.name));
            Error::Refused { offset: at, text }
        };
        match self.current {
            None => {
                self.current = Some((block, host, 0));
                self.data.clear();
                self.data.resize(known.host_page, 0);
                self.seen.clear();
                self.seen.resize(known.host_page / TARGET_PAGE_BYTES, false);
                self.zero = true;
            }
            Some((current, start, _)) if (current, start) != (block, host) => {
                return Err(wrong(&format!("the host page at {start:#x} is not complete")));
            }
            Some(_) => {}
        }
        if std::mem::replace(&mut self.seen[within / TARGET_PAGE_BYTES], true) {
            return Err(wrong("twice in one host page"));
        }
        if let Some(data) = data {
            self.data[within..][..TARGET_PAGE_BYTES].copy_from_slice(data);
            self.zero = false;
        }
        if let Some((_, _, count)) = &mut self.current {
            *count += 1;
            if *count == self.seen.len() {
                self.current = None;
                return shared.place(block, host, (!self.zero).then_some(&self.data[..]), at);
            }
        }
        Ok(())
    }
}

/// Reads the main channel to its end.
pub(super) fn main_channel(
    shared: &Shared,
    stream: &mut RecordStream,
    bitmaps: &Mutex<Bitmaps>,
    faults: &Faults,
) -> Result<Heard, Error> {
    let mut assembly = Assembly::default();
    let mut resume = false;
    let end = stream.each(|at, record| {
        faults.event()?;
        match record {
            Record::Page(page) => {
                let content = plain(page);
                lock(&shared.incoming).page(content.is_some()).map_err(out_of_order(at))?;
                if let Some(content) = content {
                    assembly.page(shared, page.block, page.offset, content, at)?;
                }
            }
            Record::DirtyBitmap(chunk) => {
                lock(bitmaps).chunk(chunk).map_err(|text| Error::Refused { offset: at, text })?;
            }
            Record::Command(Command::PostcopyResume) => {
                lock(&shared.incoming).command(&Command::PostcopyResume, false).map_err(out_of_order(at))?;
                resume = true;
                return Ok(Flow::Leave);
            }
            Record::Command(command) => self::command(shared, command, at)?,
            Record::Eof => {
                lock(&shared.incoming).end_of_stream(false).map_err(out_of_order(at))?;
                return Ok(Flow::Leave);
            }
            Record::SectionPart(_) | Record::SectionEnd(_) | Record::Footer(_) | Record::RamEndOfSection => {}
            other => {
                let text = format!("a section that is not sent in state {}: {}", shared.state(), kind(other));
                return Err(Error::Refused { offset: at, text });
            }
        }
        Ok(Flow::Go)
    })?;
    match end {
        End::Left if resume => Ok(Heard::Resume),
        End::Left => end_mark(shared).map(|()| Heard::Eof),
        _ => Ok(Heard::Broken),
    }
}

/// Answers a RESUME: all pages that are waited for are requested again.
pub(super) fn resume(shared: &Shared) -> Result<(), Error> {
    let mut back = lock(&shared.back);
    back.resume_ack()?;
    let waiting: Vec<_> = lock(&shared.pending).keys().copied().collect();
    waiting.into_iter().try_for_each(|(block, offset)| back.request(&shared.memory, block, offset))?;
    back.flush(&shared.memory)
}

/// The content of a page that is not compressed: its bytes, or none if it is zero.
fn plain<'a>(page: &Page<'a>) -> Option<Option<&'a [u8]>> {
    match page.content {
        PageContent::Raw(data) => Some(Some(data)),
        PageContent::Zero => Some(None),
        PageContent::Xbzrle(_) | PageContent::Zlib(_) => None,
    }
}

fn kind(record: &Record<'_>) -> &'static str {
    match record {
        Record::SectionStart(_) => "START",
        Record::Full(..) | Record::EarlyDevices(_) => "FULL",
        Record::RamBlocks(_) => "a block list",
        Record::RamMultifdFlush => "MULTIFD_FLUSH",
        _ => "an iterable other than RAM and dirty bitmaps",
    }
}

/// Everything has come: who waits for a page now waits for nothing.
fn end_mark(shared: &Shared) -> Result<(), Error> {
    let mut waiting = lock(&shared.pending).len();
    let mut since = Instant::now();
    while shared.preempt && waiting > 0 && since.elapsed() < QUIET && lock(&shared.progress).failure.is_none()
    {
        std::thread::sleep(Duration::from_micros(200));
        let now = lock(&shared.pending).len();
        if now != waiting {
            (waiting, since) = (now, Instant::now());
        }
    }
    let running = {
        let mut progress = lock(&shared.progress);
        progress.eof = true;
        progress.running
    };
    shared.changed.notify_all();
    let waited_for = lock(&shared.pending).keys().next().copied();
    match waited_for {
        Some((block, offset)) if !running => Err(unanswered(shared, block, offset)),
        _ => Ok(()),
    }
}

fn command(shared: &Shared, command: &Command<'_>, at: u64) -> Result<(), Error> {
    if matches!(command, Command::PostcopyRun | Command::Packaged(_)) {
        let what = if *command == Command::PostcopyRun { "RUN" } else { "PACKAGED" };
        let text = format!("{what} on the main channel in state {}", shared.state());
        return Err(Error::Refused { offset: at, text });
    }
    lock(&shared.incoming).command(command, false).map_err(out_of_order(at))?;
    match command {
        Command::Ping(value) => lock(&shared.back).pong(*value),
        Command::RecvBitmap(name) => {
            let Some(block) = shared.memory.find(name) else {
                let text = format!("RECV_BITMAP of unknown block \"{}\"", name_text(name));
                return Err(Error::Refused { offset: at, text });
            };
            let first = shared.memory.page_at(block, 0);
            let pages = shared.memory.blocks()[block].pages();
            lock(&shared.back).received(name, pages, |page| shared.received.has(first + page))
        }
        _ => Ok(()),
    }
}

/// Reads the preempt channel to its end, which need not be marked.
pub(super) fn preempt_channel(
    shared: &Shared,
    stream: &mut RecordStream,
    faults: &Faults,
) -> Result<(), Error> {
    let mut assembly = Assembly::default();
    stream.each(|at, record| {
        faults.event()?;
        match record {
            Record::Page(page) if let Some(content) = plain(page) => {
                assembly.page(shared, page.block, page.offset, content, at)?;
            }
            // QEMU 7.2 ends it so.
            Record::RamEndOfSection => return Ok(Flow::Leave),
            other => {
                let text = format!("{} on the preempt channel", kind(other));
                return Err(Error::Refused { offset: at, text });
            }
        }
        Ok(Flow::Go)
    })?;
    Ok(())
}
