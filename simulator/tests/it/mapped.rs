//! Reverts to a destination that has mapped RAM from the image: what is left out, and what is refused.

use crate::bed::{load, save_config, stream_of};
use migration_stream::{Options, PageSize};
use snapshot_engine::{Failure, MappedBlock, MappedError, PostcopyConfig, RevertConfig, RevertMachine};
use snapshot_engine::{SaveMachine, blocking};
use snapshot_image::{Geometry, Layout};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use vm_simulator::VmConfig;

/// An image in a file, and a stream to or from it.
struct Files<I, O> {
    image: File,
    input: I,
    output: O,
}

impl<I: Read, O: Write> blocking::Io for Files<I, O> {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.image.read_at(bytes, at)
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.image.write_all_at(bytes, at)
    }

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.image.metadata()?.len())
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        self.image.set_len(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.sync_all()
    }

    fn read_input(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.input.read(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)
    }
}

fn save(config: &VmConfig, stream: impl Read, layout: Layout, image: &Path) {
    let mut machine = SaveMachine::new(save_config(config, None).with(|config| {
        config.layout = Some(layout);
        config.create = Some(Geometry::default().into());
        config.can_answer = false;
    }));
    let file = File::options().read(true).write(true).create_new(true).open(image).unwrap();
    blocking::run(&mut machine, &mut Files { image: file, input: stream, output: io::sink() }).unwrap();
    machine.outcome().unwrap();
}

/// Reverts without these blocks: how many bytes of RAM were left out, and the stream.
fn revert(image: &Path, page_size: u32, blocks: &[&[u8]], postcopy: bool) -> Result<(u64, Vec<u8>), Failure> {
    let file = File::open(image).unwrap();
    let config = RevertConfig::new(file.metadata().unwrap().len()).with(|config| {
        let mapped = |name: &&[u8]| MappedBlock { name: name.to_vec(), copied: Vec::new() };
        config.stream = Options::default().with_page_size(PageSize::new(page_size.into()));
        config.mapped = blocks.iter().map(mapped).collect();
        config.postcopy = postcopy.then(|| PostcopyConfig::new(4096));
    });
    let mut machine = RevertMachine::new(config);
    let mut io = Files { image: file, input: io::empty(), output: Vec::new() };
    blocking::run(&mut machine, &mut io).unwrap();
    machine.outcome().map(|summary| (summary.mapped_bytes, io.output))
}

#[test]
fn what_is_not_mapped_arrives_and_what_is_does_not() {
    for seed in 0..40 {
        let config = VmConfig::random(seed);
        let (vm, stream) = stream_of(&config);
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        save(&config, &stream[..], Layout::Linear, &image);
        let (name, length) = &config.blocks[0];
        let (left_out, sent) = revert(&image, config.page_size, &[name], false).unwrap();
        assert_eq!(left_out, *length, "seed {seed}");
        let (ram, tail) = load(&sent, config.page_size).unwrap();
        assert_eq!(tail, vm.tail(), "seed {seed}");
        let mut expected = crate::bed::expected_ram(&vm);
        expected.retain(|(block, _), _| *block != 0);
        assert!(ram == expected, "seed {seed}");
    }
}

#[test]
fn what_cannot_be_left_out_is_refused_before_a_byte_is_sent() {
    let config = VmConfig::random(1);
    let page_size = config.page_size;
    let (_, stream) = stream_of(&config);
    let folder = tempfile::tempdir().unwrap();
    let (dense, linear) = (folder.path().join("dense"), folder.path().join("linear"));
    save(&config, &stream[..], Layout::Dense, &dense);
    save(&config, &stream[..], Layout::Linear, &linear);
    let name = config.blocks[0].0.as_slice();
    let refused = |result: Result<(u64, Vec<u8>), Failure>| match result {
        Err(Failure::Mapped(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(revert(&dense, page_size, &[name], false)),
        MappedError::Dense { block: name.to_vec() }
    );
    let unknown = refused(revert(&linear, page_size, &[b"none"], false));
    assert_eq!(unknown, MappedError::UnknownBlock { block: b"none".to_vec() });
    assert_eq!(refused(revert(&linear, page_size, &[name], true)), MappedError::Postcopy);
    // Another program has written to it.
    let file = File::options().read(true).write(true).open(&linear);
    let autoclear = 88;
    fs::set_permissions(&linear, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = file.or_else(|_| File::options().read(true).write(true).open(&linear)).unwrap();
    file.write_all_at(&[0; 8], autoclear).unwrap();
    assert!(revert(&linear, page_size, &[name], false).is_err());
}

/// The program maps the image before the stream arrives, and the pages that are not in it are right.
#[test]
fn snapsim_runs_from_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let snapsim = |arguments: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("exec $S {arguments}")]).env("S", env!("CARGO_BIN_EXE_snapsim"));
        let output = shell.current_dir(folder.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let source = "source --mode precopy --ram 8M --workload zipf --warm-up 10 --digest digest >stream";
    assert_eq!(snapsim(source).0, Some(0));
    let config = VmConfig { page_size: 4096, ..VmConfig::random(1) };
    save(&config, File::open(at("stream")).unwrap(), Layout::Linear, &at("image"));
    save(&config, File::open(at("stream")).unwrap(), Layout::Dense, &at("dense"));
    let (left_out, sent) = revert(&at("image"), 4096, &[b"pc.ram"], false).unwrap();
    assert_eq!(left_out, 8 << 20);
    assert!(sent.len() < 1 << 20, "{} bytes", sent.len());
    fs::write(at("rest"), sent).unwrap();

    let load = "destination --digest digest --exec 'cat rest'";
    let (status, text) = snapsim(&format!("{load} --mapped image --workload random --run-for 50 --json"));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("\"wrong\":0"), "{text}");
    let before = fs::read(at("image")).unwrap();
    assert_eq!(
        snapsim(&format!("{load} --mapped image --writes 50 --workload random --run-for 50")).0,
        Some(0)
    );
    assert_eq!(fs::read(at("image")).unwrap(), before, "what a guest writes stays in its memory");
    // Without the mapping the pages are missing.
    let (status, text) = snapsim(load);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("pages are wrong"), "{text}");
    let (status, text) = snapsim(&format!("{load} --mapped dense"));
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("dense: RAM is not in the linear layout"), "{text}");
}
