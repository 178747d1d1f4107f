//! From the package on: the main thread in postcopy.

use super::fault_thread;
use super::listen::{Heard, main_channel, out_of_order, preempt_channel, resume};
use super::loader::Loader;
use super::package::{Package, split};
use super::shared::{Shared, lock};
use super::{
    Connection, DestinationConfig, DestinationOutcome, Guest, Purpose, new_reader, start_guest, write_disks,
};
use crate::real::bitmaps::Bitmaps;
use crate::real::channel::{Breaker, Input};
use crate::real::devices::sections_checksum;
use crate::real::error::{Error, at};
use crate::real::faults::Faults;
use crate::real::stream::RecordStream;
use crate::rng::Rng;
use background_snapshot::Userfault;
use linux_raw_sys::general::{UFFD_FEATURE_MISSING_HUGETLBFS, UFFD_FEATURE_MISSING_SHMEM};
use migration_stream::Command;
use migration_stream::protocol::IncomingState;
use rustix::event::EventfdFlags;
use snapshot_engine::error_text;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

/// Connections that break more often are given up.
const RECOVERIES: u32 = 1000;

/// The preempt channel's thread, and what ends it.
type Urgent<'scope> = (ScopedJoinHandle<'scope, ()>, Breaker);

pub(super) fn run(
    loader: &mut Loader<'_>,
    stream: &mut RecordStream,
    bytes: &[u8],
    meet: &mut dyn FnMut(Purpose) -> io::Result<Connection>,
    start: Instant,
    outcome: &mut DestinationOutcome,
) -> Result<Guest, Error> {
    outcome.postcopy = true;
    let offset = stream.offset();
    let refuse = |text: String| Error::Refused { offset, text };
    let shared = Arc::clone(loader.shared(offset)?);
    let package = split(bytes).map_err(refuse)?;
    let listen = listens(loader, &package, offset)?;
    if !listen {
        return Err(refuse(format!("package without LISTEN in state {}", shared.state())));
    }
    loader.devices = Some((sections_checksum(package.sections), Vec::new()));
    let userfault = if loader.advice.is_some() { Some(watch_memory(loader, &shared, offset)?) } else { None };
    let stop =
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| at("eventfd")(error.into()))?;
    let result = std::thread::scope(|scope| {
        if let Some(userfault) = &userfault {
            scope.spawn(|| fault_thread::run(&shared, userfault, &stop));
        }
        let mut urgent = None;
        let result = threads(scope, loader, &shared, stream, &package, meet, &mut urgent, (start, outcome));
        end_preempt(urgent);
        if let Err(error) = &result {
            // Whoever waits for a page must not any more, or the scope would not end.
            shared.fail(Error::Wrong(error_text(error)));
        }
        shared.release();
        // The descriptor is ours and takes any number.
        let _ = rustix::io::write(&stop, &1u64.to_ne_bytes());
        result
    });
    outcome.time_to_complete = start.elapsed();
    result
}

/// The commands before the device sections; true if LISTEN is among them.
fn listens(loader: &Loader<'_>, package: &Package<'_>, offset: u64) -> Result<bool, Error> {
    let mut listen = false;
    for command in &package.before {
        in_package(loader, command, offset)?;
        listen |= *command == Command::PostcopyListen;
    }
    Ok(listen)
}

/// A command in the package.
fn in_package(loader: &Loader<'_>, command: &Command<'_>, offset: u64) -> Result<(), Error> {
    lock(&loader.incoming).command(command, true).map_err(out_of_order(offset))?;
    match command {
        Command::Ping(value) => lock(&loader.back).pong(*value),
        Command::PostcopyListen | Command::PostcopyRun => Ok(()),
        // QEMU reads their payload from the main channel.
        _ => Err(Error::Refused {
            offset,
            text: "package: a command other than LISTEN, PING and RUN".to_owned(),
        }),
    }
}

