//! Postcopy: part of RAM, then the devices, then the guest runs at the destination and RAM follows,
//! requested pages first.
//!
//! After RUN a broken connection is not the end: the source connects again, asks what has arrived,
//! and goes on.

use super::precopy::send_pages;
use super::sender::Sender;
use super::serve::{Ear, Heard, Sent, listen, target_pages};
use super::wire::{Advice, leader, put_ram_end};
use super::{Connection, Output, Source, bitmaps};
use crate::real::channel::Input;
use crate::real::devices::Devices;
use crate::real::error::{Error, at};
use crate::real::faults::{Fault, Faults};
use crate::real::memory::{GuestMemory, TARGET_PAGE_BYTES};
use crate::size::to_usize;
use migration_stream::{Command, DiscardRange, QEMU_VM_EOF, put_command};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ranges in one discard command (`MAX_DISCARDS_PER_COMMAND`, migration/postcopy-ram.h).
const RANGES: usize = 12;
/// Background bytes that may stand before a request.
const PIECE_BYTES: usize = 64 << 10;
/// A connection that breaks more often is given up.
const RECOVERIES: u32 = 1000;

/// What both senders share.
struct Serving<'a> {
    memory: &'a Arc<GuestMemory>,
    sent: &'a Sent,
    ear: Arc<Ear>,
    timeout: Duration,
    faults: &'a Faults,
}

impl Source<'_> {
    pub(super) fn postcopy(
        &mut self,
        mut sender: Sender<Output>,
        input: Input,
        percent: u64,
        preempt: bool,
        connect: &mut dyn FnMut() -> io::Result<Connection>,
    ) -> Result<(u64, u64, u64), Error> {
        let memory = Arc::clone(&self.memory);
        let sent = Sent::new(&memory);
        let timeout = input.timeout();
        let faults = &self.config.faults;
        let mut serving = Serving { memory: &memory, sent: &sent, ear: Arc::default(), timeout, faults };
        let mut ears = Listeners::default();
        ears.start(input, &memory, &serving.ear)?;
        let result = (|| {
            sender.raw(&leader(self.config, &memory, Advice::Ram))?;
            let names: Vec<_> = self.config.blocks.iter().map(|(name, _)| name.clone()).collect();
            let mut urgent = if preempt {
                serving.ear.wait("PONG 1", timeout, |heard| heard.pong_1.then_some(()))?;
                let output = self.extra(connect)?;
                Some(Sender::new(output, names.clone(), false, None))
            } else {
                None
            };
            let devices = self.switch_over(&mut sender, &sent, percent)?;
            sender.raw(&package(&memory, &sent, &devices))?;
            // A host page of hundreds of records keeps the channel busy anyway.
            let (mut normal, mut zero, mut bytes) = (0, 0, 0);
            loop {
                let done = serving.serve(&mut sender, urgent.as_mut(), &self.config.bitmaps);
                for sender in [Some(&sender), urgent.as_ref()].into_iter().flatten() {
                    normal += sender.normal;
                    zero += sender.zero;
                    bytes += sender.out.offset();
                }
                self.outcome.requests += serving.ear.lock().request_count;
                match done {
                    Ok(()) => return Ok((normal, zero, bytes)),
                    Err(error) if !broken(&error) || self.outcome.recoveries >= RECOVERIES => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
                (sender, urgent) = loop {
                    self.outcome.recoveries += 1;
                    match serving.recover(&mut ears, connect, &names, self.config.bandwidth, preempt) {
                        // It may break again while it is being mended.
                        Err(error) if broken(&error) && self.outcome.recoveries < RECOVERIES => {}
                        other => break other?,
                    }
                };
            }
        })();
        // Whatever the destination is doing now, it finds the connection closed.
        drop(sender);
        ears.join();
        result
    }

    fn extra(&self, connect: &mut dyn FnMut() -> io::Result<Connection>) -> Result<Output, Error> {
        let (_, output, _) = connect().map_err(at("connect the preempt channel"))?.split();
        output.ok_or_else(|| at("connect the preempt channel")(io::ErrorKind::Unsupported.into()))
    }

    /// Sends `percent` of RAM while the guest runs, stops it, and notes what has to be sent again.
    fn switch_over(
        &mut self,
        sender: &mut Sender<Output>,
        sent: &Sent,
        percent: u64,
    ) -> Result<Devices, Error> {
        let memory = Arc::clone(&self.memory);
        (0..sent.blocks()).for_each(|block| drop(memory.take_dirty(block)));
        for block in 0..sent.blocks() {
            let count = sent.pages(block) as u64 * percent.min(100) / 100;
            for page in 0..to_usize(count) {
                send_pages(sender, &memory, block, target_pages(&memory, block, page))?;
                sent.set(block, page, true);
            }
        }
        sender.flush()?;
        let start = Instant::now();
        self.vcpus.pause();
        for block in 0..sent.blocks() {
            for offset in memory.take_dirty(block) {
                sent.set(block, offset / memory.blocks()[block].host_page, false);
            }
        }
        // Without any discard the destination refuses to run.
        if (0..sent.blocks()).all(|block| (0..sent.pages(block)).all(|page| sent.has(block, page))) {
            sent.set(0, 0, false);
        }
        let devices = Devices::at(self.config.load.seed, self.vcpus.accesses(), self.config.devices);
        self.outcome.downtime = start.elapsed();
        self.outcome.digest = self.digest(devices.checksum());
        Ok(devices)
    }
}

