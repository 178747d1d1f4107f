//! Save, then revert, is the identity on RAM and devices, for any VM, stream, image and order of
//! events; with a fault, the save fails and no tool takes what is left for a snapshot, or it is
//! whole.
#![no_main]

// The tests of the simulator use all of it.
#[allow(dead_code)]
#[path = "../../simulator/tests/it/bed/mod.rs"]
mod bed;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snapshot_engine::SaveMachine;
use snapshot_image::{Geometry, Layout};
use vm_simulator::{Fault, Style, VmConfig, World};

#[derive(Debug, Arbitrary)]
struct Input {
    seed: u64,
    world_seed: u64,
    page_bits: u8,
    pages: Vec<u8>,
    nonzero_percent: u8,
    rounds: Option<u8>,
    switches: [bool; 5],
    devices: (u8, u16),
    /// The highest bit: linear.
    cluster_bits: u8,
    refcount_order: u8,
    /// Quarters of a MiB.
    memory_quarters: u8,
    fault: Option<(u8, u16)>,
}

fuzz_target!(|input: Input| {
    let mut config = VmConfig::random(input.seed);
    let page_bits = 10 + u32::from(input.page_bits % 7);
    config.page_size = 1 << page_bits;
    let names = [&b"pc.ram"[..], b"/rom@etc/acpi/tables", b"\xff\x1b[2J", b"a\0b"];
    let blocks = names.iter().zip(input.pages.iter().take(4).chain([&7]));
    // What takes long is seldom run: blocks have 256 KiB at most, clusters too. The simulator's
    // tests have larger ones.
    let most = (1 << (18 - page_bits)).min(64);
    config.blocks =
        blocks.map(|(name, &pages)| (name.to_vec(), (u64::from(pages) % most + 1) << page_bits)).collect();
    config.nonzero_percent = u64::from(input.nonzero_percent % 101);
    config.style =
        input.rounds.map_or(Style::Background, |rounds| Style::Live { rounds: u32::from(rounds % 4) });
    [config.footers, config.vmdesc, config.dirty_bitmap, config.commands, config.compressed] = input.switches;
    config.early_devices &= config.vmdesc;
    config.ignore_shared &= !config.commands && config.configuration;
    (config.devices, config.device_bytes) =
        (usize::from(input.devices.0 % 8) + 1, usize::from(input.devices.1 % 4000) + 1);
    let at = u64::from(input.fault.map_or(0, |fault| fault.1 % 200));
    let fault = input.fault.map_or(Fault::None, |(kind, _)| match kind % 6 {
        0 => Fault::Error(at),
        1 => Fault::Torn(at),
        2 => Fault::Full(at),
        3 => Fault::Dead(at),
        4 => Fault::Interrupt(at),
        _ => Fault::PowerCut(at),
    });
    let (vm, stream) = bed::stream_of(&config);
    let mut how = bed::save_config(&config, None);
    let geometry =
        Geometry::new((64 << 10) << (input.cluster_bits % 3), 1 << (input.refcount_order % 7)).unwrap();
    how.create = Some(geometry.into());
    how.layout = Some(if input.cluster_bits > 127 { Layout::Linear } else { Layout::Dense });
    how.memory_bytes = usize::from(input.memory_quarters % 16) << 18;
    let mut machine = SaveMachine::new(how);
    let mut world = World::new(input.world_seed, None, stream, fault);
    world.run(&mut machine);
    let accepted = world.image.as_ref().map(|image| bed::check_holds(image, &vm, input.world_seed));
    if world.lost_power {
        return; // Whole, or no snapshot: a wrong page would have been a panic.
    }
    match machine.outcome() {
        Ok(_) => accepted.expect("an image").expect("a whole one"),
        Err(failure) => {
            assert!(input.fault.is_some(), "{failure}");
            assert!(accepted.is_none_or(|found| found.is_err()), "{failure}, but the image is whole");
        }
    }
});
