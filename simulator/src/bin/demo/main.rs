//! `cargo demo`: the main job without QEMU. A busy VM is saved in the background, the image is
//! checked, the VM is reverted from it in postcopy, and every page that its guest finds is
//! compared. Then clones run from the image itself.

mod clones;
mod generated;
mod real;

use background_snapshot::Userfault;
use clap::Parser;
use clones::Origin;
use snapshot_engine::error_text;
use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use vm_simulator::real::Digest;

/// Save a busy VM, check the image, revert it in postcopy, compare: without QEMU, or with --qemu on
/// a real one.
#[derive(Debug, Parser)]
struct Cli {
    /// RAM of the VM, in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65536))]
    ram: u64,
    /// Of 100 pages, how many are not zero
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=100))]
    nonzero: u64,
    /// Decides what the pages hold
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many clones run from the image at once
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=1000))]
    clones: u64,
    /// Where the image goes; removed in the end [default: a temporary folder]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Without page faults, as where userfaultfd is not permitted
    #[arg(long)]
    generated: bool,
    /// With a real guest: runs the tests that save and revert it with every QEMU that is installed
    #[arg(long)]
    qemu: bool,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = if cli.qemu { with_qemu() } else { demo(&cli) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "demo: {}", error_text(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Runs cargo, which also started us.
fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {}: {status}", arguments.join(" ")).into()) }
}

fn with_qemu() -> Result<()> {
    cargo(&[
        "test",
        "--release",
        "--package",
        "snapshot-tests",
        "--test",
        "it",
        "--",
        "--nocapture",
        "save_revert::",
    ])
}

/// Builds a program; it is in the folder of this one.
fn program(package: &str, name: &str) -> Result<PathBuf> {
    cargo(&["build", "--release", "--package", package, "--bin", name])?;
    let own = std::env::current_exe()?;
    let path = own.parent().unwrap_or(Path::new(".")).join(name);
    if path.exists() { Ok(path) } else { Err(format!("{} was not built", path.display()).into()) }
}

/// A folder for the image, which goes when the demo ends. No one else may write in it: a record
/// that the image was verified counts only there.
struct Folder(PathBuf);

impl Folder {
    fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("qemu-snapshot-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // There is no one to report to who could do more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A word of a shell command.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or("the path is not text")?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

fn line(what: &str, text: &str) {
    println!("{what:<22} {text}");
}

fn demo(cli: &Cli) -> Result<()> {
    let tool = program("qemu-snapshot", "qemu-snapshot")?;
    let snapsim = program("vm-simulator", "snapsim")?;
    eprintln!("demo: a VM with {} MiB of RAM; this takes some seconds for each GiB", cli.ram);
    let directory = cli.directory.clone().unwrap_or_else(std::env::temp_dir);
    let folder = Folder::new(&directory)?;
    let image = folder.0.join("vm.qcow2");
    let digest = save_and_revert(cli, &tool, &image)?;
    clones::demo(cli, &Origin { tool: &tool, snapsim: &snapsim, image: &image }, &digest)
}

/// The main job; what RAM and devices must be.
fn save_and_revert(cli: &Cli, tool: &Path, image: &Path) -> Result<Digest> {
    if cli.generated {
        return generated::demo(cli, tool, image);
    }
    match Userfault::open(0) {
        Ok(_) => real::demo(cli, tool, image),
        Err(error) => {
            eprintln!(
                "demo: no userfaultfd ({error}), so without page faults: run as root, or set sysctl \
                 vm.unprivileged_userfaultfd=1, to see a guest at work"
            );
            generated::demo(cli, tool, image)
        }
    }
}

/// What `QEMU_IMG` names, else the one in `PATH`, else the one that `.ci/qemu` has unpacked.
fn qemu_img() -> PathBuf {
    let named = env::var_os("QEMU_IMG").map(PathBuf::from);
    let paths = env::var_os("PATH").unwrap_or_default();
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/../.prefix/qemu-10.0");
    let mut folders = env::split_paths(&paths).chain([PathBuf::from(unpacked)]);
    let found =
        || folders.find(|folder| folder.join("qemu-img").is_file()).map(|folder| folder.join("qemu-img"));
    named.or_else(found).unwrap_or_else(|| "qemu-img".into())
}

/// How long the image is, and what it takes on the disk.
fn size(image: &Path) -> Result<String> {
    let metadata = fs::metadata(image)?;
    let on_disk = metadata.blocks() * 512;
    Ok(format!(
        "{} MiB long, {} MiB on disk (each page has its fixed place; zero pages are holes)",
        metadata.len() >> 20,
        on_disk >> 20
    ))
}

/// What a judge says of the image.
fn check(image: &Path) -> Result<&'static str> {
    match Command::new(qemu_img()).args(["check", "-q"]).arg(image).status() {
        Ok(status) if status.success() => Ok("clean (qemu-img check)"),
        Ok(status) => Err(format!("qemu-img check: {status}").into()),
        Err(_) => Ok("every checksum, by the revert (qemu-img is not installed)"),
    }
}
