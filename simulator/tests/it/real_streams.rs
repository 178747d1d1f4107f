//! Real streams that were cut off, or have a bit wrong, through the save: what it takes is what came.

use crate::bed::revert;
use migration_stream::{Decoder, Options, Page, Record, Step};
use snapshot_engine::{Failure, SaveConfig, SaveMachine};
use snapshot_image::{Geometry, Identity};
use std::collections::HashMap;
use std::path::PathBuf;
use vm_simulator::{Fault, Rng, SimFile, World};

fn stream(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../corpus/valid/{name}.bin.zst"));
    zstd::decode_all(&std::fs::read(path).unwrap()[..]).unwrap()
}

/// Saves a stream of 4 KiB pages; the image, or why there is none.
fn save(stream: Vec<u8>, no_vmdesc: bool, seed: u64) -> (Option<SimFile>, Result<(), Failure>) {
    let config = SaveConfig::new(Identity { uuid: [7; 16], created_unix_s: 1 }).with(|config| {
        config.no_vmdesc = no_vmdesc;
        config.create = Some(Geometry::new(64 << 10, 16).unwrap().into());
        config.memory_bytes = 4 << 20;
    });
    let mut machine = SaveMachine::new(config);
    // The second of the world's piece sizes: the others are too small, or the whole stream at once.
    let mut world = World::new(seed * 3 + 1, None, stream, Fault::None);
    world.run(&mut machine);
    let outcome = machine.outcome().map(|_| ());
    (world.image, outcome)
}

/// Pages that are not zero, and everything from the first device section on, whatever the vmdesc says of it.
fn contents(stream: &[u8]) -> (crate::bed::Ram, &[u8]) {
    let mut decoder = Decoder::new(Options::default());
    let (mut ram, mut at) = (HashMap::new(), 0);
    while let Step::Record { len, record } = decoder.step(&stream[at..]).unwrap() {
        match record {
            Record::Page(Page { block, offset, content, .. }) => {
                let page = ram.entry((block, offset)).or_insert_with(|| vec![0; 4096]);
                content.apply(page).unwrap();
            }
            Record::DeviceTail => break,
            _ => {}
        }
        at += len;
    }
    ram.retain(|_, page| page.iter().any(|&byte| byte != 0));
    (ram, &stream[at..])
}

const STREAMS: [&str; 8] = [
    "qemu-7.2-pc-rounds",
    "qemu-10.0-pc-background",
    "qemu-7.2-pc-compress",
    "qemu-10.0-pc-xbzrle",
    "qemu-7.2-pc-dirty-bitmap",
    "qemu-10.0-pc-uuid",
    "qemu-10.0-pc-no-footers",
    "qemu-7.2-pc-no-vmdesc",
];

#[test]
fn a_cut_real_stream_is_never_a_snapshot() {
    for (seed, name) in (0..).zip(STREAMS) {
        let whole = stream(name);
        let mut rng = Rng::new(seed);
        let near_the_end = whole.len() - 12..whole.len();
        let cuts = (0..20).map(|_| rng.index(whole.len())).collect::<Vec<_>>();
        for cut in cuts.into_iter().chain(near_the_end) {
            // The option is what makes it hard: a stream may then end behind any footer and EOF byte.
            let no_vmdesc = name.ends_with("no-vmdesc");
            let (image, outcome) = save(whole[..cut].to_vec(), no_vmdesc, seed + cut as u64);
            let text = outcome.expect_err(name).to_string();
            assert!(text.contains("truncated") || text.contains("no vmdesc"), "{name}, cut at {cut}: {text}");
            assert_eq!(image, None, "{name}, cut at {cut}");
        }
    }
}

/// Flips a bit in `count` places of each stream, mostly where its framing is.
fn flip(count: u64) -> (u64, u64) {
    let (mut taken, mut refused) = (0, 0);
    for (seed, name) in (0..).zip(STREAMS) {
        let whole = stream(name);
        let mut rng = Rng::new(seed);
        for number in 0..count {
            let at = match number % 3 {
                0 => rng.index(200),
                1 => whole.len() - 1 - rng.index(60_000),
                _ => rng.index(whole.len()),
            };
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << rng.below(8);
            let no_vmdesc = name.ends_with("no-vmdesc");
            let (image, outcome) = save(damaged.clone(), no_vmdesc, seed + number);
            match outcome {
                Ok(()) => {
                    taken += 1;
                    let (world, outcome) = revert(&image.unwrap(), number, Fault::None);
                    outcome.unwrap_or_else(|failure| panic!("{name}, byte {at:#x}: {failure}"));
                    let (ram, tail) = contents(&world.output);
                    let (expected_ram, expected_tail) = contents(&damaged);
                    assert!(ram == expected_ram, "{name}, byte {at:#x}: other RAM");
                    assert!(tail == expected_tail, "{name}, byte {at:#x}: other devices");
                }
                Err(failure) => {
                    refused += 1;
                    assert!(failure.to_string().len() > 20, "{name}, byte {at:#x}: {failure}");
                    assert_eq!(image, None, "{name}, byte {at:#x}");
                }
            }
        }
    }
    (taken, refused)
}

#[test]
fn a_real_stream_with_a_flipped_bit_is_refused_or_saved_as_it_came() {
    let (taken, refused) = flip(100);
    assert!(taken > 150 && refused > 150, "{taken} taken, {refused} refused");
}

/// Nightly.
#[test]
#[ignore = "takes minutes"]
fn many_real_streams_with_a_flipped_bit_are_refused_or_saved_as_they_came() {
    let (taken, refused) = flip(3000);
    println!("{taken} taken, {refused} refused");
    assert!(taken > 4000 && refused > 4000, "{taken} taken, {refused} refused");
}
