//! The command line.

mod examples;
mod values;

use crate::input::OpenOptions;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use examples::{
    CHECK_EXAMPLES, COMPAT_EXAMPLES, COMPLETIONS_EXAMPLES, CONVERT_EXAMPLES, DIFF_EXAMPLES, DUMP_EXAMPLES,
    EXIT_STATUS, EXTRACT_EXAMPLES, INFO_EXAMPLES, MAN_EXAMPLES, MAP_EXAMPLES, QEMU_ARGS_EXAMPLES,
    STAT_EXAMPLES,
};
use migration_stream::PageSize;
use snapshot_engine::{parse_bytes, parse_page_size};
use std::path::{Path, PathBuf};
use values::{dimm, number, place};

/// Show, check, compare and convert QEMU migration streams and snapshot images.
///
/// A FILE is recognised by its content: a migration stream (also mapped-ram, and behind other
/// bytes), an image of qemu-snapshot or of the original tool, a qcow2 image with internal
/// snapshots, a libvirt save image, a recorded multifd channel, return path, postcopy recovery
/// connection or preempt channel; any of them packed with gzip, bzip2, xz, lzop or zstd. - is
/// stdin.
#[derive(Debug, Parser)]
#[command(name = "snapinspect", version, after_help = EXIT_STATUS)]
pub struct Cli {
    /// How progress is reported on stderr
    #[arg(long, global = true, value_enum, default_value_t = crate::progress::Mode::Auto)]
    pub progress: crate::progress::Mode,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what a file is, on one screen: machine, RAM, devices, when and by which QEMU it was made
    #[command(after_help = INFO_EXAMPLES)]
    Info(InfoArgs),
    /// Show what is in a file, from its first byte to its last; devices field by field
    #[command(after_help = DUMP_EXAMPLES)]
    Dump(DumpArgs),
    /// Check a file strictly; findings have a level (note, warning, error), an offset and a path
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Count: blocks, kinds of pages, repetitions, bytes per section and device, entropy, page order
    #[command(after_help = STAT_EXAMPLES)]
    Stat(StatArgs),
    /// Compare two files: machine, blocks, pages, device fields, structure
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArgs),
    /// Would a QEMU that writes TARGET load SOURCE?
    #[command(after_help = COMPAT_EXAMPLES)]
    Compat(CompatArgs),
    /// Draw RAM, block by block
    #[command(after_help = MAP_EXAMPLES)]
    Map(MapArgs),
    /// Take something out: a RAM block, all RAM as an ELF core, a device's bytes, the vmdesc
    #[command(after_help = EXTRACT_EXAMPLES)]
    Extract(ExtractArgs),
    /// Convert between stream, image and mapped-ram file, and verify the result by a second read
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(ConvertArgs),
    /// Print a script that starts QEMU with the guest's memory mapped from a linear image
    #[command(after_help = QEMU_ARGS_EXAMPLES)]
    QemuArgs(QemuArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of the program, or of one of its commands
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// The command
        command: Option<String>,
    },
}

impl Command {
    /// Its answer goes to stdout.
    #[must_use]
    pub fn answers_on_stdout(&self) -> bool {
        match self {
            Self::Extract(args) => args.output.as_os_str() == "-",
            Self::Map(_) | Self::Convert(_) => false,
            _ => true,
        }
    }

    /// The files that it reads; `-` is stdin.
    #[must_use]
    pub fn inputs(&self) -> Vec<&Path> {
        let (files, input): (Vec<&PathBuf>, &InputArgs) = match self {
            Self::Info(args) => (vec![&args.file], &args.input),
            Self::Dump(args) => (vec![&args.file], &args.input),
            Self::Check(args) => (vec![&args.file], &args.input),
            Self::Stat(args) => (vec![&args.file], &args.input),
            Self::Diff(args) => (vec![&args.a, &args.b], &args.input),
            Self::Compat(args) => {
                let files = [&args.source, &args.target].into_iter().chain(&args.allow);
                (files.collect(), &args.input)
            }
            Self::Map(args) => {
                let files = [&args.file].into_iter().chain(&args.hot).chain(&args.against);
                (files.collect(), &args.input)
            }
            Self::Extract(args) => (vec![&args.file], &args.input),
            Self::Convert(args) => (vec![&args.source], &args.input),
            Self::QemuArgs(args) => return vec![&args.file],
            Self::Completions { .. } | Self::Man { .. } => return Vec::new(),
        };
        files.into_iter().chain(&input.channel).map(PathBuf::as_path).collect()
    }
}

