//! No file, however damaged, makes opening or inspecting an image panic, loop, read without bound,
//! or ask for something that cannot be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snapshot_image::{HostOffset, ImageError, Inspect, Inspector, ReadOptions, SnapshotReader};

/// Reads that an image of a few clusters can need: far more means a loop.
const READS: usize = 10_000;

fn part(file: &[u8], at: HostOffset, length: usize) -> Vec<u8> {
    assert!(at.0 % 4096 == 0 && length % 4096 == 0 && length <= 64 << 20, "{at:?} {length}");
    let start = usize::try_from(at.0).map_or(file.len(), |at| at.min(file.len()));
    let mut bytes = file[start..file.len().min(start.saturating_add(length))].to_vec();
    bytes.resize(length, 0);
    bytes
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (allow_unverified, clusters, head) = input;
    // A fuzzer cannot write megabytes: what it gives is spread over the starts of clusters of 64 KiB.
    let mut file = vec![0; (usize::from(clusters % 16) + 1) << 16];
    for (cluster, bytes) in head.chunks(512).enumerate().take(file.len() >> 16) {
        file[cluster << 16..(cluster << 16) + bytes.len()].copy_from_slice(bytes);
    }
    let length = file.len() as u64;
    let mut inspector = Inspector::new(length);
    for read in 0.. {
        assert!(read < READS, "the inspection does not end");
        match inspector.poll() {
            Ok(Inspect::Need(at, length)) => inspector.supply(at, &part(&file, at, length)),
            Ok(Inspect::NextData(from)) => inspector.supply_data(Some(from.0..length)),
            Ok(Inspect::Done(_)) | Err(_) => break,
        }
    }
    let mut reads = 0;
    let mut read = |at, length| {
        reads += 1;
        assert!(reads < 2 * READS, "opening, or reading the index, does not end");
        Ok::<_, ImageError>(part(&file, at, length))
    };
    if let Ok(mut reader) = SnapshotReader::open_with(length, ReadOptions { allow_unverified }, &mut read) {
        let _ = reader.ask_with(&mut read, |reader| reader.present(0, 64));
    }
});
