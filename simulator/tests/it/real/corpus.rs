//! QEMU's own streams load: RAM is what an independent reading of the stream gives.

use super::pair::{TIMEOUT, destination, load, userfaultfd_works};
use migration_stream::{Entry, Options, Page, Record, SliceReader};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::Path;
use vm_simulator::real::bitmaps::Node;
use vm_simulator::real::destination::{self, DestinationConfig, DestinationOutcome};
use vm_simulator::real::{Connection, Error, Faults, Workload, page_checksum};

fn streams() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/valid");
    let mut streams: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.ends_with(".bin.zst") && !name.contains(".rp.")
        })
        .map(|path| {
            let bytes = zstd::decode_all(std::fs::File::open(&path).unwrap()).unwrap();
            (path.file_name().unwrap().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    streams.sort();
    assert!(streams.len() > 20, "only {} streams", streams.len());
    streams
}

/// Pages that were sent, as they are in the end, and the names of the devices.
type Model = (BTreeMap<(Vec<u8>, u64), Vec<u8>>, Vec<String>);

fn model(bytes: &[u8]) -> Model {
    let mut reader = SliceReader::new(bytes, Options::default());
    let (mut ram, mut devices): Model = Default::default();
    while let Some(Entry { record, .. }) = reader.advance().unwrap() {
        let key = |block: usize, offset: u64| (reader.decoder().blocks()[block].idstr.clone(), offset);
        match record {
            Record::Page(Page { block, offset, content, .. }) => {
                let page = ram.entry(key(block, offset)).or_insert_with(|| vec![0; 4096]);
                content.apply(page).unwrap();
            }
            Record::Full(header, _) => devices.push(header.idstr.escape_ascii().to_string()),
            _ => {}
        }
    }
    (ram, devices)
}

/// Plays a recorded stream: the source does not listen, everything comes anyway.
fn play(bytes: &[u8], config: &DestinationConfig) -> Result<DestinationOutcome, Error> {
    let none = Faults::default();
    let (ours, theirs) = Connection::pair((TIMEOUT, &none), (TIMEOUT, &none)).unwrap();
    let (_input, output, _) = ours.split();
    let mut output = output.unwrap();
    let mut theirs = Some(theirs);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A destination that has seen the end does not read the rest.
            let _ = output.write_all(bytes);
            output.finish();
        });
        destination::run(config, |_| theirs.take().ok_or_else(|| ErrorKind::NotConnected.into()))
    })
}

#[test]
fn streams_of_qemu_load_into_the_same_ram() {
    let node = Node { bytes: 1 << 40, bitmaps: BTreeMap::new() };
    let can_fault = userfaultfd_works();
    let (mut loaded, mut postcopies) = (0, 0);
    for (name, bytes) in streams() {
        // Target pages of 1 KiB: refused, and told.
        let page_size = SliceReader::new(&bytes, Options::default()).decoder().page_size();
        if page_size.bytes() != 4096 {
            let error = play(&bytes, &destination()).unwrap_err().to_string();
            assert!(error.contains("page size"), "{name}, pages of {page_size}: {error}");
            continue;
        }
        let in_postcopy = name.contains("-postcopy.bin");
        if in_postcopy && !can_fault {
            continue;
        }
        let config = DestinationConfig {
            make_digest: true,
            load: load(Workload::Random),
            nodes: BTreeMap::from([(b"disk0".to_vec(), node.clone())]),
            ..destination()
        };
        let outcome = play(&bytes, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(outcome.postcopy, in_postcopy, "{name}");
        let (ram, devices) = model(&bytes);
        let zero = page_checksum(&[0; 4096]);
        for (block, pages) in &outcome.digest.as_ref().unwrap().blocks {
            for (number, found) in pages.iter().enumerate() {
                let key = (block.clone(), number as u64 * 4096);
                let expected = ram.get(&key).map_or(zero, |page| page_checksum(page));
                assert_eq!(*found, expected, "{name}: page {:#x} of {}", key.1, block.escape_ascii());
            }
        }
        if !outcome.device_names.is_empty() {
            assert_eq!(outcome.device_names, devices, "{name}");
        }
        assert!(outcome.devices.is_some(), "{name}");
        loaded += 1;
        postcopies += usize::from(in_postcopy);
    }
    assert!(loaded > 20 && (!can_fault || postcopies >= 2), "{loaded} streams, {postcopies} in postcopy");
}
