//! `snapsim destination`

use crate::options::{EndArguments, LoadArguments};
use crate::{Failure, hint, print};
use clap::{ArgGroup, Args};
use snapshot_engine::parse_bytes;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use vm_simulator::real::bitmaps::{Bitmap, BitmapRules, Node};
use vm_simulator::real::destination::{self, DestinationConfig, DestinationOutcome, Purpose};
use vm_simulator::real::{Address, Connection, Digest, FileBackend, Listener};

/// The longest digest file.
const DIGEST_LIMIT_BYTES: u64 = 1 << 30;

/// A VM that loads a stream, runs a guest on it, and compares every page
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("peer").required(true)))]
pub(super) struct Arguments {
    /// Where the stream comes from: stdio, fd:N, unix:PATH (listens there), exec:COMMAND
    #[arg(group = "peer", value_parser = Address::parse)]
    from: Option<Address>,
    /// Start a shell command and load what it writes, as QEMU's exec: does; it reads the return path
    #[arg(long, group = "peer", value_name = "COMMAND")]
    exec: Option<String>,
    /// The command that goes on after a postcopy broke
    #[arg(long, value_name = "COMMAND")]
    recover_exec: Option<String>,
    /// What RAM and devices must be, as a source's --digest wrote it
    #[arg(long, value_name = "FILE")]
    digest: Option<PathBuf>,
    /// Write to this file what was loaded
    #[arg(long, value_name = "FILE", conflicts_with = "writes")]
    digest_out: Option<PathBuf>,
    /// Of 100 accesses of the guest, how many are writes (to pages that have been compared)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    writes: u64,
    /// Pages that the devices touch while they are loaded
    #[arg(long, default_value_t = 3)]
    device_touches: u64,
    /// How long the guest goes on when everything is there, in milliseconds
    #[arg(long, default_value_t = 0)]
    run_for: u64,
    /// The most RAM
    #[arg(long, default_value = "64G", value_parser = parse_bytes)]
    max_ram: u64,
    /// Count pages that come twice in postcopy, instead of failing
    #[arg(long)]
    count_duplicates: bool,
    /// A disk: NODE:BYTES; may be repeated
    #[arg(long, value_name = "NODE:BYTES")]
    node: Vec<String>,
    /// A bitmap that is there already: NODE:NAME:GRANULARITY; may be repeated
    #[arg(long, value_name = "BITMAP")]
    bitmap: Vec<String>,
    /// Writes of the guest's to each disk, as soon as it runs
    #[arg(long, default_value_t = 0)]
    disk_writes: u64,
    /// Whose rules for dirty bitmaps
    #[arg(long, value_enum, default_value_t)]
    bitmap_rules: BitmapRules,
    /// Map RAM from this image before the stream arrives, privately, as QEMU does with what
    /// `snapinspect qemu-args` prints
    #[arg(long, value_name = "IMAGE")]
    mapped: Option<PathBuf>,
    /// Map one RAM block from a file: the value of QEMU's -object memory-backend-file; may be repeated
    #[arg(long, value_name = "OBJECT", value_parser = FileBackend::parse)]
    object: Vec<FileBackend>,
    /// Names a mapped block as RAM of the machine: QEMU's -numa node,memdev=BLOCK. Not looked at here;
    /// whoever proves the mapping reads it
    #[arg(long, value_name = "NODE", hide = true)]
    numa: Vec<String>,
    /// When everything has been compared and reported, stay until stdin ends
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    end: EndArguments,
}

fn usage(text: String) -> Failure {
    Failure::Usage(text)
}

fn nodes(arguments: &Arguments) -> Result<BTreeMap<Vec<u8>, Node>, Failure> {
    let mut nodes = BTreeMap::new();
    for text in &arguments.node {
        let wrong = || usage(format!("--node {text}: expected NODE:BYTES"));
        let (name, size) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bytes = parse_bytes(size).map_err(|_| wrong())?;
        nodes.insert(name.as_bytes().to_vec(), Node { bytes, bitmaps: BTreeMap::new() });
    }
    for text in &arguments.bitmap {
        let wrong = || usage(format!("--bitmap {text}: expected NODE:NAME:GRANULARITY, of a --node"));
        let (rest, granularity) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (node, name) = rest.split_once(':').ok_or_else(wrong)?;
        let granularity = parse_bytes(granularity).ok().and_then(|size| u32::try_from(size).ok());
        let granularity =
            granularity.filter(|size| size.is_power_of_two() && *size >= 512).ok_or_else(wrong)?;
        let node: &mut Node = nodes.get_mut(node.as_bytes()).ok_or_else(wrong)?;
        node.bitmaps.insert(name.as_bytes().to_vec(), Bitmap::new(node.bytes, granularity, true));
    }
    Ok(nodes)
}

