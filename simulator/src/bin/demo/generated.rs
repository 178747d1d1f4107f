//! The demo where page faults cannot be handled: a generated VM is saved through a pipe, and the
//! revert is read back.

use crate::{Cli, Result, check, size};
use migration_stream::{Entry, Page, PageContent, Record, StreamReader};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vm_simulator::real::{Digest, TARGET_PAGE_BYTES, page_checksum};
use vm_simulator::{Vm, VmConfig};

fn wait(mut child: Child, what: &str) -> Result<()> {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{what}: {status}").into()) }
}

pub(super) fn demo(cli: &Cli, tool: &Path, image: &Path) -> Result<Digest> {
    let mut vm = Vm::new(VmConfig::background(cli.seed, cli.ram << 20, cli.nonzero));

    let start = Instant::now();
    let mut save =
        Command::new(tool).args(["--create", "--layout=linear"]).arg(image).stdin(Stdio::piped()).spawn()?;
    let mut stream = BufWriter::with_capacity(1 << 20, Counted(save.stdin.take().ok_or("no pipe")?, 0));
    let sent = vm.send(&mut stream);
    let stream_bytes = stream.into_inner().map(|counted| counted.1);
    wait(save, "qemu-snapshot")?;
    sent?;
    let (stream_bytes, saved) = (stream_bytes?, start.elapsed());
    let size = size(image)?;

    let checked = check(image)?;

    let start = Instant::now();
    let mut revert = Command::new(tool).arg("--revert").arg(image).stdout(Stdio::piped()).spawn()?;
    let compared = compare(&vm, revert.stdout.take().ok_or("no pipe")?);
    wait(revert, "qemu-snapshot --revert")?;
    let (pages, reverted) = (compared?, start.elapsed());

    let mib = |bytes: u64| bytes >> 20;
    println!("RAM               {:>8} MiB, {} pages that are not zero", cli.ram, pages);
    println!("stream            {:>8} MiB", mib(stream_bytes));
    println!("image             {size}; {checked}");
    println!("save              {:>8} MiB/s (generating the VM included)", rate(stream_bytes, saved));
    println!("revert            {:>8} MiB/s (comparing included)", rate(pages * 4096, reverted));
    println!("Every page and every device byte came back as it was saved.");
    Ok(digest(&vm))
}

/// What RAM must be.
fn digest(vm: &Vm) -> Digest {
    let zero = page_checksum(&[0; TARGET_PAGE_BYTES]);
    let checksum = |page: Option<Vec<u8>>| page.map_or(zero, |bytes| page_checksum(&bytes));
    let blocks = vm.config().blocks.iter().enumerate();
    let pages = |block| (0..vm.pages(block)).map(|page| checksum(vm.page(block, page))).collect();
    Digest { blocks: blocks.map(|(block, (name, _))| (name.clone(), pages(block))).collect(), devices: None }
}

fn rate(bytes: u64, time: Duration) -> u64 {
    let milliseconds = time.as_secs() * 1000 + u64::from(time.subsec_millis());
    ((bytes >> 10) * 1000 / milliseconds.max(1)) >> 10
}

/// Loads a stream as a destination would, and compares it with what the VM sent; the pages that are not zero.
fn compare(vm: &Vm, stream: impl io::Read) -> Result<u64> {
    let mut reader =
        StreamReader::new(BufReader::with_capacity(1 << 20, stream), migration_stream::Options::default());
    let (mut normal, mut zero, mut tail) = (0, 0, Vec::new());
    while let Some(Entry { record, .. }) = reader.advance()? {
        match record {
            Record::Page(Page { block, offset, content, .. }) => {
                let saved = vm.page(block, offset / 4096);
                match content {
                    PageContent::Raw(data) if saved.as_deref() == Some(data) => normal += 1,
                    PageContent::Zero if saved.is_none() => zero += 1,
                    _ => {
                        return Err(format!("page {offset:#x} of block {block} is not what was saved").into());
                    }
                }
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
