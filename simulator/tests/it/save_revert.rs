//! Save, then revert: RAM and devices are what they were, for VMs, disks and channels of every kind.

use crate::bed::{check_holds, load, save, stream_of};
use migration_stream::ErrorKind;
use snapshot_engine::{Failure, Unsupported};
use vm_simulator::{Fault, SimFile, VmConfig};

/// Seeds of one run; the nightly tier has many more.
fn seeds() -> u64 {
    std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

#[test]
fn save_then_revert_gives_the_same_ram_and_devices() {
    for seed in 0..seeds() {
        let config = VmConfig::random(seed);
        let (vm, stream) = stream_of(&config);
        let (ram, tail) = load(&stream, config.page_size).unwrap();
        assert!(
            tail == vm.tail() && ram == crate::bed::expected_ram(&vm),
            "seed {seed}: the generator is wrong"
        );
        let (world, outcome) = save(&config, &stream, None, seed, Fault::None);
        let summary =
            outcome.unwrap().unwrap_or_else(|failure| panic!("seed {seed}: {failure} ({config:?})"));
        assert_eq!(summary.nonzero_pages, ram.len() as u64, "seed {seed}");
        let image = world.image.unwrap();
        check_holds(&image, &vm, seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

/// A source sees a failure only as long as it has something to write: so it is held back before the
/// device tail, and from the beginning where it is not known how much RAM will arrive.
#[test]
fn writer_is_held_back_before_the_tail() {
    let (mut live, mut early) = (0, 0);
    for seed in (0..seeds() * 4).filter(|seed| seed.is_multiple_of(6)) {
        let config = VmConfig::random(seed);
        let (vm, stream) = stream_of(&config);
        // Only then the world gives the input in tiny pieces.
        if stream.len() >= 100_000 {
            continue;
        }
        live += 1;
        let (world, outcome) = save(&config, &stream, None, seed, Fault::None);
        outcome.unwrap().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        let left = world.held_with_input_left.unwrap_or_else(|| panic!("seed {seed}: never held back"));
        let mut least = vm.tail().len();
        if config.early_devices && config.devices > 1 {
            early += 1;
            let pages: u64 = (0..config.blocks.len()).map(|block| vm.pages(block)).sum();
            least += usize::try_from(pages).unwrap() * 8;
        }
        assert!(left >= least, "seed {seed}: held back with {left} bytes left, expected {least}");
    }
    assert!(live > 5 && early > 0, "{live} live, {early} with early devices: no use");
}

#[test]
fn overwrite_replaces_one_snapshot_by_another() {
    for seed in 0..seeds() / 5 {
        let (_, first) = stream_of(&VmConfig::random(seed));
        let image = save(&VmConfig::random(seed), &first, None, seed, Fault::None).0.image;
        let config = VmConfig::random(seed + 1000);
        let (vm, stream) = stream_of(&config);
        let (world, outcome) = save(&config, &stream, image, seed, Fault::None);
        outcome.unwrap().unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        check_holds(&world.image.unwrap(), &vm, seed).unwrap();
    }
}

#[test]
fn a_truncated_stream_is_never_a_snapshot() {
    for seed in 0..seeds() / 10 {
        let mut config = VmConfig::random(seed);
        config.blocks.truncate(2);
        config
            .blocks
            .iter_mut()
            .for_each(|(_, length)| *length = (*length).min(u64::from(config.page_size) * 20));
        let (vm, stream) = stream_of(&config);
        let tail_start = stream.len() - vm.tail().len();
        let step = stream.len() / 40 + 1;
        let tail_step = vm.tail().len() / 80 + 1;
        let last = stream.len().saturating_sub(20)..stream.len();
        for cut in
            (0..tail_start).step_by(step).chain((tail_start..stream.len()).step_by(tail_step)).chain(last)
        {
            let (world, outcome) = save(&config, &stream[..cut], None, seed, Fault::None);
            // Without a vmdesc a cut that falls behind a footer and an EOF byte cannot be told; the
            // option says so.
            if config.vmdesc || !stream[..cut].ends_with(&[0]) {
                let failure =
                    outcome.unwrap().expect_err(&format!("seed {seed}: cut at {cut} of {}", stream.len()));
                let known = match &failure {
                    Failure::Stream(error) => matches!(error.kind, ErrorKind::Truncated { .. }),
                    // A cut behind an EOF byte looks like the end of a stream with suppress-vmdesc=on.
                    Failure::Unsupported(Unsupported::NoVmdesc) => stream[..cut].ends_with(&[0]),
                    _ => false,
                };
                assert!(known, "seed {seed}, cut {cut}: {failure}");
                assert_eq!(world.image, None::<SimFile>, "seed {seed}: cut at {cut} left a file");
            }
        }
    }
}