fn read_digest(arguments: &Arguments) -> Result<Option<Digest>, Failure> {
    let Some(path) = &arguments.digest else { return Ok(None) };
    let wrong = |text: String| usage(format!("{}: {text}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if length > DIGEST_LIMIT_BYTES {
        return Err(wrong(format!("{length} bytes, at most {DIGEST_LIMIT_BYTES} can be")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Digest::parse(&text, arguments.max_ram).map(Some).map_err(|error| wrong(hint::digest_text(&error)))
}

/// Starts this program anew with a word of the command line for each RAM block of the image, where
/// `qemu-snapshot` looks for them as it does with QEMU's; returns only if that fails.
fn name_blocks(image: &Path) -> Failure {
    let wrong = |error: io::Error| usage(format!("{}: {error}", image.display()));
    let backends = match FileBackend::of_image(image) {
        Ok(backends) => backends,
        Err(error) => return wrong(error),
    };
    let words = |backend: &FileBackend| {
        let node = format!("node,memdev={}", backend.id);
        ["--object".to_owned(), backend.to_object(), "--numa".to_owned(), node]
    };
    let objects = backends.iter().flat_map(words);
    let error = match std::env::current_exe() {
        Ok(own) => Command::new(own).args(std::env::args_os().skip(1)).args(objects).exec(),
        Err(error) => error,
    };
    usage(format!("start anew: {error}"))
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let (Some(image), true) = (&arguments.mapped, arguments.object.is_empty()) {
        return Err(name_blocks(image));
    }
    let address = match (&arguments.from, &arguments.exec) {
        (Some(from), _) => from.clone(),
        (None, Some(command)) => Address::Exec(command.clone()),
        (None, None) => return Err(usage("expected an address or --exec".to_owned())),
    };
    let (timeout, faults) = (arguments.end.timeout(), arguments.end.faults());
    let config = DestinationConfig {
        memory: arguments.end.memory,
        backends: arguments.object.clone(),
        host_page: arguments.end.host_page,
        load: arguments.load.load(),
        write_percent: arguments.writes,
        digest: read_digest(arguments)?,
        make_digest: arguments.digest_out.is_some(),
        device_touches: arguments.device_touches,
        run_for: Duration::from_millis(arguments.run_for),
        max_ram_bytes: arguments.max_ram,
        preempt: arguments.end.preempt,
        refuse_duplicates: !arguments.count_duplicates,
        nodes: nodes(arguments)?,
        disk_writes: arguments.disk_writes,
        bitmap_rules: arguments.bitmap_rules,
        timeout,
        faults: faults.clone(),
    };
    let listener = match &address {
        Address::Unix(path) => {
            let listener = Listener::bind(path);
            Some(listener.map_err(|error| usage(format!("unix:{}: {error}", path.display())))?)
        }
        _ => None,
    };
    let meet = |purpose| match (&listener, purpose) {
        (Some(listener), _) => listener.accept(timeout, &faults),
        (None, Purpose::Main) => Connection::connect(&address, timeout, &faults),
        (None, Purpose::Recovery) => match &arguments.recover_exec {
            Some(command) => Connection::connect(&Address::Exec(command.clone()), timeout, &faults),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "give --recover-exec, or use unix:")),
        },
        (None, Purpose::Preempt) => Err(io::Error::new(io::ErrorKind::Unsupported, "--preempt needs unix:")),
    };
    let mut reported = Ok(());
    destination::run_until(&config, meet, |outcome| {
        reported = report(arguments, outcome, address == Address::Stdio);
        if arguments.stay && reported.is_ok() {
            // What arrives, and whether it can be read, does not matter: only its end does.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
        }
    })?;
    reported
}

/// Writes what was asked for of what was loaded.
fn report(arguments: &Arguments, outcome: &DestinationOutcome, stdout_is_taken: bool) -> Result<(), Failure> {
    if let (Some(path), Some(digest)) = (&arguments.digest_out, &outcome.digest) {
        let written = std::fs::write(path, digest.to_text());
        written.map_err(|error| usage(format!("{}: {error}", path.display())))?;
    }
    print(&outcome.report(), arguments.end.json, stdout_is_taken)
}
