//! The two jobs: what the command line asks for, with everything opened.

use crate::block_options::Aio;
use crate::channel::Channel;
use crate::cli::Cli;
use crate::disk::DiskQueue;
use crate::event_loop::{Driver, run};
use crate::identity::Hook;
use crate::image_file::ImageFile;
use crate::last_resort::{Guarded, has_destination, has_source, or_end};
use crate::mapped::MappedRevert;
use crate::open_snapshot::OpenSnapshot;
use crate::progress::Display;
use crate::progress_mode::ProgressMode;
use crate::sidecar;
use crate::size::to_usize;
use crate::trace::Traced;
use crate::wait::Signals;
use clap::Parser;
use snapshot_engine::{
    Failure, Lane, Machine, Milestone, NewImage, PostcopyConfig, RevertConfig, RevertMachine, RevertSummary,
    SaveConfig, SaveMachine, SaveSummary,
};
use snapshot_image::{Geometry, Identity, Layout, ReadOptions};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a source that is really one takes until its stream begins: QEMU writes the header at once.
const USAGE_ERROR_WAIT: Duration = Duration::from_secs(2);

/// A destination that loads takes or says something all the time; one that waits for other channels
/// (multifd) never does.
const LOADING_TIMEOUT_MS: u64 = 60_000;

/// [`LOADING_TIMEOUT_MS`]; tests of a debug build do not wait so long.
fn loading_timeout_ms() -> u64 {
    #[cfg(debug_assertions)]
    if let Some(text) = std::env::var_os("QEMU_SNAPSHOT_LOADING_TIMEOUT_MS") {
        return text.to_str().and_then(|text| text.parse().ok()).unwrap_or(LOADING_TIMEOUT_MS);
    }
    LOADING_TIMEOUT_MS
}

fn stream_options(cli: &Cli) -> migration_stream::Options {
    migration_stream::Options::default().with_page_size(cli.page_size).with_max_ram_bytes(cli.max_ram)
}

fn run_traced<M: Machine>(
    cli: &Cli,
    machine: &mut M,
    (driver, signals): (&mut Driver, &Signals),
    mut progress: impl FnMut(&M),
    announce: impl FnMut(Milestone),
) -> Result<(), Failure> {
    // Without a descriptor to look at they keep their default action: a source must not be left for that.
    driver.signals = signals.reader().inspect(|_| signals.catch()).ok();
    let mut guarded = Guarded::new(Traced::new(machine, &cli.trace));
    let show = |guarded: &Guarded<Traced<'_, M>>| progress(guarded.inner().machine);
    let result = or_end(|| run(&mut guarded, driver, show, announce));
    signals.release();
    result.map_err(|error| Failure::refused(format!("poll: {error}")))
}

/// Whatever happens from now on, the peer is not left alone.
fn guard(channel: &Channel, revert: bool) {
    if revert {
        channel.output(Lane::Main).into_iter().for_each(has_destination);
    } else if channel.is_live() {
        channel.input().into_iter().for_each(has_source);
    }
}

fn disk_queue(aio: Option<Aio>) -> Result<DiskQueue, Failure> {
    DiskQueue::new(aio).map_err(|error| Failure::refused(format!("file.aio: {error}")))
}

