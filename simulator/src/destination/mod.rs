//! A destination as QEMU's is, for a simulated world: it loads precopy and postcopy, its guest
//! touches pages and waits for them, and it fails where QEMU would.
//!
//! As in QEMU there are two loaders. LISTEN ends the main one's hold on the stream: from there on
//! it only works through the package (and may have to wait for a page), while the stream goes on
//! beside it.

mod memory;

use crate::checks::{Invariant, Violation, every_request_answered};
use crate::generate::Vm;
use crate::rng::Rng;
use crate::size::at_most_u32;
use memory::Memory;
use migration_stream::protocol::{Incoming, IncomingState, put_received_bitmap};
use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};
use migration_stream::{
    ChannelKind, Command, Decoder, Options, Page, PageContent, PageSize, Record, Step, put_command,
};
use snapshot_engine::Lane;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// What a destination is like.
#[derive(Debug, Clone)]
pub struct DestinationConfig {
    /// Decides what it touches and when.
    pub seed: u64,
    /// Host page size in bytes, of each block.
    pub host_page_bytes: Vec<u64>,
    /// Threads of the guest.
    pub vcpus: usize,
    /// How often the guest touches a page before it stops.
    pub touches: u64,
    /// How often a device that is being loaded touches one.
    pub device_touches: u64,
    /// Capability `postcopy-preempt`.
    pub preempt: bool,
    /// How its preempt channel ends.
    pub preempt_end: PreemptEnd,
}

/// How a destination with `postcopy-preempt` ends (`postcopy_ram_incoming_cleanup`,
/// migration/postcopy-ram.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreemptEnd {
    /// QEMU 7.2 waits for the channel's own mark. Whoever waits for a page then gets a zero page.
    Mark,
    /// QEMU 8.0 and later waits until no request is outstanding, then closes the channel. A mark
    /// ends the thread that reads the channel: no request is answered there any more.
    Requests,
}

/// What the guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    Runs,
    /// For the host page at this block and offset.
    Waits(usize, u64),
}

/// A channel, as far as it has been read.
#[derive(Debug)]
struct Walker {
    decoder: Decoder,
    pending: Vec<u8>,
}

/// What is left of the package.
#[derive(Debug)]
enum Package {
    Devices { touches: u64 },
    Ping,
    Run,
    Loaded,
}

/// The destination.
#[derive(Debug)]
pub struct Destination {
    config: DestinationConfig,
    rng: Rng,
    /// Decides which pages are touched, and nothing else.
    workload: Rng,
    options: Options,
    devices: Vec<u8>,
    third: bool,
    incoming: Incoming,
    main: Walker,
    preempt: Walker,
    memory: Memory,
    package: Option<Package>,
    /// The package loader first, then the guest's threads.
    threads: Vec<Thread>,
    last_requested: Option<usize>,
    answers: VecDeque<u8>,
    preempt_ended: bool,
    /// Devices and what follows them, in precopy.
    tail: Option<Vec<u8>>,
    eof: bool,
    shut: bool,
    /// Requests that were sent.
    pub requests: u64,
    /// What was requested: block, byte offset of the host page.
    pub requested: BTreeSet<(usize, u64)>,
}

fn decoder(options: &Options, channel: ChannelKind) -> Decoder {
    Decoder::builder().options(options.clone()).channel(channel).build()
}

impl Destination {
    /// A destination for what `vm` sent. `stream_options` is what the user would have to tell it.
    #[must_use]
    pub fn new(config: DestinationConfig, vm: &Vm, devices: Vec<u8>) -> Self {
        let page_size = vm.config().page_size;
        let options = Options::default().with_page_size(PageSize::new(page_size.into()));
        let mut memory = Memory::new(u64::from(page_size));
        for (block, (name, _)) in vm.config().blocks.iter().enumerate() {
            let expected = (0..vm.pages(block)).map(|page| vm.page(block, page)).collect();
            memory.add(name.clone(), config.host_page_bytes[block], expected);
        }
        Self {
            rng: Rng::new(config.seed),
            workload: Rng::new(!config.seed),
            main: Walker { decoder: Decoder::new(options.clone()), pending: Vec::new() },
            preempt: Walker { decoder: decoder(&options, ChannelKind::Preempt), pending: Vec::new() },
            threads: vec![Thread::Runs; config.vcpus + 1],
            options,
            devices,
            third: false,
            incoming: Incoming::default(),
            memory,
            package: None,
            last_requested: None,
            answers: VecDeque::new(),
            preempt_ended: false,
            tail: None,
            eof: false,
            shut: false,
            requests: 0,
            requested: BTreeSet::new(),
            config,
        }
    }

