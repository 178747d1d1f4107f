//! imago, which knows nothing of us, reads the same RAM from an image that was just saved.

use crate::bed::{save, stream_of};
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use snapshot_image::{ImageBlock, RamLayout};
use vm_simulator::{Fault, SimFile, Vm, VmConfig};

fn check(vm: &Vm, image: &SimFile) {
    let seed = vm.config().seed;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut bytes = vec![0; usize::try_from(image.length()).unwrap()];
    image.read(0, &mut bytes);
    std::fs::write(&path, bytes).unwrap();
    let qcow2 = Qcow2::<File>::builder_path(&path).open(PermissiveImplicitOpenGate::default()).unwrap();
    let disk = FormatAccess::new(qcow2);
    let block = |(name, length): &(Vec<u8>, u64)| ImageBlock {
        name: name.clone(),
        used_length: *length,
        host_page_size: None,
    };
    let config = vm.config();
    let layout = RamLayout::new(config.blocks.iter().map(block).collect(), config.page_size).unwrap();
    for block in 0..config.blocks.len() {
        for page in 0..vm.pages(block) {
            let mut found = vec![0; config.page_size as usize];
            let place = layout.guest(block, page * u64::from(config.page_size));
            disk.read(&mut found[..], place.0).unwrap();
            let expected = vm.page(block, page).unwrap_or_else(|| vec![0; config.page_size as usize]);
            assert!(found == expected, "seed {seed}: page {page} of block {block}");
        }
    }
}

#[test]
fn imago_reads_the_same_ram() {
    for seed in 0..30 {
        let config = VmConfig::random(seed);
        let (vm, stream) = stream_of(&config);
        let (world, outcome) = save(&config, &stream, None, seed, Fault::None);
        outcome.unwrap().unwrap();
        check(&vm, &world.image.unwrap());
    }
}
