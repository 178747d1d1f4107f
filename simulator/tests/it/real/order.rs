//! What comes out of order is an error that names the state.

use super::pair::{TIMEOUT, destination, userfaultfd_works};
use migration_stream::{
    BlockList, Command, DiscardRange, PostcopyAdvise, QEMU_VM_EOF, RAM_SECTION_VERSION, RamBlock,
    SectionHeader, SectionId, put_command, put_end_of_section, put_file_header, put_page_header,
    put_ram_blocks, put_section_footer, put_section_header, put_section_part, put_zero_page,
};
use snapshot_engine::error_text;
use std::io::{ErrorKind, Write};
use std::time::Duration;
use vm_simulator::real::destination::{self, DestinationConfig, DestinationOutcome};
use vm_simulator::real::{Connection, Error, Faults, Load, Workload};

const RAM: SectionId = SectionId(2);
const BYTES: u64 = 16 * 4096;

fn advise() -> Command<'static> {
    Command::PostcopyAdvise(Some(PostcopyAdvise { page_size_summary: 4096, target_page_size: 4096 }))
}

fn discard(start: u64, length: u64) -> Command<'static> {
    Command::PostcopyRamDiscard { block: b"pc.ram", ranges: vec![DiscardRange { start, length }] }
}

/// A stream, piece by piece.
#[derive(Default)]
struct Stream(Vec<u8>);

impl Stream {
    fn new() -> Self {
        let mut stream = Self::default();
        put_file_header(&mut stream.0);
        stream
    }

    fn ram(mut self) -> Self {
        let header =
            SectionHeader { section_id: RAM, idstr: b"ram", instance_id: 0, version_id: RAM_SECTION_VERSION };
        put_section_header(&mut self.0, false, &header);
        let block = RamBlock {
            idstr: b"pc.ram".to_vec(),
            used_length: BYTES,
            host_page_size: None,
            guest_physical_address: None,
        };
        put_ram_blocks(&mut self.0, &BlockList { blocks: vec![block] });
        put_end_of_section(&mut self.0);
        put_section_footer(&mut self.0, RAM);
        self
    }

    fn command(mut self, command: &Command<'_>) -> Self {
        put_command(&mut self.0, command);
        self
    }

    fn pages(mut self, pages: impl Iterator<Item = u64>) -> Self {
        put_section_part(&mut self.0, RAM);
        for page in pages {
            if page % 2 == 0 {
                put_zero_page(&mut self.0, Some(b"pc.ram"), page * 4096);
            } else {
                put_page_header(&mut self.0, Some(b"pc.ram"), page * 4096);
                self.0.extend_from_slice(&[7; 4096]);
            }
        }
        put_end_of_section(&mut self.0);
        put_section_footer(&mut self.0, RAM);
        self
    }

