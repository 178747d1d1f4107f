//! The two jobs: what the command line asks for, with everything opened.

use crate::channel::Channel;
use crate::cli::Cli;
use crate::disk::DiskQueue;
use crate::event_loop::{Driver, run};
use crate::image_file::ImageFile;
use crate::progress::Display;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use snapshot_engine::{
    Failure, Progress, RevertConfig, RevertMachine, RevertSummary, SaveConfig, SaveMachine, SaveSummary,
};
use snapshot_image::{Geometry, Identity};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn refused(error: impl ToString) -> Failure {
    Failure::Refused(error.to_string())
}

/// A socket that becomes readable on SIGTERM and SIGINT.
fn signals() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

fn stream_options(cli: &Cli) -> migration_stream::Options {
    migration_stream::Options { page_size: cli.page_size, max_ram_bytes: cli.max_ram }
}

fn driver(channel: Channel, image: Option<ImageFile>, cli: &Cli, listens: bool) -> Result<Driver, Failure> {
    let aio = cli.image_spec().ok().and_then(|spec| spec.aio);
    let disk = DiskQueue::new(aio).map_err(|error| refused(format!("file.aio: {error}")))?;
    Ok(Driver { channel, image, disk, signals: Some(signals().map_err(refused)?), listens })
}

/// Saves the stream of the channel into the image.
///
/// # Errors
///
/// Why nothing was saved.
pub fn save(cli: &Cli) -> Result<SaveSummary, Failure> {
    let timeout = cli.timeout.map(Duration::from_secs);
    let channel = Channel::for_save(cli.uri.as_ref(), timeout).map_err(refused)?;
    let mut uuid = [0; 16];
    rustix::rand::getrandom(&mut uuid, rustix::rand::GetRandomFlags::empty()).map_err(refused)?;
    // A random UUID: version 4, variant 1 (RFC 9562).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let created_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let mut config = SaveConfig {
        stream: stream_options(cli),
        no_vmdesc: cli.no_vmdesc,
        existing_length_bytes: None,
        create: None,
        overwrite: cli.overwrite,
        live: channel.is_live(),
        can_answer: channel.can_answer(),
        identity: Identity { uuid, created_unix_s },
        memory_bytes: usize::try_from(cli.memory).unwrap_or(usize::MAX),
        timeout_ms: cli.timeout.map(|seconds| seconds * 1000),
    };
    let socket = channel.is_socket();
    let (image, opened) = match open_for_save(cli, &mut config) {
        Ok(image) => (Some(image), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    let mut machine = match opened {
        Ok(()) => SaveMachine::new(config),
        Err(failure) => SaveMachine::refusing(config, failure),
    };
    let mut driver = driver(channel, image, cli, false)?;
    let mut display = Display::new(cli.progress);
    let result = run(&mut machine, &mut driver, |machine| display.show(machine.progress()));
    display.end();
    result.map_err(|error| refused(format!("poll: {error}")))?;
    let mut summary = machine.outcome()?;
    summary.source_could_not_see &= socket;
    Ok(summary)
}

fn open_for_save(cli: &Cli, config: &mut SaveConfig) -> Result<ImageFile, Failure> {
    let spec = cli.image_spec().map_err(refused)?;
    let geometry = Geometry::with_cluster_size(cli.cluster_size).map_err(refused)?;
    let image = ImageFile::open_for_save(&spec, cli.create).map_err(refused)?;
    config.existing_length_bytes = image.length_bytes().map_err(refused)?;
    config.create = cli.create.then_some(geometry);
    Ok(image)
}

/// Sends the image's snapshot to the channel.
///
/// # Errors
///
/// Why the destination did not get everything.
pub fn revert(cli: &Cli) -> Result<RevertSummary, Failure> {
    let channel = Channel::for_revert(cli.uri.as_ref()).map_err(refused)?;
    let mut config = RevertConfig {
        image_length_bytes: 0,
        stream: stream_options(cli),
        allow_unverified: cli.unverified,
        fresh_ram: cli.fresh_ram,
        timeout_ms: cli.timeout.map(|seconds| seconds * 1000),
    };
    let opened = open_for_revert(cli, &mut config);
    let (image, mut machine) = match opened {
        Ok(image) => (Some(image), RevertMachine::new(config)),
        Err(failure) => (None, RevertMachine::refusing(config, failure)),
    };
    let mut driver = driver(channel, image, cli, true)?;
    let mut display = Display::new(cli.progress);
    let result = run(&mut machine, &mut driver, |machine: &RevertMachine| {
        let progress: Progress = machine.progress();
        display.show(progress);
    });
    display.end();
    result.map_err(|error| refused(format!("poll: {error}")))?;
    machine.outcome()
}

fn open_for_revert(cli: &Cli, config: &mut RevertConfig) -> Result<ImageFile, Failure> {
    let spec = cli.image_spec().map_err(refused)?;
    let image = ImageFile::open_for_revert(&spec).map_err(refused)?;
    config.image_length_bytes = image.length_bytes().map_err(refused)?.unwrap_or(0);
    Ok(image)
}
