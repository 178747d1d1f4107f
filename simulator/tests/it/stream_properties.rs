//! Properties of parser and encoder, over generated streams of every kind.

use migration_stream::{
    Decoder, Entry, Options, PageSize, ReadError, Record, SliceReader, Step, StreamReader,
};
use proptest::prelude::*;
use std::io::Read;
use vm_simulator::{Vm, VmConfig};

fn small_config(seed: u64) -> VmConfig {
    let mut config = VmConfig::random(seed);
    let page = u64::from(config.page_size);
    config.blocks.iter_mut().for_each(|(_, length)| *length = (*length).min(page * 12));
    config.device_bytes = config.device_bytes.min(200);
    config
}

fn stream_of(config: &VmConfig) -> Vec<u8> {
    let mut stream = Vec::new();
    Vm::new(config.clone()).send(&mut stream).unwrap();
    stream
}

fn options(config: &VmConfig) -> Options {
    Options::default().with_page_size(PageSize::new(config.page_size.into()))
}

/// Delivers pieces of the given sizes in turn.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: &'a [usize],
    turn: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let size = self.sizes[self.turn % self.sizes.len()].min(out.len());
        self.turn += 1;
        self.rest.read(&mut out[..size])
    }
}

/// All records as text with their offsets, their encoding, and how it ended.
type Walk = (Vec<String>, Vec<u8>, Option<String>);

fn note(walk: &mut Walk, blocks: &mut Vec<migration_stream::RamBlock>, at: u64, record: &Record<'_>) {
    if let Record::RamBlocks(list) = record {
        blocks.clone_from(&list.blocks);
    }
    record.put(&mut walk.1, blocks);
    walk.0.push(format!("{at:#x} {record:?}"));
}

fn walk_slice(stream: &[u8], options: Options) -> Walk {
    let mut reader = SliceReader::new(stream, options);
    let (mut walk, mut blocks) = (Walk::default(), Vec::new());
    loop {
        match reader.advance() {
            Ok(Some(Entry { offset: at, record, .. })) => note(&mut walk, &mut blocks, at, &record),
            Ok(None) => return walk,
            Err(error) => {
                walk.2 = Some(error.to_string());
                return walk;
            }
        }
    }
}

fn walk_pull(stream: &[u8], options: Options, sizes: &[usize]) -> Walk {
    let mut reader = StreamReader::new(Pieces { rest: stream, sizes, turn: 0 }, options);
    let (mut walk, mut blocks) = (Walk::default(), Vec::new());
    loop {
        match reader.advance() {
            Ok(Some(Entry { offset: at, record, .. })) => note(&mut walk, &mut blocks, at, &record),
            Ok(None) => return walk,
            Err(ReadError::Stream(error)) => {
                walk.2 = Some(error.to_string());
                return walk;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_stream_parses_to_the_same_records_in_any_chunking_and_encodes_back(
        seed in any::<u64>(), sizes in prop::collection::vec(1usize..40_000, 1..6)
    ) {
        let config = small_config(seed);
        let stream = stream_of(&config);
        let slice = walk_slice(&stream, options(&config));
        prop_assert_eq!(&slice.2, &None);
        prop_assert!(slice.1 == stream, "encodes to other bytes");
        let pull = walk_pull(&stream, options(&config), &sizes);
        prop_assert!(slice == pull, "the readers disagree");
    }

    #[test]
    fn a_proper_prefix_is_incomplete_or_a_located_error_or_ends_at_eof(
        seed in any::<u64>(), at in any::<prop::sample::Index>()
    ) {
        let config = small_config(seed);
        let stream = stream_of(&config);
        let cut = at.index(stream.len());
        let (_, encoded, error) = walk_slice(&stream[..cut], options(&config));
        match error {
            Some(error) => prop_assert!(error.starts_with("offset 0x"), "{}", error),
            // Only EOF can end it: behind it is a vmdesc that is not required.
            None => prop_assert!(stream[..cut].ends_with(&[0]) && encoded == stream[..cut]),
        }
        prop_assert!(stream.starts_with(&encoded));
    }

    #[test]
    fn a_changed_stream_never_panics_and_both_readers_say_the_same(
        seed in any::<u64>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let config = small_config(seed);
        let mut stream = stream_of(&config);
        for (at, byte) in changes {
            // Most bytes are page data: half of the changes go where the structure is.
            let at = if byte % 2 == 0 { at.index(stream.len()) } else { at.index(stream.len().min(200)) };
            stream[at] = byte;
        }
        let slice = walk_slice(&stream, options(&config));
        let pull = walk_pull(&stream, options(&config), &[5000]);
        prop_assert!(slice == pull, "{:?} and {:?}", slice.2, pull.2);
        prop_assert!(stream.starts_with(&slice.1));
    }

    #[test]
    fn the_walk_takes_whole_records_only(seed in any::<u64>()) {
        let config = small_config(seed);
        let stream = stream_of(&config);
        let mut decoder = Decoder::new(options(&config));
        let mut at = 0;
        while let Step::Record { len, record } = decoder.step(&stream[at..]).unwrap() {
            if record == Record::DeviceTail {
                break;
            }
            // The same record is not taken, and nothing is lost, while a byte of it is missing.
            at += len;
            prop_assert_eq!(decoder.offset(), at as u64);
        }
        prop_assert!(at < stream.len());
    }
}
