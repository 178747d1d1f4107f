//! The engine's blocking runner: files that bring few bytes at a time, and end before what is asked for does.

use crate::bed::{expected_ram, load, save_config, stream_of};
use migration_stream::put_file_header;
use snapshot_engine::blocking::{self, Io, Stalled};
use snapshot_engine::{Failure, PostcopyConfig, RevertConfig, RevertMachine, SaveMachine};
use std::io::{self, Read};
use vm_simulator::VmConfig;

/// An image and a stream in memory.
#[derive(Default)]
struct Memory {
    image: Vec<u8>,
    input: io::Cursor<Vec<u8>>,
    output: Vec<u8>,
    /// What one call brings at the most.
    most: usize,
    flushes: usize,
    /// Byte of the image at which a read fails.
    bad_at: Option<u64>,
}

impl Io for Memory {
    fn read_at(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let most = self.most.min(bytes.len());
        if self.bad_at.is_some_and(|bad| (at..at + most as u64).contains(&bad)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let from = usize::try_from(at).unwrap().min(self.image.len());
        (&self.image[from..]).read(&mut bytes[..most])
    }

    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        self.image.resize(self.image.len().max(at + bytes.len()), 0);
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn length(&mut self) -> io::Result<u64> {
        Ok(self.image.len() as u64)
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        self.image.resize(usize::try_from(bytes).unwrap(), 0);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        Ok(())
    }

    fn read_input(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = self.most.min(bytes.len());
        self.input.read(&mut bytes[..most])
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.extend_from_slice(bytes);
        Ok(())
    }
}

fn revert_config(image: &[u8]) -> RevertConfig {
    RevertConfig::new(image.len() as u64)
}

#[test]
fn what_it_saves_it_reverts() {
    for seed in 0..30 {
        let config = VmConfig::random(seed);
        let (vm, stream) = stream_of(&config);
        let most = [7, 4096, 1 << 20][usize::try_from(seed % 3).unwrap()];
        let mut io = Memory { input: io::Cursor::new(stream), most, ..Memory::default() };
        let mut machine = SaveMachine::new(save_config(&config, None).with(|config| {
            config.can_answer = false;
        }));
        blocking::run(&mut machine, &mut io).unwrap();
        machine.outcome().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        assert!(io.flushes > 0, "seed {seed}");

        // The image may have been cut where its last page ends: what is behind it is zeros.
        let length = io.image.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let mut machine = RevertMachine::new(revert_config(&io.image));
        io.image.truncate(length);
        blocking::run(&mut machine, &mut io).unwrap();
        machine.outcome().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        let (ram, tail) = load(&io.output, config.page_size).unwrap();
        assert!(ram == expected_ram(&vm) && tail == vm.tail(), "seed {seed}");
    }
}

#[test]
fn what_has_not_ended_is_unfinished_and_a_stream_without_ram_is_refused() {
    let config = VmConfig::random(3);
    let mut bytes = Vec::new();
    put_file_header(&mut bytes);
    // EOF (QEMU_VM_EOF, migration/savevm.c), where RAM was to begin.
    bytes.push(0);
    let mut io = Memory { input: io::Cursor::new(bytes), most: 1 << 20, ..Memory::default() };
    let mut machine = SaveMachine::new(save_config(&config, None));
    assert!(matches!(machine.outcome(), Err(Failure::Unfinished)));
    blocking::run(&mut machine, &mut io).unwrap();
    let failure = machine.outcome().unwrap_err();
    assert!(!matches!(failure, Failure::Unfinished), "{failure}");
    assert!(matches!(RevertMachine::new(revert_config(&[])).outcome(), Err(Failure::Unfinished)));
}

#[test]
fn an_error_of_a_file_is_the_failure_of_the_machine() {
    let config = VmConfig::random(3);
    let (_, stream) = stream_of(&config);
    let mut io = Memory { input: io::Cursor::new(stream), most: 1 << 20, ..Memory::default() };
    let mut machine = SaveMachine::new(save_config(&config, None));
    blocking::run(&mut machine, &mut io).unwrap();
    machine.outcome().unwrap();
    io.bad_at = Some(100);
    io.output.clear();
    let mut machine = RevertMachine::new(revert_config(&io.image));
    blocking::run(&mut machine, &mut io).unwrap();
    let failure = machine.outcome().unwrap_err();
    assert_eq!(
        snapshot_engine::error_text(&failure),
        "read the image at offset 0x0: Input/output error (os error 5)"
    );
    // The byte that no stream begins with.
    assert_eq!(io.output, b"X");
}

#[test]
fn a_postcopy_without_its_destination_does_not_wait_for_ever() {
    let config = VmConfig::random(3);
    let (_, stream) = stream_of(&config);
    let mut io = Memory { input: io::Cursor::new(stream), most: 1 << 20, ..Memory::default() };
    let mut machine = SaveMachine::new(save_config(&config, None));
    blocking::run(&mut machine, &mut io).unwrap();
    let postcopy = PostcopyConfig::new(4096);
    let config = revert_config(&io.image).with(|config| {
        config.postcopy = Some(postcopy);
    });
    let mut machine = RevertMachine::new(config.clone());
    assert_eq!(blocking::run(&mut machine, &mut io), Err(Stalled));
    // With a limit the machine ends its wait itself.
    let mut machine = RevertMachine::new(config.with(|config| {
        config.loading_timeout_ms = Some(5000);
    }));
    blocking::run(&mut machine, &mut io).unwrap();
    let text = machine.outcome().unwrap_err().to_string();
    assert!(text.contains("took and said nothing for 5 s"), "{text}");
}
