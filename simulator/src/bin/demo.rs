//! `cargo demo`: the main job without QEMU. A generated VM is saved through a pipe, the image is checked, reverted, and
//! compared page by page.

use clap::Parser;
use migration_stream::{Record, StreamReader};
use std::error::Error;
use std::fs;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use vm_simulator::{Vm, VmConfig};

/// Save a VM, check the image, revert it, compare: without QEMU, or with --qemu on a real one.
#[derive(Debug, Parser)]
struct Cli {
    /// RAM of the generated VM, in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65536))]
    ram: u64,
    /// Of 100 pages, how many are not zero
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=100))]
    nonzero: u64,
    /// Decides what the pages hold
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the image goes; removed in the end [default: a temporary folder]
    #[arg(long)]
    directory: Option<PathBuf>,
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
            let _ = writeln!(io::stderr(), "demo: {error}");
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
    cargo(&["test", "--release", "--package", "snapshot-tests", "--test", "save_revert", "--", "--nocapture"])
}

/// The tool stands beside this program.
fn tool() -> Result<PathBuf> {
    cargo(&["build", "--release", "--quiet", "--package", "qemu-snapshot"])?;
    let own = std::env::current_exe()?;
    let path = own.parent().unwrap_or(Path::new(".")).join("qemu-snapshot");
    if path.exists() { Ok(path) } else { Err(format!("{} was not built", path.display()).into()) }
}

/// The image, which goes when the demo ends.
struct Image(PathBuf);

impl Drop for Image {
    fn drop(&mut self) {
        // It may not have come to be.
        let _ = fs::remove_file(&self.0);
    }
}

fn wait(mut child: Child, what: &str) -> Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}").into()) }
}

fn demo(cli: &Cli) -> Result<()> {
    let tool = tool()?;
    let directory = cli.directory.clone().unwrap_or_else(std::env::temp_dir);
    let image = Image(directory.join(format!("qemu-snapshot-demo-{}.qcow2", std::process::id())));
    let mut vm = Vm::new(VmConfig::background(cli.seed, cli.ram << 20, cli.nonzero));

    let start = Instant::now();
    let mut save = Command::new(&tool).arg("--create").arg(&image.0).stdin(Stdio::piped()).spawn()?;
    let mut stream = BufWriter::with_capacity(1 << 20, Counted(save.stdin.take().ok_or("no pipe")?, 0));
    let sent = vm.send(&mut stream);
    let stream_bytes = stream.into_inner().map(|counted| counted.1);
    wait(save, "qemu-snapshot")?;
    sent?;
    let (stream_bytes, saved) = (stream_bytes?, start.elapsed());
    let image_bytes = fs::metadata(&image.0)?.len();

    let checked = match Command::new("qemu-img").args(["check", "-q"]).arg(&image.0).status() {
        Ok(status) if status.success() => "clean (qemu-img check)",
        Ok(status) => return Err(format!("qemu-img check: {status}").into()),
        Err(_) => "every checksum, by the revert (qemu-img is not installed)",
    };

    let start = Instant::now();
    let mut revert = Command::new(&tool).arg("--revert").arg(&image.0).stdout(Stdio::piped()).spawn()?;
    let compared = compare(&vm, revert.stdout.take().ok_or("no pipe")?);
    wait(revert, "qemu-snapshot --revert")?;
    let (pages, reverted) = (compared?, start.elapsed());

    let mib = |bytes: u64| bytes >> 20;
    println!("RAM               {:>8} MiB, {} pages that are not zero", cli.ram, pages);
    println!("stream            {:>8} MiB", mib(stream_bytes));
    println!("image             {:>8} MiB, {checked}", mib(image_bytes));
    println!("save              {:>8} MiB/s (generating the VM included)", rate(stream_bytes, saved));
    println!("revert            {:>8} MiB/s (comparing included)", rate(pages * 4096, reverted));
    println!("Every page and every device byte came back as it was saved.");
    Ok(())
}

fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from((u128::from(bytes >> 10) * 1000 / time.as_millis().max(1)) >> 10).unwrap_or(0)
}

/// Loads a stream as a destination would, and compares it with what the VM sent; the pages that are not zero.
fn compare(vm: &Vm, stream: impl io::Read) -> Result<u64> {
    let mut reader =
        StreamReader::new(BufReader::with_capacity(1 << 20, stream), migration_stream::Options::default());
    let (mut normal, mut zero, mut tail) = (0, 0, Vec::new());
    while let Some((_, record)) = reader.next_record()? {
        match record {
            Record::RamPage { block, offset, data, .. } => {
                if vm.page(block, offset / 4096).as_deref() != Some(data) {
                    return Err(format!("page {offset:#x} of block {block} is not what was saved").into());
                }
                normal += 1;
            }
            Record::RamZero { block, offset, .. } => {
                if vm.page(block, offset / 4096).is_some() {
                    return Err(format!("page {offset:#x} of block {block} came back as zero").into());
                }
                zero += 1;
            }
            Record::Full(..) | Record::Eof | Record::VmDescription(_) => record.put(&mut tail, &[]),
            Record::Footer(_) if !tail.is_empty() => record.put(&mut tail, &[]),
            _ => {}
        }
    }
    let pages: u64 = (0..vm.config().blocks.len()).map(|block| vm.pages(block)).sum();
    if normal + zero != pages {
        return Err(format!("{} pages came back, {pages} were saved", normal + zero).into());
    }
    if tail != vm.tail() {
        return Err("the device sections are not what was saved".into());
    }
    Ok(normal)
}

/// Counts what goes through.
#[derive(Debug)]
struct Counted<W>(W, u64);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1 += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
