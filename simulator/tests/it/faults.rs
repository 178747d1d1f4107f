//! Faults at every action: a save is whole or says that it is not; a revert delivers everything or
//! no end mark.

use crate::bed::{check_holds, load, revert, save, save_config, stream_of};
use snapshot_engine::{Failure, NewImage, SaveMachine, SaveSummary};
use vm_simulator::{Fault, SimFile, VmConfig, World};

fn small(seed: u64) -> VmConfig {
    let mut config = VmConfig::random(seed);
    config.nonzero_percent = 60;
    let most = (512u64 << 10).next_multiple_of(u64::from(config.page_size));
    config.blocks.truncate(3);
    config.blocks.iter_mut().for_each(|(_, length)| *length = (*length).min(most));
    config
}

type MakeFault = fn(u64) -> Fault;

const FAULTS: [MakeFault; 5] = [Fault::Error, Fault::Torn, Fault::Full, Fault::Dead, Fault::Interrupt];

#[test]
fn a_save_that_meets_a_fault_fails_or_is_whole() {
    for seed in 0..12 {
        let config = small(seed);
        let (vm, stream) = stream_of(&config);
        for fault in FAULTS {
            for at in 0.. {
                let (world, outcome) = save(&config, &stream, None, seed + at, fault(at));
                let accepted = world.image.as_ref().map(|image| check_holds(image, &vm, at));
                match outcome.unwrap() {
                    Ok(_) => accepted
                        .unwrap()
                        .unwrap_or_else(|error| panic!("seed {seed}, {:?}: {error}", fault(at))),
                    Err(_) => {
                        // With a disk that fails for good, what was written last can be neither
                        // removed nor taken back. It is whole, then.
                        let dead = fault(at) == Fault::Dead(at);
                        let no_snapshot = accepted.is_none_or(|found| found.is_err());
                        assert!(no_snapshot || dead, "seed {seed}, {:?}", fault(at));
                        // A disk that another program fills fails no save that has its name. Only
                        // on a copy-on-write disk there is a moment in which the ballast could be
                        // taken away.
                        let has_name = world.claimed_at.is_some_and(|claimed| claimed < at);
                        let late = world.copy_on_write && world.given_back_at.is_some_and(|back| back < at);
                        assert!(
                            !has_name || late || fault(at) != Fault::Full(at),
                            "seed {seed}: full at {at}"
                        );
                    }
                }
                if at > world.actions {
                    break;
                }
            }
        }
    }
}

/// A save that may not replace a snapshot.
fn save_without_overwrite(
    config: &VmConfig,
    stream: &[u8],
    left: Option<SimFile>,
    seed: u64,
    fault: Fault,
) -> (World, Option<Result<SaveSummary, Failure>>) {
    let config = save_config(config, left.as_ref()).with(|config| {
        config.overwrite = false;
    });
    let mut machine = SaveMachine::new(config);
    let mut world = World::new(seed, left, stream.to_vec(), fault);
    world.run(&mut machine);
    let ended = !world.lost_power && fault != Fault::Killed(world.event);
    (world, ended.then(|| machine.outcome()))
}