/// Lets the peer on stdin and stdout see that the command line was wrong, as it would see any other error.
///
/// A source whose pipe no one reads any more may lose its guest (QEMU 7.2 does), and a
/// destination to which nothing was sent waits without limit. Says nothing; `revert` is whether the
/// command line asked for that.
pub fn refuse_peer(revert: bool) {
    let job = if revert { &["qemu-snapshot", "--revert", "-"][..] } else { &["qemu-snapshot", "-"] };
    let Ok(cli) = Cli::try_parse_from(job) else { return };
    let failure = || Failure::refused("the command line is wrong");
    let Ok(signals) = Signals::new() else { return };
    let channel = if revert {
        Channel::for_revert(None, false, None, signals.as_fd())
    } else {
        Channel::for_save(None, None, signals.as_fd())
    };
    let (Ok(channel), Ok(disk)) = (channel, disk_queue(None)) else { return };
    guard(&channel, revert);
    let (live, can_answer) = (channel.is_live(), channel.can_answer());
    if revert && !can_answer {
        return;
    }
    if !revert && (!live || !channel.has_input_within(USAGE_ERROR_WAIT)) {
        return;
    }
    let Ok(reader) = signals.reader() else { return };
    signals.catch();
    let mut driver = Driver { channel, image: None, disk, signals: Some(reader), listens: revert };
    // What comes of it has been said already.
    let _ = if revert {
        run(&mut RevertMachine::refusing(revert_config(&cli), failure()), &mut driver, |_| (), |_| ())
    } else {
        run(
            &mut SaveMachine::refusing(save_config(&cli, [0; 16], live, can_answer), failure()),
            &mut driver,
            |_| (),
            |_| (),
        )
    };
}

fn save_config(cli: &Cli, uuid: [u8; 16], live: bool, can_answer: bool) -> SaveConfig {
    let created_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    SaveConfig::new(Identity { uuid, created_unix_s }).with(|config| {
        config.stream = stream_options(cli);
        config.no_vmdesc = cli.no_vmdesc;
        config.overwrite = cli.overwrite;
        config.live = live;
        config.can_answer = can_answer;
        config.memory_bytes = to_usize(cli.memory);
        config.timeout_ms = cli.timeout.map(|seconds| seconds.saturating_mul(1000));
    })
}

fn revert_config(cli: &Cli) -> RevertConfig {
    RevertConfig::new(0).with(|config| {
        config.stream = stream_options(cli);
        config.allow_unverified = cli.unverified;
        config.fresh_ram = cli.fresh_ram;
        config.timeout_ms = cli.timeout.map(|seconds| seconds.saturating_mul(1000));
    })
}

/// What the command line says of postcopy, if that is wanted.
fn postcopy_config(cli: &Cli, channel: &Channel) -> Option<PostcopyConfig> {
    let percent = cli.postcopy.or(cli.recover.map(|_| 0))?;
    Some(PostcopyConfig::new(rustix::param::page_size() as u64).with(|config| {
        config.percent = percent;
        config.host_pages = cli.host_page.clone();
        config.preempt = cli.preempt;
        config.record_ms = cli.record_hot_set.map(|seconds| seconds.saturating_mul(1000));
        config.can_answer = channel.can_be_answered();
        config.recover = cli.recover;
    }))
}

/// Saves the stream of the channel into the image; `warn` takes what killed saves left.
///
/// # Errors
///
/// Why nothing was saved.
pub fn save(cli: &Cli, mut warn: impl FnMut(&str)) -> Result<SaveSummary, Failure> {
    let timeout = cli.timeout.map(Duration::from_secs);
    let signals = Signals::new().map_err(Failure::refused)?;
    signals.catch();
    let channel = Channel::for_save(cli.uri.as_ref(), timeout, signals.as_fd()).map_err(Failure::refused)?;
    signals.release();
    guard(&channel, false);
    let mut uuid = [0; 16];
    rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty()).map_err(Failure::refused)?;
    // A random UUID: version 4, variant 1 (RFC 9562).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let mut config = save_config(cli, uuid, channel.is_live(), channel.can_answer());
    let socket = channel.is_socket();
    // Nothing from here on may end the process before the machine has run: the source's guest would
    // pay for it.
    let (image, disk, mut machine) = match open_for_save(cli, &mut config, &mut warn) {
        Ok((image, disk)) => (Some(image), disk, SaveMachine::new(config)),
        Err(failure) => (None, disk_queue(None)?, SaveMachine::refusing(config, failure)),
    };
    let mut driver = Driver { channel, image, disk, signals: None, listens: false };
    let mut display = Display::new(cli.progress);
    let progress = |machine: &SaveMachine| display.show(machine.progress());
    let result = run_traced(cli, &mut machine, (&mut driver, &signals), progress, |_| ());
    display.end();
    result?;
    let mut summary = machine.outcome()?;
    summary.source_could_not_see &= socket;
    if let (Layout::Linear, Some(image)) = (summary.layout, &driver.image)
        && let Err(error) = image.make_read_only()
    {
        warn(&format!(
            "the image cannot be made read-only: {error}; guests that are mapped from it see what is written to it"
        ));
    }
    Ok(summary)
}