/// Whether a new connection may help.
fn broken(error: &Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    let Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof | NotConnected)
}

/// Discards, and the package that starts the destination's guest.
fn package(memory: &GuestMemory, sent: &Sent, devices: &Devices) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, block) in memory.blocks().iter().enumerate() {
        let mut ranges: Vec<DiscardRange> = Vec::new();
        for page in (0..sent.pages(number)).filter(|&page| !sent.has(number, page)) {
            let (start, length) = ((page * block.host_page) as u64, block.host_page as u64);
            match ranges.last_mut() {
                Some(range) if range.start + range.length == start => range.length += length,
                _ => ranges.push(DiscardRange { start, length }),
            }
        }
        for ranges in ranges.chunks(RANGES) {
            put_command(
                &mut out,
                &Command::PostcopyRamDiscard { block: &block.name, ranges: ranges.to_vec() },
            );
        }
    }
    put_command(&mut out, &Command::Ping(2));
    let mut package = Vec::new();
    put_command(&mut package, &Command::PostcopyListen);
    package.extend_from_slice(devices.sections());
    put_command(&mut package, &Command::Ping(3));
    put_command(&mut package, &Command::PostcopyRun);
    put_command(&mut out, &Command::Packaged(&package));
    put_command(&mut out, &Command::Ping(4));
    out
}

