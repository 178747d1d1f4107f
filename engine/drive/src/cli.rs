//! The command line.

use crate::block_options::ImageSpec;
use crate::channel::Uri;
use crate::command::Command;
use crate::identity::IdentityArgs;
use crate::mapped::{Blocks, Verify};
use crate::progress_mode::ProgressMode;
use crate::trace::Pattern;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use clap_complete::Shell;
use migration_stream::PageSize;
use snapshot_engine::{parse_bytes, parse_page_size, parse_uuid};
use snapshot_image::Layout;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Save a running QEMU VM into one image, or revert a VM from it.
///
/// A save reads the migration stream on stdin (or --uri). --revert writes the stream that a QEMU started with
/// -incoming loads.
#[derive(Debug, Parser)]
#[command(name = "qemu-snapshot", version, after_help = EXAMPLES)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Something else than a save or a revert
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Revert: write the stream to stdout (or --uri)
    #[arg(short, long)]
    pub revert: bool,

    /// The channel: fd:N, or unix:PATH (a save listens there, a revert connects)
    #[arg(long, value_name = "URI")]
    pub uri: Option<Uri>,

    /// Target page size, for a stream that does not state it
    #[arg(long, value_name = "BYTES", value_parser = parse_page_size)]
    pub page_size: Option<PageSize>,

    /// Print each step of the job on stderr; * in a pattern is anything, as in disk_*. May be given
    /// several times
    #[arg(short = 'T', long, value_name = "[enable=]PATTERN", value_parser = OsStringValueParser::new().try_map(|text| Pattern::parse(&text)))]
    pub trace: Vec<Pattern>,

    /// Make a new image if there is none
    #[arg(long, conflicts_with = "revert")]
    pub create: bool,

    /// Cluster size of a new image, 64K to 2M [default: 1M; 64K for a guest with less than 512M of RAM]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "create")]
    pub cluster_size: Option<u64>,

    /// How RAM lies in a new image [default: that of the image that it replaces, or else dense]
    #[arg(long, value_enum, requires = "create")]
    pub layout: Option<LayoutOption>,

    /// Replace the snapshot that the image holds, atomically
    #[arg(long, conflicts_with = "revert")]
    pub overwrite: bool,

    /// The source has suppress-vmdesc=on: the stream ends after EOF
    #[arg(long, conflicts_with = "revert")]
    pub no_vmdesc: bool,

    /// The destination's RAM is private and new: do not send zero pages
    #[arg(long, requires = "revert")]
    pub fresh_ram: bool,

    /// Start the guest when this share of its non-zero pages (0 to 100) has been sent, and serve
    /// the pages that it touches
    #[arg(long, value_name = "PERCENT", requires = "revert", group = "serve", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub postcopy: Option<u8>,

    /// Host page size of a RAM block at the destination, in bytes (huge pages). May be given several times
    #[arg(long, value_name = "BLOCK:SIZE", requires = "serve", value_parser = OsStringValueParser::new().try_map(|text| host_page(&text)))]
    pub host_page: Vec<(Vec<u8>, u64)>,

    /// Send requested pages through a second connection (the destination has postcopy-preempt; unix: only)
    #[arg(long, requires = "serve")]
    pub preempt: bool,

    /// Record the pages that the guest touches in its first SECONDS (10 by default); later reverts
    /// send them first
    #[arg(long, value_name = "SECONDS", requires = "postcopy", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    pub record_hot_set: Option<u64>,

    /// Do not send recorded pages before the guest runs
    #[arg(long, requires = "postcopy")]
    pub no_hot_set: bool,

    /// Resume an interrupted postcopy of this snapshot (QEMU waits in migrate-recover)
    #[arg(long, value_name = "UUID", requires = "revert", group = "serve", conflicts_with = "fresh_ram", value_parser = uuid)]
    pub recover: Option<[u8; 16]>,

    /// Leave out the pages of the RAM blocks that the destination has mapped privately from the image
    /// (these, or each), which is proved first
    #[arg(long, value_name = "BLOCK,…", requires = "revert", conflicts_with_all = ["serve", "unverified"], num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = OsStringValueParser::new().try_map(|text| Blocks::parse(&text)))]
    pub mapped: Option<Blocks>,

    /// When the pages of mapped blocks are verified
    #[arg(long, value_enum, requires = "mapped", default_value_t = Verify::Before)]
    pub verify: Verify,

    /// The blocks are mapped from the files that unpack made of the image for this guest alone (QEMU
    /// before 8.2)
    #[arg(long, value_name = "DIR", requires = "mapped", conflicts_with = "verify")]
    pub ram_files: Option<PathBuf>,

    /// Verify these blocks, by their numbers, of the image on stdin, of which a revert has started a guest
    #[arg(long, hide = true, value_name = "NUMBER", num_args = 1.., value_delimiter = ',', require_equals = true, conflicts_with_all = ["revert", "create", "uri"])]
    pub verify_running: Vec<usize>,

    /// Whose NICs the guest has.
    #[command(flatten)]
    pub identity: IdentityArgs,

    /// Revert an image whose checksums are missing, or that another program has opened for writing since
    #[arg(long, requires = "revert")]
    pub unverified: bool,

    /// End the job when the peer has been silent for so long
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,

    /// Refuse a guest with more RAM than this
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "16T")]
    pub max_ram: u64,

    /// Memory for pages on their way to the image
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub memory: u64,

    /// How progress is reported on stderr
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    pub progress: ProgressMode,

    /// Print a completion script for this shell, and exit
    #[arg(long, value_name = "SHELL", exclusive = true)]
    pub completions: Option<Shell>,

    /// Print the manual page of the program, or of one of its commands, and exit
    #[arg(long, value_name = "COMMAND", exclusive = true, num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub man: Option<String>,

    /// The image; options follow behind commas (cache.direct=on|off,
    /// file.aio=threads|native|io_uring), and a comma in its name is written twice
    #[arg(value_name = "IMAGE", required_unless_present_any = ["completions", "man"])]
    pub image: Option<OsString>,
}