/// Has missing pages reported from now on.
fn watch_memory(loader: &Loader<'_>, shared: &Shared, offset: u64) -> Result<Arc<Userfault>, Error> {
    let found = loader.advice.map_or(0, |advice| advice.page_size_summary);
    let expected = shared.memory.blocks().iter().fold(0, |sum, block| sum | block.host_page as u64);
    if found != expected {
        let text = format!("ADVISE has page sizes {found:#x}, expected {expected:#x}");
        return Err(Error::Refused { offset, text });
    }
    let features = UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MISSING_SHMEM;
    // Only threads of our own touch this memory, so their faults are enough where others are not permitted.
    let userfault = Userfault::open(features).or_else(|_| Userfault::open_user_mode(features));
    let userfault = Arc::new(userfault.map_err(Error::Userfaultfd)?);
    for region in &shared.regions {
        userfault.register(region, false).map_err(at("UFFDIO_REGISTER"))?;
    }
    *lock(&shared.userfault) = Some(Arc::clone(&userfault));
    Ok(userfault)
}

/// The threads that read, and the main thread, until everything is there.
#[allow(clippy::too_many_arguments, reason = "what a scope's threads share, and what they leave behind")]
fn threads<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    loader: &Loader<'_>,
    shared: &'env Arc<Shared>,
    stream: &'scope mut RecordStream,
    package: &Package<'_>,
    meet: &mut dyn FnMut(Purpose) -> io::Result<Connection>,
    urgent: &mut Option<Urgent<'scope>>,
    (start, outcome): (Instant, &mut DestinationOutcome),
) -> Result<Guest, Error> {
    let offset = stream.offset();
    *urgent = preempt(scope, loader, shared, meet)?;
    let (bitmaps, faults) = (Arc::clone(&loader.bitmaps), loader.config().faults.clone());
    *lock(&shared.breaker) = Some(stream.input().breaker().map_err(at("copy a descriptor"))?);
    let listener = { scope.spawn(move || listen_thread(shared, stream, &bitmaps, &faults)) };
    let guest = load_package(loader, shared, package, offset);
    if guest.is_err() {
        shared.release();
        shared.shut_down();
    }
    let heard = listener.join();
    let guest = match guest {
        Ok(guest) => guest,
        // A return path that breaks is what the listen thread knows more about.
        Err(error @ Error::Io { .. }) => return Err(lock(&shared.progress).failure.take().unwrap_or(error)),
        Err(error) => return Err(error),
    };
    outcome.time_to_run = guest.started.duration_since(start);
    let heard = heard.ok().flatten().ok_or_else(|| failure(shared));
    let result =
        heard.and_then(|heard| follow(scope, loader, shared, (heard, offset), meet, urgent, outcome));
    if let Err(error) = result {
        // The guest waits for pages that will not come, and ends only when it need not any more.
        shared.release();
        drop(guest);
        return Err(error);
    }
    Ok(guest)
}

/// The main channel after RUN, as often as it breaks, until the end mark.
fn follow<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    loader: &Loader<'_>,
    shared: &'env Arc<Shared>,
    (mut heard, offset): (Heard, u64),
    meet: &mut dyn FnMut(Purpose) -> io::Result<Connection>,
    urgent: &mut Option<Urgent<'scope>>,
    outcome: &mut DestinationOutcome,
) -> Result<(), Error> {
    let (config, bitmaps) = (loader.config(), &loader.bitmaps);
    while heard == Heard::Broken {
        if let Some(error) = lock(&shared.progress).failure.take() {
            return Err(error);
        }
        if loader.advice.is_none() {
            // Bitmaps alone: those that are complete stay, and the guest runs on.
            break;
        }
        if !lock(&shared.incoming).broken() {
            return Err(Error::Closed { offset, state: shared.state().to_string() });
        }
        outcome.recoveries += 1;
        if outcome.recoveries > RECOVERIES {
            return Err(Error::Wrong(format!("the connection broke more than {RECOVERIES} times")));
        }
        end_preempt(urgent.take());
        // Our end may be what broke: the source has to see it, too.
        shared.shut_down();
        lock(&shared.back).disconnect();
        let (input, output, _) = meet(Purpose::Recovery).map_err(at("wait for a recovery"))?.split();
        *lock(&shared.breaker) = Some(input.breaker().map_err(at("copy a descriptor"))?);
        lock(&shared.back).reconnect(output);
        let mut stream = RecordStream::resumed(input, config.options(), &loader.leader, false)?;
        heard = recovered(main_channel(shared, &mut stream, bitmaps, &config.faults))?;
        if heard == Heard::Resume {
            *urgent = preempt(scope, loader, shared, meet)?;
            let resumed =
                resume(shared).and_then(|()| main_channel(shared, &mut stream, bitmaps, &config.faults));
            heard = recovered(resumed)?;
        }
    }
    shared.wait("RUN", config.timeout, |progress| progress.running)
}