/// How inputs are read.
#[derive(Debug, Clone, Args)]
pub struct InputArgs {
    /// Which of several internal snapshots, by name or id
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// Target page size in bytes, where the input does not tell it
    #[arg(long, value_name = "BYTES", value_parser = parse_page_size)]
    pub page_size: Option<PageSize>,
    /// The most RAM that is accepted, in bytes or with K, M, G, T
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "16T")]
    pub max_ram: u64,
    /// The most that unpacking may give, in bytes or with K, M, G, T
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = parse_bytes)]
    pub max_unpacked: u64,
    /// A recorded multifd channel of FILE, to be put together with it; once for each (of two files:
    /// of the first)
    #[arg(long, value_name = "FILE")]
    pub channel: Vec<PathBuf>,
    /// Read images whose checksums are gone or do not count any more
    #[arg(long)]
    pub unverified: bool,
}

impl InputArgs {
    /// As options for opening.
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        OpenOptions {
            snapshot: self.snapshot.clone(),
            page_size: self.page_size,
            max_ram_bytes: self.max_ram,
            max_unpacked_bytes: self.max_unpacked,
            allow_unverified: self.unverified,
            channels: self.channel.clone(),
            any_snapshot: false,
            salvage: false,
            every_page: false,
            only_block: None,
        }
    }
}

/// `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The file
    pub file: PathBuf,
    /// Check everything as well, as the command check does: of an image each page is read
    #[arg(long)]
    pub check: bool,
    /// One JSON object (inspector/SCHEMA.md)
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// How `dump` and `diff` show what they find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// For people: folded and shortened, in lines that fit the terminal (COLUMNS, or 100)
    Text,
    /// One record per line, complete: TYPE key=value …, its offset first
    Line,
    /// One JSON object per line (inspector/SCHEMA.md)
    Json,
}

impl Shown {
    /// With `--json` as a short form.
    pub(crate) fn or_json(self, json: bool) -> Self {
        if json { Self::Json } else { self }
    }
}

/// `dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The file
    pub file: PathBuf,
    /// How it is shown
    #[arg(long, value_enum, default_value_t = Shown::Text)]
    pub format: Shown,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// Each page instead of runs of them
    #[arg(long)]
    pub pages: bool,
    /// Only this section, by idstr or id
    #[arg(long, value_name = "NAME|ID")]
    pub section: Option<String>,
    /// Only this device, with its fields
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Only what lies at this offset (0x… or decimal)
    #[arg(long, value_name = "OFFSET", value_parser = number)]
    pub at: Option<u64>,
    /// The bytes, too
    #[arg(long)]
    pub hex: bool,
    /// Prove that every byte is accounted for, instead of showing them
    #[arg(long, conflicts_with_all = ["pages", "section", "device", "at", "hex"])]
    pub coverage: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// How findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line per finding
    Text,
    /// One JSON object per line
    Json,
    /// Workflow commands of GitHub
    Github,
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file
    pub file: PathBuf,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// `stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// The file
    pub file: PathBuf,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// One file
    pub a: PathBuf,
    /// The other
    pub b: PathBuf,
    /// How it is shown
    #[arg(long, value_enum, default_value_t = Shown::Text)]
    pub format: Shown,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// What `compat` fails on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Whatever is not known to be safe
    MayBreak,
    /// Only what is known to break
    Breaks,
}