fn open_for_save(
    cli: &Cli,
    config: &mut SaveConfig,
    mut warn: impl FnMut(&str),
) -> Result<(ImageFile, DiskQueue), Failure> {
    let spec = cli.image_spec().map_err(Failure::refused)?;
    let geometry = cli.cluster_size.map(Geometry::with_cluster_size).transpose().map_err(Failure::refused)?;
    let image = ImageFile::open_for_save(&spec, cli.create).map_err(Failure::refused)?;
    config.existing_length_bytes = image.length_bytes().map_err(Failure::refused)?;
    config.create = cli.create.then_some(geometry.map_or(NewImage::Fitting, NewImage::Of));
    config.layout = cli.layout.map(Layout::from);
    let disk = disk_queue(spec.aio)?;
    image.sweep().iter().for_each(|line| warn(line));
    Ok((image, disk))
}

/// A revert that is done.
#[derive(Debug, Clone)]
pub struct Reverted {
    /// What was sent.
    pub summary: RevertSummary,
    /// The guest's drivers have been told of their new addresses, as far as can be known.
    pub drivers_told: bool,
}

/// Sends the image's snapshot to the channel; `announce` takes milestones, with the time since
/// the start, `inform` of what was found, `warn` of what may be wrong.
///
/// # Errors
///
/// Why the destination did not get everything.
pub fn revert(
    cli: &Cli,
    mut announce: impl FnMut(Milestone, Duration),
    inform: impl FnMut(&str),
    mut warn: impl FnMut(&str),
) -> Result<Reverted, Failure> {
    let start = Instant::now();
    if let (Some(uuid), Some(_)) = (&cli.recover, &cli.uri) {
        // QEMU 7.2 ends, and the guest with it, when a recovery connection breaks before it has
        // resumed: what can be known to be wrong must be known before there is a connection.
        check_recovery(cli, uuid)?;
    }
    let is_json = cli.progress == ProgressMode::Json;
    let mut hook = Hook::new(cli.identity.mac_hook.clone(), is_json, cli.uri.is_none());
    let signals = Signals::new().map_err(Failure::refused)?;
    signals.catch();
    let timeout = cli.timeout.map(Duration::from_secs);
    let channel = Channel::for_revert(cli.uri.as_ref(), cli.preempt, timeout, signals.as_fd())
        .map_err(Failure::refused)?;
    signals.release();
    guard(&channel, true);
    let mut config = revert_config(cli);
    config.postcopy = postcopy_config(cli, &channel);
    // What reads a pipe in precopy may be any program, and stand still for as long as it likes.
    let is_destination = config.postcopy.is_some() || channel.is_socket();
    config.loading_timeout_ms = is_destination.then(loading_timeout_ms);
    let opened = match open_for_revert(cli, &mut config, &mut warn) {
        // Whoever waits at a pipe has to see this as any other error.
        Ok(_) if cli.preempt && !channel.is_preempt() => {
            Err(Failure::refused("--preempt needs a second connection: --uri=unix:PATH"))
        }
        Ok(_) if hook.is_wanted() && !channel.can_answer() => {
            Err(Failure::refused("--mac-hook is for a guest that runs, and the output is a file"))
        }
        opened => opened,
    };
    let opened = match opened {
        Ok((image, _)) if over_itself(&channel, &image)? => {
            return Err(Failure::refused("the output is the image, which would be overwritten"));
        }
        // In a file no one waits for a byte that says so; and it may be the image.
        Err(failure) if !channel.can_answer() => return Err(failure),
        opened => opened,
    };
    let opened = opened.and_then(|(image, disk)| {
        let mapped = prove_mapped(cli, &channel, &image, inform, &mut warn)?;
        Ok((image, disk, mapped))
    });
    let (image, disk, mapped, mut machine) = match opened {
        Ok((image, disk, mapped)) => {
            config.mapped = mapped.as_ref().map_or_else(Vec::new, |mapped| mapped.blocks.clone());
            (Some(image), disk, mapped, RevertMachine::new(config))
        }
        Err(failure) => (None, disk_queue(None)?, None, RevertMachine::refusing(config, failure)),
    };
    let mut driver = Driver { channel, image, disk, signals: None, listens: true };
    let mut display = Display::new(cli.progress);
    let result = run_traced(
        cli,
        &mut machine,
        (&mut driver, &signals),
        |machine| display.show(machine.progress()),
        |milestone| {
            match &milestone {
                Milestone::Identity { assigned } => hook.assigned(Arc::clone(assigned)),
                Milestone::Running { .. } => hook.guest_runs(),
                Milestone::Serving { .. } | Milestone::Resumed { .. } => {}
            }
            announce(milestone, start.elapsed());
        },
    );
    display.end();
    result?;
    // Worth keeping even if not everything went well behind it.
    let stored = match (machine.hot_set(), cli.image_spec()) {
        (Some(hot), Ok(spec)) => sidecar::store(&spec.path, hot),
        _ => Ok(()),
    };
    let summary = machine.outcome()?;
    stored.map_err(Failure::refused)?;
    // The guest runs: its drivers are told before anything else is done about it.
    let told = hook.end(&driver.channel);
    mapped.map_or(Ok(()), |mapped| mapped.finish(cli.uri.is_none(), warn))?;
    told.map(|drivers_told| Reverted { summary, drivers_told })
}

