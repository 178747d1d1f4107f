//! Whoever changes how the engine is written, and not what it does, sees here that it does the same.

use crate::bed::{revert, save, stream_of};
use vm_simulator::explore::explore;
use vm_simulator::{Fault, VmConfig};

/// Saves, overwrites, reverts and postcopies of 300 seeds with their faults. A change of what the
/// engine does, of the parser's encoders, or of the VMs that the simulator generates changes the
/// number; then it is to be written here anew.
#[test]
fn the_same_seeds_ask_for_the_same() {
    let mut sum = 0_u64;
    for seed in 0..300 {
        let explored = explore(seed, None).unwrap();
        sum = sum.rotate_left(1) ^ explored.trace.number();
    }
    assert_eq!(format!("{sum:016x}"), "d0925fa2d81422af");
}

/// Larger VMs, in each form of stream.
#[test]
fn the_same_large_vms_are_saved_and_reverted_the_same_way() {
    let mut sum = 0_u64;
    for seed in 0..60 {
        let config = VmConfig::random(seed);
        let (_, stream) = stream_of(&config);
        for fault in [Fault::None, Fault::Error(seed * 3), Fault::Interrupt(seed * 2)] {
            let (saved, _) = save(&config, &stream, None, seed, fault);
            sum = sum.rotate_left(1) ^ saved.trace.number();
            if let Some(image) = &saved.image {
                let (reverted, _) = revert(image, seed, Fault::None);
                sum = sum.rotate_left(1) ^ reverted.trace.number();
            }
        }
    }
    assert_eq!(format!("{sum:016x}"), "f6d323d9eaa08b89");
}