    fn package(self, commands: &[Command<'_>]) -> Self {
        let mut package = Vec::new();
        commands.iter().for_each(|command| put_command(&mut package, command));
        self.command(&Command::Packaged(&package))
    }

    fn eof(mut self) -> Self {
        self.0.push(QEMU_VM_EOF);
        self
    }

    /// Up to LISTEN and RUN, with everything to come.
    fn running() -> Self {
        Self::new()
            .command(&Command::OpenReturnPath)
            .command(&advise())
            .ram()
            .command(&discard(0, BYTES))
            .package(&[Command::PostcopyListen, Command::PostcopyRun])
    }

    /// What a destination makes of it; the connection ends with the stream.
    fn load_into(self, config: &DestinationConfig) -> Result<DestinationOutcome, Error> {
        let none = Faults::default();
        let (ours, theirs) = Connection::pair((TIMEOUT, &none), (TIMEOUT, &none)).unwrap();
        let (_input, output, _) = ours.split();
        let mut output = output.unwrap();
        output.write_all(&self.0).unwrap();
        output.finish();
        let mut theirs = Some(theirs);
        destination::run(config, |_| theirs.take().ok_or_else(|| ErrorKind::NotConnected.into()))
    }

    fn load(self) -> Result<DestinationOutcome, Error> {
        self.load_into(&config())
    }
}

fn config() -> DestinationConfig {
    let load = Load { workload: Workload::Idle, threads: 1, rate: 0, seed: 1 };
    DestinationConfig { load, device_touches: 0, ..destination() }
}

fn refused(stream: Stream, expected: &str) {
    let error = stream.load().unwrap_err();
    assert!(error.is_wrong_input(), "{error}");
    let text = error_text(&error);
    let (offset, rest) = text.split_once(": ").unwrap_or(("", &text));
    assert!(offset.starts_with("offset 0x"), "{text}");
    assert_eq!(rest, expected);
}

#[test]
fn the_right_order_is_accepted() {
    if !userfaultfd_works() {
        return;
    }
    let outcome = Stream::running().pages(0..16).eof().load().unwrap();
    assert_eq!((outcome.arrived, outcome.postcopy), (16, true));
}

#[test]
fn what_precopy_does_not_allow() {
    let ping = Command::Ping(1);
    refused(Stream::new().command(&ping), "PING in state NONE: there is no return path");
    refused(Stream::new().command(&advise()).command(&advise()), "POSTCOPY_ADVISE in state ADVISE");
    refused(Stream::new().ram().command(&discard(0, 4096)), "POSTCOPY_RAM_DISCARD in state NONE");
    refused(
        Stream::new().command(&advise()).command(&Command::PostcopyListen),
        "LISTEN or RUN outside of a package in state ADVISE",
    );
    refused(
        Stream::new().command(&Command::RecvBitmap(b"a")),
        "RECV_BITMAP in state NONE: postcopy is not paused",
    );
    refused(
        Stream::new().command(&Command::PostcopyAdvise(Some(PostcopyAdvise {
            page_size_summary: 8192,
            target_page_size: 8192,
        }))),
        "target page size 8192, expected 4096",
    );
    refused(Stream::new().command(&Command::EnableColo), "ENABLE_COLO is not supported");
}

#[test]
fn what_a_package_must_be() {
    let ready = || Stream::new().command(&Command::OpenReturnPath).command(&advise()).ram();
    let listen = Command::PostcopyListen;
    refused(ready().package(&[]), "package without LISTEN in state ADVISE");
    refused(Stream::new().ram().package(std::slice::from_ref(&listen)), "POSTCOPY_LISTEN in state NONE");
    refused(
        ready().command(&discard(0, 4096)).package(&[listen.clone(), listen.clone()]),
        "POSTCOPY_LISTEN in state LISTENING",
    );
    refused(
        ready().package(&[listen.clone(), Command::PostcopyRun]),
        "POSTCOPY_RUN in state DISCARD: no RAM was discarded before LISTEN",
    );
    refused(
        ready().command(&discard(0, 4096)).package(&[listen.clone(), Command::Packaged(&[])]),
        "PACKAGED in state LISTENING: it is inside a package",
    );
    if userfaultfd_works() {
        refused(
            ready().command(&discard(0, 4096)).package(&[listen]),
            "package without RUN in state LISTENING",
        );
    }
    let big =
        Command::PostcopyAdvise(Some(PostcopyAdvise { page_size_summary: 0x201000, target_page_size: 4096 }));
    refused(
        Stream::new()
            .command(&big)
            .ram()
            .command(&discard(0, 4096))
            .package(&[Command::PostcopyListen, Command::PostcopyRun]),
        "ADVISE has page sizes 0x201000, expected 0x1000",
    );
}

#[test]
fn discards_are_of_whole_pages_inside_of_a_block() {
    let ready = || Stream::new().command(&advise()).ram();
    let check = |start, length, why: &str| {
        let expected = format!("discard of {length} bytes at {start:#x} of block \"pc.ram\": {why}");
        refused(ready().command(&discard(start, length)), &expected);
    };
    check(1024, 4096, "not made of whole host pages of 4096 bytes");
    check(0, 1024, "not made of whole host pages of 4096 bytes");
    check(0, BYTES + 4096, "the block has 65536 bytes");
    let unknown = Command::PostcopyRamDiscard {
        block: b"x\x1b",
        ranges: vec![DiscardRange { start: 0, length: 4096 }],
    };
    refused(ready().command(&unknown), "discard of 4096 bytes at 0x0 of block \"x\\x1b\": unknown block");
}

#[test]
fn what_postcopy_does_not_allow() {
    if !userfaultfd_works() {
        return;
    }
    refused(Stream::running().pages([1, 1].into_iter()), "page 0x1000 of block \"pc.ram\" placed twice");
    // Whether RUN, in the package, has been handled by then is a matter of luck.
    for (stream, expected) in [
        (Stream::running().command(&discard(0, 4096)), "POSTCOPY_RAM_DISCARD in state "),
        (Stream::running().package(&[]), "PACKAGED on the main channel in state "),
    ] {
        let error = error_text(&stream.load().unwrap_err());
        let state = error.split_once(expected).map(|(_, state)| state);
        assert!(matches!(state, Some("LISTENING" | "RUNNING")), "{error}, expected {expected}");
    }
    let counted = DestinationConfig { refuse_duplicates: false, ..config() };
    let outcome =
        Stream::running().pages([1, 1].into_iter().chain(0..1).chain(2..16)).eof().load_into(&counted);
    assert_eq!(outcome.unwrap().duplicates, 1);
}

#[test]
fn a_page_that_the_devices_need_and_that_never_comes_is_an_error() {
    if !userfaultfd_works() {
        return;
    }
    let config = DestinationConfig { device_touches: 1, ..config() };
    let error = Stream::running().eof().load_into(&config).unwrap_err().to_string();
    assert!(
        error.ends_with(" was requested and not sent before the end mark, in state LISTENING"),
        "{error}"
    );
}

#[test]
fn the_end_mark_may_come_before_run() {
    if !userfaultfd_works() {
        return;
    }
    // The devices take their time: pages and end mark are all there before RUN.
    let config = DestinationConfig { device_touches: 200, timeout: Duration::from_secs(5), ..config() };
    for _ in 0..50 {
        let outcome = Stream::running().pages(0..16).eof().load_into(&config).unwrap();
        assert_eq!(outcome.arrived, 16);
    }
}

#[test]
fn pages_that_never_come_are_told() {
    if !userfaultfd_works() {
        return;
    }
    let outcome = Stream::running().pages(0..10).eof().load().unwrap();
    assert_eq!((outcome.arrived, outcome.pages), (10, 16));
}
