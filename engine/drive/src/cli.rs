//! The command line.

use crate::block_options::ImageSpec;
use crate::channel::Uri;
use crate::trace::Pattern;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use clap_complete::Shell;
use snapshot_engine::{parse_bytes, parse_page_size, parse_uuid};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Save a running QEMU VM into one image, or revert a VM from it.
///
/// Saves the migration stream that comes in on stdin (or --uri), or with --revert writes the stream that a QEMU started
/// with -incoming loads.
#[derive(Debug, Parser)]
#[command(name = "qemu-snapshot", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Revert: write the stream to stdout (or --uri)
    #[arg(short, long)]
    pub revert: bool,

    /// The channel: fd:N, or unix:PATH (a save listens there, a revert connects)
    #[arg(long, value_name = "URI")]
    pub uri: Option<Uri>,

    /// Target page size in bytes, where the stream does not tell it
    #[arg(long, value_name = "BYTES", value_parser = parse_page_size)]
    pub page_size: Option<u32>,

    /// Say on stderr what is done; names as in disk_write, * for anything. May be given several times
    #[arg(short = 'T', long, value_name = "[enable=]PATTERN", value_parser = OsStringValueParser::new().try_map(|text| Pattern::parse(&text)))]
    pub trace: Vec<Pattern>,

    /// Make a new image if there is none
    #[arg(long, conflicts_with = "revert")]
    pub create: bool,

    /// Cluster size of a new image, 64K to 2M (default: 1M; 64K for a guest with less than 512M of RAM)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "create")]
    pub cluster_size: Option<u64>,

    /// Replace the snapshot that the image holds, atomically
    #[arg(long, conflicts_with = "revert")]
    pub overwrite: bool,

    /// The source has suppress-vmdesc=on: the stream ends after EOF
    #[arg(long, conflicts_with = "revert")]
    pub no_vmdesc: bool,

    /// The destination's RAM is private and new: do not send zero pages
    #[arg(long, requires = "revert")]
    pub fresh_ram: bool,

    /// Start the guest when this share of its non-zero pages (0 to 100) has been sent, and serve the pages that it touches
    #[arg(long, value_name = "PERCENT", requires = "revert", group = "serve", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub postcopy: Option<u8>,

    /// Host page size of a RAM block at the destination, in bytes (huge pages). May be given several times
    #[arg(long, value_name = "BLOCK:SIZE", requires = "serve", value_parser = OsStringValueParser::new().try_map(|text| host_page(&text)))]
    pub host_page: Vec<(Vec<u8>, u64)>,

    /// Send requested pages through a second connection (the destination has postcopy-preempt; unix: only)
    #[arg(long, requires = "serve")]
    pub preempt: bool,

    /// Record which pages the guest touches in so many seconds from its start, to be sent first by later reverts
    #[arg(long, value_name = "SECONDS", requires = "postcopy", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    pub record_hot_set: Option<u64>,

    /// Do not send recorded pages before the guest runs
    #[arg(long, requires = "postcopy")]
    pub no_hot_set: bool,

    /// Go on with an interrupted postcopy of this snapshot (through migrate-recover)
    #[arg(long, value_name = "UUID", requires = "revert", group = "serve", conflicts_with = "fresh_ram", value_parser = uuid)]
    pub recover: Option<[u8; 16]>,

    /// Revert even though checksums are gone or do not count any more
    #[arg(long, requires = "revert")]
    pub unverified: bool,

    /// The longest wait for a silent peer, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,

    /// The most RAM that is accepted, in bytes
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value_t = migration_stream::DEFAULT_MAX_RAM_BYTES)]
    pub max_ram: u64,

    /// Memory for pages on their way to the image, in bytes
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub memory: u64,

    /// How progress is shown on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    pub progress: ProgressMode,

    /// Print a completion script for this shell, and exit
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completions: Option<Shell>,

    /// Print the manual page, and exit
    #[arg(long, exclusive = true)]
    pub man: bool,

    /// The image; options follow behind commas (cache.direct=on|off, file.aio=threads|native|io_uring), and a comma in
    /// its name is written twice
    #[arg(value_name = "IMAGE", required_unless_present_any = ["completions", "man"])]
    pub image: Option<OsString>,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar if stderr is a terminal
    Auto,
    /// One JSON object per line
    Json,
    /// Not at all
    None,
}

const EXAMPLES: &str = "\
Examples:
  In QMP, while the guest runs (with capability background-snapshot):
    { \"execute\": \"migrate\", \"arguments\": { \"uri\": \"exec:qemu-snapshot --create vm.qcow2\" } }
  In QMP of a QEMU started with -incoming defer:
    { \"execute\": \"migrate-incoming\", \"arguments\": { \"uri\": \"exec:qemu-snapshot --revert vm.qcow2\" } }
    and so that the guest runs at once (capability postcopy-ram on):
    { \"execute\": \"migrate-incoming\", \"arguments\": { \"uri\": \"exec:qemu-snapshot --revert --postcopy=0 vm.qcow2\" } }
  From and to files:
    qemu-snapshot --create vm.qcow2 <stream
    qemu-snapshot --revert vm.qcow2 >stream

Sizes are numbers of bytes, or of KiB, MiB, GiB or TiB with K, M, G or T behind them.
Exit status: 0 done (a save: durable), 1 the input is wrong, 2 it could not be done.";

fn host_page(text: &OsStr) -> Result<(Vec<u8>, u64), String> {
    let expected = || "expected BLOCK:SIZE, as in pc.ram:2M".to_owned();
    let bytes = text.as_bytes();
    let colon = bytes.iter().rposition(|&byte| byte == b':').filter(|&at| at > 0).ok_or_else(expected)?;
    let size = std::str::from_utf8(&bytes[colon + 1..]).map_err(|_| expected())?;
    let size = parse_bytes(size).map_err(|_| expected())?;
    Ok((bytes[..colon].to_vec(), size))
}

fn uuid(text: &str) -> Result<[u8; 16], String> {
    parse_uuid(text).ok_or_else(|| "expected a UUID: 8-4-4-4-12 hex digits".to_owned())
}

impl Cli {
    /// The image and its options.
    ///
    /// # Errors
    ///
    /// The option that cannot be used.
    pub fn image_spec(&self) -> Result<ImageSpec, crate::block_options::SpecError> {
        ImageSpec::parse(self.image.as_deref().unwrap_or_default())
    }
}
