//! Whatever a destination says and whenever reads and writes end: no panic, no page that is sent
//! twice or is another one, no memory that grows, and an end; and what ends well has sent every
//! page.
#![no_main]

mod dialogue;

use arbitrary::{Arbitrary, Unstructured};
use dialogue::{Dialogue, Pages};
use libfuzzer_sys::fuzz_target;
use migration_stream::protocol::put_received_bitmap;
use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};
use snapshot_engine::{Event, Lane, SaveMachine};
use std::sync::LazyLock;
use vm_simulator::explore::{Scenario, Size};
use vm_simulator::{Fault, SimFile, World};

/// What goes on in every dialogue.
#[derive(Debug, Arbitrary)]
enum Step {
    Completes(u8),
    AllComplete,
    Sent(bool, u16),
    AllSent,
    Request {
        block: Option<u8>,
        page: u8,
        pages: u8,
    },
    Pong(u8),
    ResumeAck,
    Received {
        block: u8,
        bits: u64,
    },
    SwitchoverAck,
    TimePasses(u16),
    /// In one of sixteen cases: most of them end the dialogue.
    Trouble(u8, Trouble),
}

/// What should not happen.
#[derive(Debug, Arbitrary)]
enum Trouble {
    Fails(u8),
    OddRequest { block: Option<u8>, start: u64, length: u32 },
    ResumeRefused(u32),
    Bytes(Vec<u8>),
    Shut(u8),
    HangsUp,
    OutputFails,
    AnotherPeer,
    Interrupted,
}

#[derive(Debug, Arbitrary)]
struct Setting {
    sample: u8,
    recovers: bool,
    percent: u8,
    preempt: bool,
    record_ms: Option<u8>,
    timeout_ms: Option<u8>,
}

/// VMs of several kinds, saved: small ones, of which there are many in a second.
static SAMPLES: LazyLock<Vec<(Scenario, SimFile, Pages)>> = LazyLock::new(|| {
    let small = |seed: &u64| Scenario::new(*seed, Size::SMALL).stream().len() < 200_000;
    let samples = (0..).filter(small).take(8).map(|seed| {
        let scenario = Scenario::new(seed, Size::SMALL);
        let mut machine = SaveMachine::new(scenario.save_config(None));
        let mut world = World::new(seed, None, scenario.stream().to_vec(), Fault::None);
        world.run(&mut machine);
        machine.outcome().expect("a snapshot");
        let pages = dialogue::pages(scenario.vm());
        (scenario, world.image.expect("an image"), pages)
    });
    samples.collect()
});

fn say(dialogue: &mut Dialogue<'_>, message: &ReturnPathMessage<'_>) {
    let mut bytes = Vec::new();
    put_return_path_message(&mut bytes, message);
    dialogue.answer(&bytes);
}

fn take(step: &Step, dialogue: &mut Dialogue<'_>) {
    let vm = dialogue.vm();
    let blocks = &vm.config().blocks;
    let block_of = |number: u8| usize::from(number) % blocks.len();
    match step {
        Step::Completes(which) => dialogue.complete(*which, true),
        Step::AllComplete => dialogue.complete_all(),
        Step::Sent(preempt, bytes) => {
            let lane = if *preempt { Lane::Preempt } else { Lane::Main };
            dialogue.sent(lane, u64::from(*bytes) + 1);
        }
        Step::AllSent => dialogue.all_sent(),
        Step::Request { block, page, pages } => {
            let number = block_of(block.unwrap_or(0));
            let unit = dialogue.host_page_bytes(number);
            let message = ReturnPathMessage::RequestPages {
                block: block.map(|_| &blocks[number].0[..]),
                start: u64::from(*page % 32) * unit,
                length: u32::try_from((u64::from(*pages % 4) + 1) * unit).unwrap_or(u32::MAX),
            };
            say(dialogue, &message);
        }
        Step::Pong(value) => say(dialogue, &ReturnPathMessage::Pong(u32::from(*value % 5))),
        Step::ResumeAck => say(dialogue, &ReturnPathMessage::ResumeAck(1)),
        Step::Received { block, bits } => {
            let block = block_of(*block);
            let mut bytes = Vec::new();
            put_return_path_message(&mut bytes, &ReturnPathMessage::ReceivedBitmap(&blocks[block].0));
            put_received_bitmap(&mut bytes, vm.pages(block), |page| bits >> (page % 64) & 1 == 1);
            dialogue.answer(&bytes);
        }
        Step::SwitchoverAck => say(dialogue, &ReturnPathMessage::SwitchoverAck),
        Step::TimePasses(ms) => dialogue.time_passes(u64::from(*ms)),
        Step::Trouble(chance, trouble) if *chance < 16 => stir(trouble, dialogue),
        Step::Trouble(..) => {}
    }
}

fn stir(trouble: &Trouble, dialogue: &mut Dialogue<'_>) {
    let blocks = &dialogue.vm().config().blocks;
    match trouble {
        Trouble::Fails(which) => dialogue.complete(*which, false),
        Trouble::OddRequest { block, start, length } => {
            let block = block.map(|block| &blocks[usize::from(block) % blocks.len()].0[..]);
            say(dialogue, &ReturnPathMessage::RequestPages { block, start: *start, length: *length });
        }
        Trouble::ResumeRefused(value) => say(dialogue, &ReturnPathMessage::ResumeAck(*value)),
        Trouble::Bytes(bytes) => dialogue.answer(bytes),
        Trouble::Shut(status) => say(dialogue, &ReturnPathMessage::Shut(u32::from(*status % 3))),
        Trouble::HangsUp => dialogue.hang_up(),
        Trouble::OutputFails => dialogue.output_fails(),
        Trouble::AnotherPeer => dialogue.event(Event::AnotherPeer),
        Trouble::Interrupted => dialogue.event(Event::Interrupted),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let Ok(setting) = Setting::arbitrary(&mut input) else { return };
    let (scenario, image, pages) = &SAMPLES[usize::from(setting.sample) % SAMPLES.len()];
    let postcopy =
        (if setting.recovers { scenario.recovery() } else { scenario.postcopy().clone() }).with(|config| {
            config.percent = setting.percent % 101;
            config.preempt = setting.preempt;
            config.record_ms = setting.record_ms.map(u64::from).filter(|_| !setting.recovers);
        });
    let mut config = scenario.revert_config(image, Some(postcopy));
    config.timeout_ms = setting.timeout_ms.map(|ms| u64::from(ms) + 1);
    let mut dialogue = Dialogue::new(scenario.vm(), pages, image, config);
    // As many steps as there is input: a list of a random length would be a short one nearly always.
    while !input.is_empty() {
        let Ok(step) = Step::arbitrary(&mut input) else { break };
        take(&step, &mut dialogue);
    }
    // From here on the peer does what it should, and when that does not help, it goes.
    dialogue.settle();
    for message in [ReturnPathMessage::Pong(3), ReturnPathMessage::ResumeAck(1), ReturnPathMessage::Shut(0)] {
        say(&mut dialogue, &message);
        dialogue.settle();
    }
    for trouble in [Trouble::HangsUp, Trouble::OutputFails, Trouble::Interrupted] {
        stir(&trouble, &mut dialogue);
        dialogue.settle();
    }
    dialogue.assert_ended(setting.recovers);
});