    /// A block is mapped privately, from a file that holds these bytes.
    pub fn map(&mut self, block: usize, bytes: &[u8]) {
        self.memory.map(block, bytes);
    }

    /// Something has written to these bytes of a block.
    pub fn copy(&mut self, block: usize, bytes: &Range<u64>) {
        self.memory.copy(block, bytes);
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> IncomingState {
        self.incoming.state()
    }

    /// What it does at the moment, for whoever looks for a fault.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { package, threads, eof, preempt_ended, .. } = self;
        let state = self.state();
        format!("{state}, package {package:?}, threads {threads:?}, eof {eof}, preempt ended {preempt_ended}")
    }

    /// It has said that it is done, and why it can be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.shut
    }

    /// The end of a precopy: everything is there.
    ///
    /// # Errors
    ///
    /// A rule was broken.
    pub fn finish_precopy(&self, vm: &Vm) -> Result<(), Violation> {
        if self.tail.as_deref() != Some(vm.tail()) {
            return Err(Violation::new(Invariant::LostPage, "the device tail is not as it was saved"));
        }
        self.memory.verify()
    }

    /// Dirty bitmaps or other iterables came.
    #[must_use]
    pub fn has_third_region(&self) -> bool {
        self.third
    }

    /// Bytes that it wants to say.
    #[must_use]
    pub fn answers(&mut self) -> &mut VecDeque<u8> {
        &mut self.answers
    }

    /// The connection broke. True if it waits to be recovered, false if it has ended.
    pub fn broken(&mut self) -> bool {
        self.memory.drop_partial();
        self.answers.clear();
        self.last_requested = None;
        self.preempt_ended = false;
        self.main = Walker { decoder: decoder(&self.options, ChannelKind::Recovery), pending: Vec::new() };
        self.preempt = Walker { decoder: decoder(&self.options, ChannelKind::Preempt), pending: Vec::new() };
        self.incoming.broken()
    }

    /// Takes what came through a channel.
    ///
    /// # Errors
    ///
    /// A rule was broken.
    pub fn receive(&mut self, lane: Lane, bytes: &[u8]) -> Result<(), Violation> {
        if lane == Lane::Preempt && (!self.config.preempt || self.preempt_ended) && !bytes.is_empty() {
            let which = if self.preempt_ended { "behind its mark" } else { "that does not exist" };
            return Err(Violation::protocol(format!("bytes on a preempt channel {which}")));
        }
        let walker = self.walker(lane);
        walker.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut walker.pending);
        let mut rest = &pending[..];
        while !rest.is_empty() {
            if let Some(tail) = &mut self.tail {
                tail.extend_from_slice(std::mem::take(&mut rest));
                break;
            }
            let decoder = &mut self.walker(lane).decoder;
            match decoder.step(rest).map_err(|error| Violation::protocol(error.to_string()))? {
                Step::Incomplete { .. } => break,
                Step::Record { len, record } => {
                    rest = &rest[len..];
                    self.record(lane, record)?;
                }
            }
        }
        let rest = rest.to_vec();
        self.walker(lane).pending = rest;
        Ok(())
    }

    fn walker(&mut self, lane: Lane) -> &mut Walker {
        match lane {
            Lane::Main => &mut self.main,
            Lane::Preempt => &mut self.preempt,
        }
    }

    /// Our number of the block that the channel's decoder calls `block`.
    fn block(&mut self, lane: Lane, block: usize) -> Result<usize, Violation> {
        let name = self.walker(lane).decoder.blocks()[block].idstr.clone();
        self.memory.find(&name)
    }

    fn record(&mut self, lane: Lane, record: Record<'_>) -> Result<(), Violation> {
        let refused = |error: migration_stream::protocol::OutOfOrder| Violation::protocol(error.to_string());
        match record {
            Record::Page(Page { block, offset, content, .. }) => match content {
                PageContent::Raw(data) => self.page(lane, block, offset, Some(data)),
                PageContent::Zero => self.page(lane, block, offset, None),
                PageContent::Xbzrle(_) | PageContent::Zlib(_) => {
                    self.incoming.page(false).map_err(refused)?;
                    Err(Violation::protocol("a compressed page from an image".to_owned()))
                }
            },
            Record::RamEndOfSection if lane == Lane::Preempt => {
                self.preempt_ended = true;
                Ok(())
            }
            Record::Command(command) => self.command(&command),
            Record::Eof => {
                self.incoming.end_of_stream(false).map_err(refused)?;
                self.eof = true;
                Ok(())
            }
            Record::DirtyBitmap(_) | Record::Htab(_) | Record::StorageAttributes(_) => {
                self.third = true;
                Ok(())
            }
            Record::DeviceTail if self.state() == IncomingState::None => {
                self.tail = Some(Vec::new());
                Ok(())
            }
            Record::DeviceTail => Err(Violation::protocol("device sections outside the package")),
            _ => Ok(()),
        }
    }

    fn page(&mut self, lane: Lane, block: usize, offset: u64, data: Option<&[u8]>) -> Result<(), Violation> {
        // The preempt channel stays open until its own mark, or until every request has been answered.
        if lane == Lane::Preempt && self.preempt_ended {
            return Err(Violation::protocol("a page on a preempt channel behind its mark".to_owned()));
        }
        let behind_end = lane == Lane::Preempt && self.eof;
        if !behind_end {
            self.incoming.page(true).map_err(|error| Violation::protocol(error.to_string()))?;
        }
        let block = self.block(lane, block)?;
        if !self.incoming.is_postcopy() && !behind_end {
            return self.memory.write(block, offset, data);
        }
        if self.memory.receive(lane as usize, block, offset, data)? {
            let (_, start) = self.memory.host_page(block, offset);
            let arrived = Thread::Waits(block, start);
            self.threads.iter_mut().filter(|thread| **thread == arrived).for_each(|t| *t = Thread::Runs);
        }
        Ok(())
    }

    fn command(&mut self, command: &Command<'_>) -> Result<(), Violation> {
        let resumes = matches!(command, Command::PostcopyResume);
        self.incoming.command(command, false).map_err(|error| Violation::protocol(error.to_string()))?;
        match command {
            Command::PostcopyAdvise(Some(advise)) => {
                let sizes = self.memory.blocks.iter().map(|block| block.host_page_bytes);
                let summary = sizes.fold(0, |summary, bytes| summary | bytes);
                if (advise.page_size_summary, advise.target_page_size) != (summary, self.memory.page_bytes) {
                    return Err(Violation::protocol(format!(
                        "ADVISE {advise:x?}, expected summary {summary:#x}"
                    )));
                }
            }
            Command::PostcopyRamDiscard { block, ranges } => {
                for range in ranges {
                    self.memory.discard(block, range.start, range.length)?;
                }
            }
            Command::Packaged(package) => self.package(package)?,
            Command::RecvBitmap(name) => {
                let block = self.memory.find(name)?;
                self.say(&ReturnPathMessage::ReceivedBitmap(name));
                let pages = self.memory.blocks[block].pages();
                let mut out = Vec::new();
                put_received_bitmap(&mut out, pages, |page| self.memory.has(block, page));
                self.answers.extend(out);
            }
            Command::PostcopyResume if resumes => {
                self.say(&ReturnPathMessage::ResumeAck(1));
                for at in 0..self.threads.len() {
                    if let Thread::Waits(block, offset) = self.threads[at] {
                        self.request(block, offset);
                    }
                }
            }
            Command::Ping(value) => self.say(&ReturnPathMessage::Pong(*value)),
            _ => {}
        }
        Ok(())
    }

    /// The package: LISTEN, the devices, PING, RUN, and nothing else.
    fn package(&mut self, package: &[u8]) -> Result<(), Violation> {
        let mut expected = Vec::new();
        put_command(&mut expected, &Command::PostcopyListen);
        expected.extend_from_slice(&self.devices);
        put_command(&mut expected, &Command::Ping(3));
        put_command(&mut expected, &Command::PostcopyRun);
        if package != expected {
            return Err(Violation::protocol("the package is not LISTEN, devices, PING 3, RUN".to_owned()));
        }
        self.incoming
            .command(&Command::PostcopyListen, true)
            .map_err(|error| Violation::protocol(error.to_string()))?;
        self.package = Some(Package::Devices { touches: self.config.device_touches });
        Ok(())
    }

    /// Something can happen here without anything coming in.
    #[must_use]
    pub fn can_step(&self) -> bool {
        let loader = matches!(self.package, Some(Package::Devices { .. } | Package::Ping | Package::Run))
            && self.threads[0] == Thread::Runs;
        let guest = self.state() >= IncomingState::Running
            && self.config.touches > 0
            && !self.eof
            && self.threads[1..].contains(&Thread::Runs);
        !self.shut && (loader || guest || self.can_shut())
    }

    /// The loaders are done: the source may be told.
    fn can_shut(&self) -> bool {
        let requests_done = !self.config.preempt
            || match self.config.preempt_end {
                PreemptEnd::Mark => self.preempt_ended,
                PreemptEnd::Requests => {
                    !self.threads.iter().any(|thread| matches!(thread, Thread::Waits(..)))
                }
            };
        self.eof && self.state() == IncomingState::End && requests_done
    }

    /// One thing happens.
    ///
    /// # Errors
    ///
    /// A rule was broken.
    pub fn step(&mut self) -> Result<(), Violation> {
        if self.can_shut() {
            for thread in &self.threads {
                if let Thread::Waits(block, offset) = *thread {
                    let (zero, place) = (self.memory.is_zero(block, offset), self.memory.name(block, offset));
                    every_request_answered(zero, &place)?;
                }
            }
            self.memory.verify()?;
            self.say(&ReturnPathMessage::Shut(0));
            self.shut = true;
            return Ok(());
        }
        let loading = self.threads[0] == Thread::Runs;
        match &mut self.package {
            Some(Package::Devices { touches: 0 }) if loading => self.package = Some(Package::Ping),
            Some(Package::Devices { touches }) if loading => {
                *touches -= 1;
                self.touch(0);
            }
            Some(Package::Ping) => {
                self.say(&ReturnPathMessage::Pong(3));
                self.package = Some(Package::Run);
            }
            Some(Package::Run) => {
                let run = self.incoming.command(&Command::PostcopyRun, true);
                run.map_err(|error| Violation::protocol(error.to_string()))?;
                self.package = Some(Package::Loaded);
            }
            _ => {
                let running: Vec<usize> =
                    (1..self.threads.len()).filter(|&at| self.threads[at] == Thread::Runs).collect();
                if !running.is_empty() && self.config.touches > 0 {
                    self.config.touches -= 1;
                    let thread = running[self.rng.index(running.len())];
                    self.touch(thread);
                }
            }
        }
        Ok(())
    }

    /// A thread touches some page, and waits for it if it has to.
    fn touch(&mut self, thread: usize) {
        let block = self.workload.index(self.memory.blocks.len());
        let offset = self.workload.below(self.memory.blocks[block].pages()) * self.memory.page_bytes;
        if self.memory.is_missing(block, offset) {
            let (_, start) = self.memory.host_page(block, offset);
            self.threads[thread] = Thread::Waits(block, start);
            self.request(block, start);
            // Another thread that touched it at the same time asks once more.
            if self.rng.chance(10) {
                self.request(block, start);
            }
        }
    }

    fn request(&mut self, block: usize, start: u64) {
        // Requested when there is a server again.
        if self.incoming.is_paused() {
            return;
        }
        let name = self.memory.blocks[block].name.clone();
        let named = self.last_requested.replace(block) != Some(block);
        let length = at_most_u32(self.memory.blocks[block].host_page_bytes);
        self.requests += 1;
        self.requested.insert((block, start));
        self.say(&ReturnPathMessage::RequestPages { block: named.then_some(&name), start, length });
    }

    fn say(&mut self, message: &ReturnPathMessage<'_>) {
        let mut out = Vec::new();
        put_return_path_message(&mut out, message);
        self.answers.extend(out);
    }
}
