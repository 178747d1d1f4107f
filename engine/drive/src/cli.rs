//! The command line.

use crate::block_options::ImageSpec;
use crate::channel::Uri;
use crate::trace::Pattern;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;

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
    #[arg(long, value_name = "BYTES", value_parser = page_size)]
    pub page_size: Option<u32>,

    /// Say on stderr what is done; names as in disk_write, * for anything. May be given several times
    #[arg(short = 'T', long, value_name = "[enable=]PATTERN", value_parser = OsStringValueParser::new().try_map(|text| Pattern::parse(&text)))]
    pub trace: Vec<Pattern>,

    /// Make a new image if there is none
    #[arg(long, conflicts_with = "revert")]
    pub create: bool,

    /// Cluster size in bytes of a new image: 64 KiB to 2 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, requires = "create")]
    pub cluster_size: u64,

    /// Replace the snapshot that the image holds, atomically
    #[arg(long, conflicts_with = "revert")]
    pub overwrite: bool,

    /// The source has suppress-vmdesc=on: the stream ends after EOF
    #[arg(long, conflicts_with = "revert")]
    pub no_vmdesc: bool,

    /// The destination's RAM is private and new: do not send zero pages
    #[arg(long, requires = "revert")]
    pub fresh_ram: bool,

    /// Revert even though checksums are gone or do not count any more
    #[arg(long, requires = "revert")]
    pub unverified: bool,

    /// The longest wait for a silent peer, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,

    /// The most RAM that is accepted, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = migration_stream::DEFAULT_MAX_RAM_BYTES)]
    pub max_ram: u64,

    /// Memory for pages on their way to the image, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
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
  From and to files:
    qemu-snapshot --create vm.qcow2 <stream
    qemu-snapshot --revert vm.qcow2 >stream

Exit status: 0 done (a save: durable), 1 the input is wrong, 2 it could not be done.";

fn page_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(size) if size.is_power_of_two() && (1 << 10..=1 << 16).contains(&size) => Ok(size),
        _ => Err("expected a power of two, 1024 to 65536".to_owned()),
    }
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