impl Serving<'_> {
    /// Sends everything that is left, and waits for the destination's word.
    fn serve(
        &self,
        sender: &mut Sender<Output>,
        urgent: Option<&mut Sender<Output>>,
        bitmaps: &[bitmaps::SourceBitmap],
    ) -> Result<(), Error> {
        let own_channel = urgent.is_some();
        let result = std::thread::scope(|scope| {
            let thread = urgent.map(|urgent| scope.spawn(|| self.serve_urgent(urgent)));
            let result = self.serve_main(sender, own_channel);
            {
                let mut heard = self.ear.lock();
                heard.done = true;
            }
            self.ear.notify();
            let urgent = thread.map_or(Ok(()), |thread| {
                thread.join().unwrap_or_else(|_| Err(Error::Wrong("the preempt thread failed".to_owned())))
            });
            result.and(urgent)
        });
        result?;
        let mut end = Vec::new();
        put_ram_end(&mut end);
        if !bitmaps.is_empty() {
            bitmaps::put_bits(&mut end, bitmaps, true);
        }
        end.push(QEMU_VM_EOF);
        sender.raw(&end)?;
        match self.ear.wait("SHUT", self.timeout, |heard| heard.shut)? {
            0 => Ok(()),
            value => Err(Error::ReturnPath(format!("the destination failed: SHUT {value}"))),
        }
    }

    fn serve_main(&self, sender: &mut Sender<Output>, own_channel: bool) -> Result<(), Error> {
        if self.faults.has(Fault::Silent) {
            // Nothing that the destination says changes that; in the end it goes, or the time is up.
            return self.ear.wait("the destination", self.timeout, |_| None);
        }
        let mut piece = 0;
        for block in 0..self.sent.blocks() {
            for page in 0..self.sent.pages(block) {
                self.answer(sender, own_channel)?;
                self.faults.event()?;
                if !self.sent.take(block, page) {
                    continue;
                }
                send_pages(sender, self.memory, block, target_pages(self.memory, block, page))?;
                piece += self.memory.blocks()[block].host_page;
                if piece >= PIECE_BYTES {
                    sender.flush()?;
                    piece = 0;
                }
            }
        }
        sender.flush()
    }

    /// Sends what has been requested, if this channel is the one for it.
    fn answer(&self, sender: &mut Sender<Output>, own_channel: bool) -> Result<(), Error> {
        let mut heard = self.ear.lock();
        if let Some(error) = heard.failure.take() {
            return Err(error);
        }
        if heard.closed {
            return Err(at("serve requests")(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(value) = heard.shut {
            return Err(Error::ReturnPath(format!("SHUT {value} before everything was sent")));
        }
        while !own_channel && let Some((block, page)) = self.next_request(&mut heard) {
            drop(heard);
            self.send_requested(sender, block, page)?;
            heard = self.ear.lock();
        }
        Ok(())
    }

    /// The oldest request, or with fault *reorder* the newest.
    fn next_request(&self, heard: &mut Heard) -> Option<(usize, usize)> {
        if self.faults.has(Fault::Reorder) { heard.requests.pop_back() } else { heard.requests.pop_front() }
    }

    /// A page that was requested, if it has not been sent.
    fn send_requested(&self, sender: &mut Sender<Output>, block: usize, page: usize) -> Result<(), Error> {
        if self.sent.take(block, page) {
            self.faults.delay().into_iter().for_each(std::thread::sleep);
            send_pages(sender, self.memory, block, target_pages(self.memory, block, page))?;
            sender.flush()?;
        }
        Ok(())
    }

    /// The other thread of preempt: requested pages, on their own channel.
    fn serve_urgent(&self, sender: &mut Sender<Output>) -> Result<(), Error> {
        loop {
            // The main thread always comes to an end, so this wait has one, too.
            let next = self.ear.wait("requests", Duration::from_secs(3600), |heard| {
                match self.next_request(heard) {
                    Some(request) => Some(Some(request)),
                    None if heard.done => Some(None),
                    None => None,
                }
            })?;
            let Some((block, page)) = next else { return Ok(()) };
            self.send_requested(sender, block, page)?;
        }
    }

    /// Connects again and finds out what is still to be sent.
    fn recover(
        &mut self,
        ears: &mut Listeners,
        connect: &mut dyn FnMut() -> io::Result<Connection>,
        names: &[Vec<u8>],
        bandwidth: Option<u64>,
        preempt: bool,
    ) -> Result<(Sender<Output>, Option<Sender<Output>>), Error> {
        // Our end may be what broke: the destination has to see it, too.
        ears.shut_down();
        let (input, output, _) = connect().map_err(at("connect again"))?.split();
        let output = output.ok_or_else(|| at("connect again")(io::ErrorKind::Unsupported.into()))?;
        self.ear = Arc::default();
        ears.start(input, self.memory, &self.ear)?;
        let mut sender = Sender::new(output, names.to_vec(), true, bandwidth);
        let mut bytes = Vec::new();
        names.iter().for_each(|name| put_command(&mut bytes, &Command::RecvBitmap(name)));
        sender.raw(&bytes)?;
        let received = self.ear.wait("RECV_BITMAP", self.timeout, |heard| {
            (heard.bitmaps.len() == names.len()).then(|| std::mem::take(&mut heard.bitmaps))
        })?;
        for (block, bitmap) in received {
            let per_page = self.memory.blocks()[block].host_page / TARGET_PAGE_BYTES;
            for page in 0..self.sent.pages(block) {
                let all = (page * per_page..(page + 1) * per_page).all(|target| bitmap.has(target as u64));
                self.sent.set(block, page, all);
            }
        }
        let urgent = if preempt {
            let (_, output, _) = connect().map_err(at("connect the preempt channel"))?.split();
            output.map(|output| Sender::new(output, names.to_vec(), false, None))
        } else {
            None
        };
        let mut bytes = Vec::new();
        put_command(&mut bytes, &Command::PostcopyResume);
        sender.raw(&bytes)?;
        self.ear.wait("RESUME_ACK", self.timeout, |heard| heard.resumed.then_some(()))?;
        Ok((sender, urgent))
    }
}

/// Threads that listen to return paths.
#[derive(Debug, Default)]
struct Listeners(Vec<(std::thread::JoinHandle<()>, crate::real::channel::Breaker, Arc<Ear>)>);

impl Listeners {
    fn start(&mut self, input: Input, memory: &Arc<GuestMemory>, ear: &Arc<Ear>) -> Result<(), Error> {
        let breaker = input.breaker().map_err(at("copy a descriptor"))?;
        let (known, theirs) = (Arc::clone(memory), Arc::clone(ear));
        let thread = std::thread::Builder::new().name("return path".to_owned());
        let thread = thread.spawn(move || listen(input, &known, &theirs)).map_err(at("start a thread"))?;
        self.0.push((thread, breaker, Arc::clone(ear)));
        Ok(())
    }

    /// Ends all connections.
    fn shut_down(&self) {
        for (_, breaker, ear) in &self.0 {
            ear.lock().done = true;
            breaker.shut_down();
        }
    }

    /// Ends all connections, and waits for their threads.
    fn join(self) {
        self.shut_down();
        for (thread, ..) in self.0 {
            // A panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}