/// What the destination has mapped from the image, if that is to be left out.
fn prove_mapped(
    cli: &Cli,
    channel: &Channel,
    image: &ImageFile,
    inform: impl FnMut(&str),
    warn: impl FnMut(&str),
) -> Result<Option<MappedRevert>, Failure> {
    let Some(blocks) = &cli.mapped else { return Ok(None) };
    let file = image.file.as_ref().ok_or(Failure::NoImage)?;
    let output = channel.output(Lane::Main).ok_or(Failure::Unfinished)?;
    if let Some(folder) = &cli.ram_files {
        return MappedRevert::of_ram_files((folder, file), output, blocks, inform).map(Some);
    }
    let argument = cli.image.as_deref().unwrap_or_default();
    MappedRevert::prepare((argument, file), output, (blocks, cli.verify), inform, warn).map(Some)
}

/// Whether the snapshot would be sent to its own image.
fn over_itself(channel: &Channel, image: &ImageFile) -> Result<bool, Failure> {
    image.file.as_ref().map_or(Ok(false), |file| channel.writes_to(file)).map_err(Failure::refused)
}

/// The image can be opened, and holds the snapshot with this UUID.
fn check_recovery(cli: &Cli, uuid: &[u8; 16]) -> Result<(), Failure> {
    let spec = cli.image_spec().map_err(Failure::refused)?;
    let snapshot = OpenSnapshot::open(&spec, ReadOptions { allow_unverified: cli.unverified })?;
    snapshot_engine::check_recovery(uuid, snapshot.reader().snapshot())
}

fn open_for_revert(
    cli: &Cli,
    config: &mut RevertConfig,
    mut warn: impl FnMut(&str),
) -> Result<(ImageFile, DiskQueue), Failure> {
    let spec = cli.image_spec().map_err(Failure::refused)?;
    let image = ImageFile::open_for_revert(&spec).map_err(Failure::refused)?;
    config.image_length_bytes = image.length_bytes().map_err(Failure::refused)?.unwrap_or(0);
    config.identity = cli.identity.config()?;
    if let Some(postcopy) = &mut config.postcopy
        && !cli.no_hot_set
        && cli.recover.is_none()
    {
        match sidecar::load(&spec.path) {
            Ok(hot) => postcopy.hot_set = hot,
            Err(error) => warn(&format!("the hot set is not used: {error}")),
        }
    }
    Ok((image, disk_queue(spec.aio)?))
}