/// `compat`.
#[derive(Debug, Args)]
pub struct CompatArgs {
    /// What is to be loaded: a stream or image, or the JSON that -dump-vmstate writes
    pub source: PathBuf,
    /// What the loading QEMU itself writes: the same
    pub target: PathBuf,
    /// Findings that are known and accepted
    #[arg(long, value_name = "FILE")]
    pub allow: Option<PathBuf>,
    /// From which verdict on the exit status is 1
    #[arg(long, value_enum, default_value_t = FailOn::MayBreak)]
    pub fail_on: FailOn,
    /// How findings are written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// `map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// The file
    pub file: PathBuf,
    /// Where the picture goes; its ending says which: .png, .svg or .html
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the output file if it exists (never an input)
    #[arg(long)]
    pub force: bool,
    /// Show as hot, beside pages that came more than once, those that a guest requested: a hot set
    /// of qemu-snapshot, or a recorded return path
    #[arg(long, value_name = "FILE")]
    pub hot: Option<PathBuf>,
    /// Show what changed against this file
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// `extract`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct ExtractArgs {
    /// The file
    pub file: PathBuf,
    /// A RAM block as a raw file
    #[arg(long, value_name = "NAME", group = "what")]
    pub block: Option<String>,
    /// Where in the block to begin (0x… or decimal)
    #[arg(long, value_name = "OFFSET", requires = "block", value_parser = number, default_value = "0")]
    pub start: u64,
    /// How many bytes of the block
    #[arg(long, value_name = "BYTES", requires = "block", value_parser = number)]
    pub length: Option<u64>,
    /// All RAM as an ELF core, by guest-physical address
    #[arg(long, group = "what")]
    pub core: bool,
    /// Give the core the virtual addresses of the guest's kernel and running processes (x86), for gdb
    #[arg(long = "virtual", requires = "core")]
    pub virtual_addresses: bool,
    /// Blocks of main RAM in the order of -numa, where the file does not say it
    #[arg(long, value_name = "NAME,NAME", requires = "core", value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// The guest-physical address of a block, where the file does not say it; none leaves it out
    #[arg(long, value_name = "NAME=ADDRESS", requires = "core", value_parser = place)]
    pub place: Vec<(String, Option<u64>)>,
    /// A device's bytes
    #[arg(long, value_name = "NAME", group = "what")]
    pub device: Option<String>,
    /// The vmdesc
    #[arg(long, group = "what")]
    pub vmdesc: bool,
    /// Which of several instances of the device
    #[arg(long, value_name = "N", requires = "device", default_value_t = 0)]
    pub instance: u32,
    /// Where it goes; - is stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the output file if it exists (never an input)
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

/// `qemu-args`.
#[derive(Debug, Args)]
pub struct QemuArgs {
    /// The image
    pub file: PathBuf,
    /// The version of QEMU: one before 8.2 is given unpacked files
    #[arg(long, value_name = "VERSION")]
    pub qemu: Option<crate::qemu_args::Version>,
    /// Map files that `qemu-snapshot unpack` made, and not the image
    #[arg(long, value_name = "DIR")]
    pub ram_files: Option<PathBuf>,
    /// Blocks of main RAM in the order of -numa, where the file does not say it
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub nodes: Vec<String>,
    /// Hot-plugged memory and its address, in the order of slots, where the file does not say it
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = dimm)]
    pub dimm: Vec<(String, u64)>,
}

/// What to convert to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A migration stream: -incoming exec:, fd:, unix:
    Stream,
    /// An image of qemu-snapshot
    Image,
    /// A mapped-ram file: -incoming file: with capability mapped-ram, QEMU 9.0 and later
    MappedRam,
}

/// How RAM lies in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutOption {
    /// Each block in one piece, with holes for zero pages: guests can be mapped from the image, which is
    /// made read-only
    Linear,
    /// In the order of the pages, without gaps
    Dense,
}

/// `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// What is converted
    pub source: PathBuf,
    /// Where it goes
    pub output: PathBuf,
    /// Replace the output file if it exists (never an input)
    #[arg(long)]
    pub force: bool,
    /// What to convert to
    #[arg(long, value_enum)]
    pub to: Target,
    /// How RAM lies in an image [default: dense]
    #[arg(long, value_enum)]
    pub layout: Option<LayoutOption>,
    /// Take RAM from a mapped-ram file that background-snapshot left without bitmaps: each page
    /// from its place
    #[arg(long)]
    pub salvage: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub input: InputArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn defaults_are_the_limits_of_the_library() {
        let cli = Cli::try_parse_from(["snapinspect", "stat", "file"]).unwrap();
        let Command::Stat(args) = cli.command else { panic!("another command") };
        assert_eq!(args.input.max_ram, migration_stream::DEFAULT_MAX_RAM_BYTES);
        assert_eq!(args.input.max_unpacked, crate::input::DEFAULT_MAX_UNPACKED_BYTES);
    }

    #[test]
    fn lines_of_examples_are_not_wrapped_and_every_command_has_some() {
        let mut program = Cli::command();
        program.build();
        for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("Examples:\n  "), "{}", command.get_name());
            let help = command.clone().term_width(79).render_long_help().to_string();
            for line in examples.lines() {
                assert!(line.len() < 79, "{line}");
                assert!(help.lines().any(|shown| shown == line), "{line:?} is not one line of:\n{help}");
            }
        }
    }
}