/// The listen thread of the first connection; none if it failed.
fn listen_thread(
    shared: &Shared,
    stream: &mut RecordStream,
    bitmaps: &Mutex<Bitmaps>,
    faults: &Faults,
) -> Option<Heard> {
    loop {
        match main_channel(shared, stream, bitmaps, faults) {
            // It is ignored where nothing is paused.
            Ok(Heard::Resume) => {}
            Ok(Heard::Broken) if shared.state() == IncomingState::Listening => {
                // Before RUN there is nothing to be recovered.
                shared.fail(stream.ended(IncomingState::Listening));
                return None;
            }
            Ok(heard) => return Some(heard),
            Err(error) => {
                shared.fail(error);
                return None;
            }
        }
    }
}

/// A channel that breaks in a recovery is no other failure than one that breaks elsewhere.
fn recovered(heard: Result<Heard, Error>) -> Result<Heard, Error> {
    match heard {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(Heard::Broken),
        other => other,
    }
}

fn failure(shared: &Shared) -> Error {
    lock(&shared.progress)
        .failure
        .take()
        .unwrap_or_else(|| Error::Wrong("a thread of the destination failed".to_owned()))
}

/// The main thread in the package: devices that touch RAM, then RUN.
fn load_package(
    loader: &Loader<'_>,
    shared: &Arc<Shared>,
    package: &Package<'_>,
    offset: u64,
) -> Result<Guest, Error> {
    let config: &DestinationConfig = loader.config();
    let reader = new_reader(config, shared);
    let mut rng = Rng::new(config.load.seed ^ 0xde71_ce50);
    for _ in 0..config.device_touches.min(shared.memory.pages()) {
        reader.touch(rng.below(shared.memory.pages()));
        if let Some(error) = lock(&shared.progress).failure.take() {
            return Err(error);
        }
    }
    for command in &package.after {
        in_package(loader, command, offset)?;
    }
    if package.after.last() != Some(&Command::PostcopyRun) {
        let text = format!("package without RUN in state {}", shared.state());
        return Err(Error::Refused { offset, text });
    }
    // Before the guest touches anything: what it misses at the end mark is zero, what the devices
    // miss is an error.
    lock(&shared.progress).running = true;
    shared.changed.notify_all();
    let guest = start_guest(config, shared, reader)?;
    write_disks(config, &mut lock(&loader.bitmaps));
    Ok(guest)
}

/// Starts the thread of the preempt channel, if there is one.
fn preempt<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    loader: &Loader<'_>,
    shared: &'env Arc<Shared>,
    meet: &mut dyn FnMut(Purpose) -> io::Result<Connection>,
) -> Result<Option<Urgent<'scope>>, Error> {
    if !loader.config().preempt {
        return Ok(None);
    }
    let (input, _, _): (Input, _, _) =
        meet(Purpose::Preempt).map_err(at("wait for the preempt channel"))?.split();
    let breaker = input.breaker().map_err(at("copy a descriptor"))?;
    let faults = loader.config().faults.clone();
    let mut stream = RecordStream::resumed(input, loader.config().options(), &loader.leader, true)?;
    let thread = scope.spawn(move || {
        if let Err(error) = preempt_channel(shared, &mut stream, &faults) {
            shared.fail(error);
        }
    });
    Ok(Some((thread, breaker)))
}

/// Nothing may be placed from it any more.
fn end_preempt(urgent: Option<Urgent<'_>>) {
    if let Some((thread, breaker)) = urgent {
        breaker.shut_down();
        // A panic has been reported where it happened.
        let _ = thread.join();
    }
}
