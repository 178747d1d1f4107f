//! The drivers of the machines agree: what they save, each of them reverts to the same bytes.

use snapshot_engine::{RevertConfig, RevertMachine, blocking};
use snapshot_tests::tool::qemu_snapshot;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use vm_simulator::{Fault, SimFile, Vm, VmConfig, World};

const WAYS: [&str; 5] = [
    "",
    ",file.aio=threads",
    ",file.aio=io_uring",
    ",cache.direct=on,file.aio=native",
    ",cache.direct=on,file.aio=io_uring",
];

fn run(arguments: &[&str], input: Stdio) -> Vec<u8> {
    let output =
        Command::new(qemu_snapshot()).args(arguments).stdin(input).output().expect("the tool starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn revert_config(image_length_bytes: u64) -> RevertConfig {
    RevertConfig::new(image_length_bytes)
}

fn simulated(image: &Path) -> Vec<u8> {
    let bytes = fs::read(image).expect("the image");
    let mut machine = RevertMachine::new(revert_config(bytes.len() as u64));
    let mut world = World::new(1, Some(SimFile::of(&bytes)), Vec::new(), Fault::None);
    world.run(&mut machine);
    machine.outcome().expect("the image is whole");
    world.output
}

/// A file, read by one call after the other.
struct Plain(File, Vec<u8>);

impl blocking::Io for Plain {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(bytes, at)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.1.extend_from_slice(bytes);
        Ok(())
    }
}

fn blocked(image: &Path) -> Vec<u8> {
    let file = File::open(image).expect("the image");
    let mut machine = RevertMachine::new(revert_config(file.metadata().expect("its length").len()));
    let mut io = Plain(file, Vec::new());
    blocking::run(&mut machine, &mut io).expect("no destination is waited for");
    machine.outcome().expect("the image is whole");
    io.1
}

#[test]
fn every_driver_sends_the_same_bytes() {
    // Not below /tmp, which may be a file system without O_DIRECT.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    let stream = folder.path().join("stream");
    let mut vm = Vm::new(VmConfig::background(11, 24 << 20, 60));
    vm.send(&mut File::create(&stream).expect("a file")).expect("space for it");
    let mut sent: Option<Vec<u8>> = None;
    for way in WAYS {
        let image = folder.path().join(format!("image{}.qcow2", way.replace([',', '=', '.'], "-")));
        let name = image.to_str().expect("a UTF-8 path");
        let input = File::open(&stream).expect("just written");
        run(&["--create", &format!("{name}{way}")], input.into());
        for other in WAYS {
            let bytes = run(&["--revert", &format!("{name}{other}")], Stdio::null());
            let first = sent.get_or_insert_with(|| bytes.clone());
            assert!(*first == bytes, "saved by {way:?}, reverted by {other:?}");
        }
        assert!(
            sent.as_ref() == Some(&simulated(&image)),
            "saved by {way:?}, reverted by the simulated world"
        );
        assert!(sent.as_ref() == Some(&blocked(&image)), "saved by {way:?}, reverted by the blocking runner");
    }
}