/// How RAM lies in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutOption {
    /// Each block in one piece, with holes for zero pages: guests can be mapped from the image, which is
    /// made read-only
    Linear,
    /// In the order in which it arrived, without gaps
    Dense,
}

impl From<LayoutOption> for Layout {
    fn from(option: LayoutOption) -> Self {
        match option {
            LayoutOption::Linear => Self::Linear,
            LayoutOption::Dense => Self::Dense,
        }
    }
}

/// No line is longer than 78 columns: a narrow terminal would have it wrapped, and no one could copy it.
const EXAMPLES: &str = "\
Save, in QMP, while the guest runs:
  {\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\":
    [{\"capability\": \"background-snapshot\", \"state\": true}]}}
  {\"execute\": \"migrate\", \"arguments\":
    {\"uri\": \"exec:/usr/local/bin/qemu-snapshot --create /vm/1.qcow2\"}}
The same in HMP:
  migrate_set_capability background-snapshot on
  migrate -d \"exec:/usr/local/bin/qemu-snapshot --create /vm/1.qcow2\"

Revert, in QMP of a QEMU that was started with -incoming defer:
  {\"execute\": \"migrate-incoming\", \"arguments\":
    {\"uri\": \"exec:/usr/local/bin/qemu-snapshot --revert /vm/1.qcow2\"}}
So that the guest runs at once (postcopy):
  {\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\":
    [{\"capability\": \"postcopy-ram\", \"state\": true}]}}
  {\"execute\": \"migrate-incoming\", \"arguments\":
    {\"uri\": \"exec:/usr/local/bin/qemu-snapshot -r --postcopy=0 /vm/1.qcow2\"}}

Where QEMU may not start programs (libvirt, -sandbox spawn=deny):
  qemu-snapshot --create --uri=unix:/run/vm1.save /vm/1.qcow2
From and to files:
  qemu-snapshot --create vm1.qcow2 <stream
  qemu-snapshot --revert vm1.qcow2 >stream

exec: needs the absolute path of qemu-snapshot: if QEMU cannot start it, QEMU
7.2 freezes the guest, and in QEMU 10.0 every later save fails.
Sizes (BYTES) are numbers of bytes, or of KiB, MiB, GiB, TiB with K, M, G, T.
Exit status: 0 done (a save: durable), 1 the input is wrong, 2 it could not be
done. Only it is proof of a save: QEMU's \"completed\" is not.";

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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn defaults_are_the_limits_of_the_library() {
        let cli = Cli::try_parse_from(["qemu-snapshot", "image"]).unwrap();
        assert_eq!(cli.max_ram, migration_stream::DEFAULT_MAX_RAM_BYTES);
    }

    #[test]
    fn lines_of_examples_are_not_wrapped() {
        let help = Cli::command().term_width(79).render_long_help().to_string();
        for line in EXAMPLES.lines() {
            assert!(line.len() < 79, "{line}");
            assert!(help.lines().any(|shown| shown == line), "{line:?} is not one line of:\n{help}");
        }
    }
}
