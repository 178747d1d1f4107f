//! Saves and reverts generated VMs in a simulated world.

use migration_stream::{Entry, Options, Page, PageContent, PageSize, Record, SliceReader};
use snapshot_engine::{
    Failure, RevertConfig, RevertMachine, RevertSummary, SaveConfig, SaveMachine, SaveSummary,
};
use snapshot_image::{Geometry, Identity, Layout};
use std::collections::HashMap;
use vm_simulator::{Fault, SimFile, Vm, VmConfig, World, mapped_view};

/// RAM of a destination: pages that are not zero.
pub(crate) type Ram = HashMap<(usize, u64), Vec<u8>>;

pub(crate) fn stream_of(config: &VmConfig) -> (Vm, Vec<u8>) {
    let mut vm = Vm::new(config.clone());
    let mut stream = Vec::new();
    vm.send(&mut stream).unwrap();
    (vm, stream)
}

pub(crate) fn save_config(config: &VmConfig, existing: Option<&SimFile>) -> SaveConfig {
    let geometry = Geometry::new((64 << 10) << (config.seed % 6), 1 << (config.seed / 6 % 7)).unwrap();
    SaveConfig::new(Identity { uuid: [u8::try_from(config.seed % 251).unwrap(); 16], created_unix_s: 1 })
        .with(|save| {
            save.stream = Options::default().with_page_size(PageSize::new(config.page_size.into()));
            save.no_vmdesc = !config.vmdesc;
            save.existing_length_bytes = existing.map(SimFile::length);
            save.create = Some(geometry.into());
            // Clusters of 2 MiB are too large for a linear image.
            let linear = config.seed & 2 == 2 && geometry.cluster_bytes() < 2 << 20;
            // What replaces an image has its clusters, and its layout.
            let layout = if linear { Layout::Linear } else { Layout::Dense };
            save.layout = existing.is_none().then_some(layout);
            save.overwrite = existing.is_some();
            save.live = config.seed.is_multiple_of(2);
            save.can_answer = config.seed.is_multiple_of(3);
            save.memory_bytes = 4 << 20;
        })
}

/// Saves; what the disk holds in the end, and how it ended (nothing if the power went).
pub(crate) fn save(
    config: &VmConfig,
    stream: &[u8],
    old: Option<SimFile>,
    world_seed: u64,
    fault: Fault,
) -> (World, Option<Result<SaveSummary, Failure>>) {
    let mut machine = SaveMachine::new(save_config(config, old.as_ref()));
    let mut world = World::new(world_seed, old, stream.to_vec(), fault);
    world.run(&mut machine);
    let outcome = (!world.lost_power).then(|| machine.outcome());
    (world, outcome)
}

/// Reverts; what was sent, and how it ended.
pub(crate) fn revert(
    image: &SimFile,
    world_seed: u64,
    fault: Fault,
) -> (World, Result<RevertSummary, Failure>) {
    let config = RevertConfig::new(image.length());
    let mut machine = RevertMachine::new(config);
    let mut world = World::new(world_seed, Some(image.clone()), Vec::new(), fault);
    world.run(&mut machine);
    let outcome = machine.outcome();
    (world, outcome)
}

/// What a destination has after a stream: RAM, and the bytes from the first device section on.
pub(crate) fn load(stream: &[u8], page_size: u32) -> Result<(Ram, Vec<u8>), String> {
    let mut reader =
        SliceReader::new(stream, Options::default().with_page_size(PageSize::new(page_size.into())));
    let mut ram = Ram::new();
    let mut tail = None;
    let size = u64::from(page_size);
    while let Some(Entry { offset: at, record, .. }) = reader.advance().map_err(|error| error.to_string())? {
        match record {
            // A guest of many GiB of zeros must not take that much memory here.
            Record::Page(Page { block, offset, content: PageContent::Zero, .. }) => {
                ram.remove(&(block, offset / size));
            }
            Record::Page(Page { block, offset, content, .. }) => {
                let page = ram.entry((block, offset / size)).or_insert_with(|| vec![0; page_size as usize]);
                content.apply(page).map_err(|error| error.to_string())?;
            }
            Record::Full(..) | Record::Eof if tail.is_none() => tail = Some(usize::try_from(at).unwrap()),
            _ => {}
        }
    }
    let zero = vec![0; page_size as usize];
    ram.retain(|_, page| *page != zero);
    Ok((ram, tail.map_or_else(Vec::new, |at| stream[at..].to_vec())))
}

/// The RAM that the VM has after sending everything.
pub(crate) fn expected_ram(vm: &Vm) -> Ram {
    let mut ram = Ram::new();
    for block in 0..vm.config().blocks.len() {
        for page in 0..vm.pages(block) {
            if let Some(content) = vm.page(block, page) {
                ram.insert((block, page), content);
            }
        }
    }
    ram
}

/// Asserts that the image holds this VM; the error says why not, if it is no snapshot at all.
pub(crate) fn check_holds(image: &SimFile, vm: &Vm, world_seed: u64) -> Result<(), String> {
    let (world, outcome) = revert(image, world_seed, Fault::None);
    outcome.map_err(|failure| failure.to_string())?;
    let (ram, tail) = load(&world.output, vm.config().page_size).unwrap();
    assert!(tail == vm.tail(), "seed {}: the device tail differs", vm.config().seed);
    let expected = expected_ram(vm);
    for (place, page) in &expected {
        assert!(ram.get(place) == Some(page), "seed {}: page {place:?} differs", vm.config().seed);
    }
    assert_eq!(ram.len(), expected.len(), "seed {}: pages that should be zero", vm.config().seed);
    mapped_view(image, vm).map_err(|violation| violation.to_string())?;
    Ok(())
}