/// At each of its actions and events: until the file has its name nothing is left, then an
/// interrupted save, which the next save replaces without being asked to, and in the end the
/// snapshot.
#[test]
fn a_new_image_that_is_cut_short_is_nothing_or_an_interrupted_save_or_whole() {
    for seed in 0..8 {
        let config = small(seed);
        let (vm, stream) = stream_of(&config);
        let (mut nothing, mut interrupted, mut whole) = (0, 0, 0);
        for fault in [Fault::PowerCut as MakeFault, Fault::Killed] {
            for at in 0.. {
                let (world, outcome) = save_without_overwrite(&config, &stream, None, seed + at, fault(at));
                let Some(left) = world.image else {
                    nothing += 1;
                    continue;
                };
                assert!(world.claimed_at.is_some(), "seed {seed}, {:?}: a name before its time", fault(at));
                let found = check_holds(&left, &vm, at);
                match &found {
                    Ok(()) => whole += 1,
                    Err(error) => {
                        assert!(
                            error.contains("a save was interrupted"),
                            "seed {seed}, {:?}: {error}",
                            fault(at)
                        );
                        interrupted += 1;
                        let (next, outcome) =
                            save_without_overwrite(&config, &stream, Some(left), seed + at, Fault::None);
                        outcome
                            .unwrap()
                            .unwrap_or_else(|failure| panic!("seed {seed}, {:?}: {failure}", fault(at)));
                        check_holds(next.image.as_ref().unwrap(), &vm, at).unwrap();
                    }
                }
                if let Some(outcome) = outcome {
                    outcome.unwrap_or_else(|failure| panic!("seed {seed}, {:?}: {failure}", fault(at)));
                    found.unwrap();
                    break;
                }
            }
        }
        assert!(nothing > 0 && interrupted > 0 && whole > 0, "{nothing}, {interrupted}, {whole}");
    }
}

/// Each operation of the way back fails, too.
#[test]
fn a_late_flush_that_fails_leaves_no_snapshot() {
    let mut taken_back = 0;
    for seed in 0..12 {
        let config = small(seed);
        let (vm, stream) = stream_of(&config);
        for empty in [None, Some(empty_image(&config))] {
            let whole = save_without_overwrite(&config, &stream, empty.clone(), seed, Fault::None).0;
            for at in whole.actions - 6..whole.actions {
                let (world, outcome) =
                    save_without_overwrite(&config, &stream, empty.clone(), seed, Fault::Error(at));
                let Err(failure) = outcome.unwrap() else { continue };
                taken_back += 1;
                if let Some(left) = &world.image {
                    let error = check_holds(left, &vm, at).unwrap_err();
                    assert!(
                        error.contains("a save was interrupted"),
                        "seed {seed}, {at}, {failure}: {error}"
                    );
                }
            }
        }
    }
    assert!(taken_back > 20, "{taken_back}");
}

#[test]
fn an_overwrite_that_meets_a_fault_or_loses_power_leaves_the_old_or_the_new_snapshot() {
    for seed in 0..6 {
        let old_config = small(seed + 500);
        let (old_vm, old_stream) = stream_of(&old_config);
        let old = save(&old_config, &old_stream, None, seed, Fault::None).0.image.unwrap();
        let config = small(seed);
        let (vm, stream) = stream_of(&config);
        for fault in FAULTS.into_iter().chain([Fault::PowerCut as MakeFault]) {
            for at in 0.. {
                let (world, outcome) = save(&config, &stream, Some(old.clone()), seed + at, fault(at));
                let image = world.image.unwrap();
                let is_old = image == old;
                let succeeded = matches!(outcome, Some(Ok(_)));
                if succeeded || !is_old {
                    check_holds(&image, &vm, at)
                        .unwrap_or_else(|error| panic!("seed {seed}, {:?}: {error}", fault(at)));
                } else {
                    check_holds(&image, &old_vm, at).unwrap();
                }
                // A rename is the last thing that can go wrong.
                assert!(
                    succeeded
                        || is_old
                        || world.lost_power
                        || fault(at) == Fault::Interrupt(at)
                        || fault(at) == Fault::Torn(at),
                    "seed {seed}, {:?}",
                    fault(at)
                );
                if at > world.actions {
                    break;
                }
            }
        }
    }
}

