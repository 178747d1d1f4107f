//! Images of the original `qemu-snapshot` tool: its layout to the byte, read without checksums; and
//! what another program did to an image of ours.

use crate::bed::{check_holds, expected_ram, load, save, save_config, stream_of};
use snapshot_engine::{RevertConfig, RevertMachine, RevertSummary};
use snapshot_image::{Geometry, Verification};
use vm_simulator::{Fault, SimFile, Vm, VmConfig, World};

/// Offset and length of our header extension's data, behind the header (112) and the feature names (8 + 192).
const EXTENSION_AT: usize = 112 + 8 + 192;
const AUTOCLEAR_AT: usize = 88;

/// A snapshot in the original tool's form, with clusters of 1 MiB as that tool has them.
fn saved() -> (Vm, Vec<u8>, SimFile) {
    let config = VmConfig::background(5, 3 << 20, 60);
    let (vm, stream) = stream_of(&config);
    let mut with_clusters = save_config(&config, None);
    with_clusters.create = Some(Geometry::default().into());
    let mut machine = snapshot_engine::SaveMachine::new(with_clusters);
    let mut world = World::new(1, None, stream.clone(), Fault::None);
    world.run(&mut machine);
    machine.outcome().unwrap();
    (vm, stream, world.image.unwrap())
}

fn change_header(image: &SimFile, change: impl Fn(&mut [u8])) -> SimFile {
    let mut header = vec![0; 4096];
    image.read(0, &mut header);
    change(&mut header);
    let mut changed = image.clone();
    changed.write(0, &header);
    changed.flush();
    changed
}

fn revert(image: &SimFile, allow_unverified: bool) -> (Vec<u8>, Result<RevertSummary, String>) {
    let config = RevertConfig::new(image.length()).with(|config| {
        config.allow_unverified = allow_unverified;
    });
    let mut machine = RevertMachine::new(config);
    let mut world = World::new(3, Some(image.clone()), Vec::new(), Fault::None);
    world.run(&mut machine);
    (world.output, machine.outcome().map_err(|failure| failure.to_string()))
}

/// Reads the VM-state area through the tables, as any QCOW2 reader does.
fn vm_state(image: &SimFile, length: usize) -> Vec<u8> {
    let be64 = |at: u64| {
        let mut sector = vec![0; 4096];
        image.read(at - at % 4096, &mut sector);
        let start = usize::try_from(at % 4096).unwrap();
        u64::from_be_bytes(sector[start..start + 8].try_into().unwrap())
    };
    let offset = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
    // A disk of less than 128 GiB has one L1 entry; the next one is the VM state's.
    let l2 = offset(be64(be64(40) + 8));
    let mut bytes = vec![0; length.next_multiple_of(4096)];
    image.read(offset(be64(l2)), &mut bytes);
    bytes.truncate(length);
    bytes
}

#[test]
fn the_vm_state_area_has_the_original_tools_layout() {
    let (vm, stream, image) = saved();
    let tail = vm.tail();
    let leader = stream.windows(5).position(|window| window == [0x02, 0, 0, 0, 2]).unwrap();
    let ram_start = stream.windows(9).position(|window| window == b"\x01\0\0\0\x02\x03ram").unwrap();
    let be32 = |value: usize| u32::try_from(value).unwrap().to_be_bytes();
    let mut expected = b"STVM".to_vec();
    expected.extend_from_slice(&be32(4096));
    expected.extend_from_slice(&(expected_ram(&vm).len() as u64).to_be_bytes());
    expected.extend_from_slice(&be32(ram_start));
    expected.extend_from_slice(&be32(leader));
    expected.extend_from_slice(&be32(leader + tail.len()));
    assert_eq!(expected.len(), 28);
    expected.extend_from_slice(&stream[..leader]);
    expected.extend_from_slice(tail);
    assert!(vm_state(&image, expected.len()) == expected);
}

#[test]
fn an_image_without_extension_is_read_unverified() {
    let (vm, _, image) = saved();
    let original = change_header(&image, |header| {
        header[EXTENSION_AT..].fill(0);
        header[AUTOCLEAR_AT..AUTOCLEAR_AT + 8].fill(0);
    });
    let (output, outcome) = revert(&original, false);
    let why = "it was saved by a tool that makes no checksums";
    assert_eq!(outcome.unwrap().verification, Verification::Unverified(why));
    let (ram, tail) = load(&output, 4096).unwrap();
    assert!(ram == expected_ram(&vm) && tail == vm.tail());
}

#[test]
fn an_image_that_another_program_wrote_to_is_refused_unless_asked_for() {
    let (vm, _, image) = saved();
    check_holds(&image, &vm, 1).unwrap();
    let touched = change_header(&image, |header| header[AUTOCLEAR_AT..AUTOCLEAR_AT + 8].fill(0));
    let stripped = change_header(&image, |header| header[EXTENSION_AT..].fill(0));
    for (changed, why) in [
        (&touched, "the feature bit that says unchanged is not set"),
        (&stripped, "the header's extension is missing"),
    ] {
        let (output, outcome) = revert(changed, false);
        let expected = format!("changed by another program, or damaged: {why}");
        assert_eq!(outcome.unwrap_err(), expected);
        assert_eq!(output, b"X", "QEMU refuses this at once");
        let (output, outcome) = revert(changed, true);
        assert_eq!(outcome.unwrap().verification, Verification::Unverified(why));
        assert!(load(&output, 4096).unwrap().0 == expected_ram(&vm));
    }
}

#[test]
fn what_the_original_tool_could_not_read_has_another_magic() {
    let mut config = VmConfig::background(7, 1 << 20, 50);
    config.dirty_bitmap = true;
    config.style = vm_simulator::Style::Live { rounds: 1 };
    let (vm, stream) = stream_of(&config);
    let (world, outcome) = save(&config, &stream, None, 1, Fault::None);
    outcome.unwrap().unwrap();
    let image = world.image.unwrap();
    check_holds(&image, &vm, 1).unwrap();
    let magics = |magic: &[u8]| {
        image.sectors().any(|at| {
            let mut sector = vec![0; 4096];
            image.read(at, &mut sector);
            sector.starts_with(magic)
        })
    };
    assert!(magics(b"STV2") && !magics(b"STVM"));
}
