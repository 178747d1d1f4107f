//! Save, then revert, is the identity on RAM and devices: every cluster size, refcount width and
//! page size with every kind of VM, stream, memory limit and timing.

use crate::bed::{check_holds, save_config, stream_of};
use proptest::prelude::*;
use snapshot_engine::SaveMachine;
use snapshot_image::{Geometry, Layout};
use vm_simulator::{Fault, Style, VmConfig, World};

fn geometry() -> impl Strategy<Value = Geometry> {
    (16u32..=21, 0u32..=6).prop_map(|(cluster_bits, refcount_order)| {
        Geometry::new(1 << cluster_bits, 1 << refcount_order).unwrap()
    })
}

prop_compose! {
    fn vm()(
        seed in any::<u64>(),
        page_bits in 10u32..=16,
        pages in prop::collection::vec(1u64..120, 1..5),
        nonzero_percent in 0u64..=100,
        rounds in prop::option::of(0u32..4),
        (footers, vmdesc, dirty_bitmap, commands, compressed) in any::<(bool, bool, bool, bool, bool)>(),
        (devices, device_bytes) in (1usize..8, 1usize..6000),
    ) -> VmConfig {
        let mut config = VmConfig::random(seed);
        config.page_size = 1 << page_bits;
        let names = [&b"pc.ram"[..], b"/rom@etc/acpi/tables", b"\xff\x1b[2J", b"a\0b"];
        let block = |(name, pages): (&[u8], u64)| (name.to_vec(), pages << page_bits);
        config.blocks = names.into_iter().zip(pages).map(block).collect();
        config.nonzero_percent = nonzero_percent;
        config.style = rounds.map_or(Style::Background, |rounds| Style::Live { rounds });
        (config.footers, config.vmdesc, config.dirty_bitmap) = (footers, vmdesc, dirty_bitmap);
        (config.commands, config.compressed) = (commands, compressed);
        // Where early devices end is confirmed by the vmdesc; QEMU has no postcopy with ignored shared RAM.
        config.early_devices &= vmdesc;
        config.ignore_shared &= !commands && config.configuration;
        (config.devices, config.device_bytes) = (devices, device_bytes);
        config
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn save_then_revert_is_the_identity(
        config in vm(), geometry in geometry(), memory_mib in 0usize..40, world_seed in any::<u64>()
    ) {
        let (vm, stream) = stream_of(&config);
        let mut how = save_config(&config, None);
        how.create = Some(geometry.into());
        let linear = config.seed & 1 == 1 && geometry.cluster_bytes() < 2 << 20;
        how.layout = Some(if linear { Layout::Linear } else { Layout::Dense });
        how.memory_bytes = memory_mib << 20;
        let mut machine = SaveMachine::new(how);
        let mut world = World::new(world_seed, None, stream, Fault::None);
        world.run(&mut machine);
        let summary = machine.outcome().map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        prop_assert_eq!(summary.nonzero_pages, crate::bed::expected_ram(&vm).len() as u64);
        let image = world.image.unwrap();
        check_holds(&image, &vm, world_seed).map_err(TestCaseError::fail)?;
    }
}