/// An image as `qemu-img create` makes it: begun by us, and emptied of our mark.
fn empty_image(config: &VmConfig) -> SimFile {
    let Some(NewImage::Of(geometry)) = save_config(config, None).create else { unreachable!() };
    let identity = snapshot_image::Identity { uuid: [0; 16], created_unix_s: 0 };
    let (_, steps) = snapshot_image::SnapshotWriter::create(geometry, 64 << 20, identity).unwrap();
    let mut file = SimFile::default();
    for step in steps {
        match step {
            snapshot_image::Step::Write { at, mut bytes } => {
                if at.0 == 0 {
                    // The feature name table ends the extensions of an image of qemu-img: ours
                    // comes behind it.
                    let start = 112 + 8 + 192;
                    bytes[start..start + 8].fill(0);
                    // Nor has it our autoclear bit.
                    bytes[88..96].fill(0);
                }
                file.write(at.0, &bytes);
            }
            snapshot_image::Step::SetLength(length) => file.set_length(length),
            snapshot_image::Step::Ballast(_) => {}
            snapshot_image::Step::Flush => file.flush(),
        }
    }
    file
}

#[test]
fn a_save_in_place_that_loses_power_is_whole_or_no_snapshot() {
    let mut whole = 0;
    for seed in 0..10 {
        let mut config = small(seed);
        config.blocks.truncate(3);
        let (vm, stream) = stream_of(&config);
        let empty = empty_image(&config);
        for at in 0.. {
            let (world, outcome) =
                save(&config, &stream, Some(empty.clone()), seed + at, Fault::PowerCut(at));
            let left = world.image.unwrap();
            let found = check_holds(&left, &vm, at);
            whole += u64::from(found.is_ok());
            // Whatever is left, the next save may replace it.
            let (next, outcome_of_next) = if found.is_ok() {
                save(&config, &stream, Some(left), seed + at, Fault::None)
            } else {
                save_without_overwrite(&config, &stream, Some(left), seed + at, Fault::None)
            };
            outcome_of_next.unwrap().unwrap_or_else(|failure| panic!("seed {seed}, cut at {at}: {failure}"));
            check_holds(next.image.as_ref().unwrap(), &vm, at).unwrap();
            if let Some(outcome) = outcome {
                outcome.unwrap_or_else(|failure| panic!("seed {seed}, at {at}: {failure}"));
                found.unwrap();
                break;
            }
        }
    }
    assert!(whole >= 10);
}

#[test]
fn a_revert_that_meets_a_fault_sends_no_end_mark() {
    for seed in 0..12 {
        let config = small(seed);
        let (vm, stream) = stream_of(&config);
        let image = save(&config, &stream, None, seed, Fault::None).0.image.unwrap();
        for fault in [Fault::Error, Fault::Torn, Fault::Dead, Fault::Interrupt, Fault::PeerGone] {
            for at in 0.. {
                let (world, outcome) = revert(&image, seed + at, fault(at));
                match outcome {
                    Ok(_) => assert!(world.output.ends_with(vm.tail()), "seed {seed}, {:?}", fault(at)),
                    Err(failure) => {
                        let loaded = load(&world.output, config.page_size);
                        assert!(
                            loaded.is_err(),
                            "seed {seed}, {:?}: {failure}, but the stream is whole",
                            fault(at)
                        );
                        let peer_gone = matches!(fault(at), Fault::PeerGone(_));
                        assert!(
                            !world.output.is_empty() || peer_gone,
                            "seed {seed}: the destination would wait without end"
                        );
                    }
                }
                if at > world.actions {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_detected_or_changes_nothing() {
    let flips = std::env::var("SIM_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    let mut detected = 0;
    for seed in 0..6 {
        let mut config = small(seed);
        config.blocks.truncate(2);
        let (vm, stream) = stream_of(&config);
        let image = save(&config, &stream, None, seed, Fault::None).0.image.unwrap();
        let sectors: Vec<u64> = image.sectors().collect();
        let mut rng = vm_simulator::Rng::new(seed);
        for flip in 0..flips / 6 {
            let at = sectors[rng.index(sectors.len())] + rng.below(4096);
            let mut damaged = image.clone();
            damaged.flip_bit(at, u32::try_from(rng.below(8)).unwrap());
            match check_holds(&damaged, &vm, flip) {
                Ok(()) => {}
                Err(error) => {
                    assert!(!error.is_empty());
                    detected += 1;
                }
            }
        }
    }
    assert!(detected > 100, "only {detected} flips were detected");
}
