//! Real streams that were cut off at any byte, or have one bit wrong.

#![allow(clippy::disallowed_methods, reason = "a test reads files; the crate does not")]

use migration_stream::device_tail::{self, Trailer};
use migration_stream::{Decoder, Entry, Options, ReadError, Record, SliceReader, Step, StreamReader};
use std::path::PathBuf;

/// All streams of the corpus that go from a source to a destination, with their names.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus/valid");
    let mut streams: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?.strip_suffix(".bin.zst")?.to_owned();
            let packed = std::fs::read(entry.path()).unwrap();
            (!name.ends_with(".rp")).then(|| (name, zstd::decode_all(&packed[..]).unwrap()))
        })
        .collect();
    streams.sort();
    assert!(streams.len() > 20, "the corpus is part of the repository");
    streams
}

/// A stream's page size, as the vmdesc states it, or nothing.
fn options(stream: &[u8]) -> Options {
    let page_size = SliceReader::new(stream, Options::default()).decoder().page_size();
    Options::default().with_page_size(page_size)
}

/// The decoder at the device tail, the tail's place, and the places of all records before it.
fn walk(name: &str, stream: &[u8]) -> (Decoder, usize, Vec<(usize, usize)>) {
    let mut decoder = Decoder::new(options(stream));
    let (mut at, mut places) = (0, Vec::new());
    while at < stream.len() {
        match decoder.step(&stream[at..]) {
            Ok(Step::Record { record: Record::DeviceTail, .. }) => break,
            Ok(Step::Record { len, .. }) => {
                places.push((at, len));
                at += len;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    (decoder, at, places)
}

/// Whether a stream may end here: behind an EOF byte, or where one was walked.
fn may_end(stream: &[u8]) -> bool {
    stream.ends_with(&[0])
}

#[test]
fn a_stream_cut_at_any_byte_is_incomplete_there_and_nowhere_else() {
    for (name, stream) in corpus() {
        let (_, end, places) = walk(&name, &stream);
        let mut decoder = Decoder::new(options(&stream));
        // Every byte of the small ones; of the others every byte of headers, and some of pages.
        let step = if stream.len() < 200_000 { 1 } else { 61 };
        for &(at, len) in &places {
            for cut in (0..len.min(64)).chain((64..len).step_by(step)) {
                let part = &stream[at..at + cut];
                match decoder.step(part) {
                    Ok(Step::Incomplete { needed }) => {
                        assert!(
                            needed > cut && needed <= len,
                            "{name}: {needed} of {len} at {at:#x}, {cut} there"
                        );
                    }
                    other => panic!("{name}: cut at {:#x}: {other:?}", at + cut),
                }
                match decoder.finish(part) {
                    Ok(()) => assert!(cut == 0 && may_end(&stream[..at]), "{name}: cut at {:#x}", at + cut),
                    Err(error) => {
                        let text = error.to_string();
                        let place = format!("offset {:#x}: ", at + cut);
                        assert!(text.starts_with(&place) && text.contains("truncated: "), "{name}: {text}");
                    }
                }
            }
            assert!(
                matches!(decoder.step(&stream[at..]), Ok(Step::Record { len: taken, .. }) if taken == len)
            );
        }
        assert_eq!(decoder.offset(), end as u64, "{name}");
    }
}

/// Near the ends of things every byte, elsewhere some.
#[test]
fn a_device_tail_cut_at_any_byte_is_not_whole() {
    cut_device_tails(|_| false);
}

/// Nightly: at every byte of two streams.
#[test]
#[ignore = "takes half a minute"]
fn a_device_tail_cut_at_each_of_its_bytes_is_not_whole() {
    cut_device_tails(|name| name == "qemu-7.2-pc" || name == "qemu-10.0-q35");
}

/// Each look at a tail goes through all of it, so only tails that are `wanted` are cut at every byte.
fn cut_device_tails(wanted: impl Fn(&str) -> bool) {
    for (name, stream) in corpus() {
        let (decoder, start, _) = walk(&name, &stream);
        let tail = &stream[start..];
        if tail.is_empty() {
            continue; // It finished in postcopy.
        }
        let eof = device_tail::cut(tail, start as u64, &decoder).unwrap().eof;
        for cut in 0..tail.len() {
            if !wanted(&name)
                && cut.abs_diff(eof) > 100
                && cut > 100
                && tail.len() - cut > 100
                && cut % 1511 != 0
            {
                continue;
            }
            let part = &tail[..cut];
            match device_tail::cut(part, start as u64, &decoder) {
                // Devices, EOF, and nothing more: what `suppress-vmdesc=on` sends. A save takes it only if
                // told to.
                Ok(whole) => {
                    assert_eq!(whole.trailer, Trailer::NoVmdesc, "{name}: {cut} bytes of the tail");
                    assert!(may_end(part), "{name}: {cut} bytes of the tail");
                    let footers = decoder.has_footers() == Some(true);
                    assert!(!footers || part[cut - 6] == 0x7e, "{name}: {cut} bytes of the tail");
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("truncated: the stream ends inside the device tail"),
                        "{name}: {text}"
                    );
                }
            }
        }
    }
}

/// What both readers say of a stream: they agree, and what they have read encodes to the same bytes.
fn agreed(name: &str, stream: &[u8], options: &Options) -> Option<String> {
    let mut slice = SliceReader::new(stream, options.clone());
    let mut pull = StreamReader::new(stream, options.clone());
    let (mut encoded, mut blocks) = (Vec::with_capacity(stream.len()), Vec::new());
    loop {
        match (slice.advance(), pull.advance()) {
            (Ok(Some(Entry { offset: at, record, .. })), Ok(Some(pulled))) => {
                assert!((at, &record) == (pulled.offset, &pulled.record), "{name}: {record:?}, {pulled:?}");
                assert_eq!(at, encoded.len() as u64, "{name}");
                if let Record::RamBlocks(list) = &record {
                    blocks.clone_from(&list.blocks);
                }
                record.put(&mut encoded, &blocks);
            }
            (Ok(None), Ok(None)) => {
                let differs = encoded.iter().zip(stream).position(|(a, b)| a != b);
                assert!(encoded == stream, "{name}: encodes to other bytes at {differs:x?}");
                return None;
            }
            (Err(error), Err(ReadError::Stream(pulled))) => {
                assert_eq!(error.to_string(), pulled.to_string(), "{name}");
                assert!(stream.starts_with(&encoded), "{name}: encodes to other bytes");
                return Some(error.to_string());
            }
            (slice, pull) => panic!("{name}: the readers disagree: {slice:?} and {pull:?}"),
        }
    }
}

/// Flips every `step`th bit of what is no page data, and counts how many flips were noticed.
fn flip_framing(step: usize) -> (u64, u64) {
    let (mut flips, mut noticed) = (0, 0);
    for (name, stream) in corpus() {
        let options = options(&stream);
        let (_, end, places) = walk(&name, &stream);
        let page = usize::from(options.page_size.unwrap());
        // A long record is a header with a page behind it, or a few: its data is not looked at by a parser.
        let framing = places.iter().flat_map(|&(at, len)| at..at + if len > page { len % page } else { len });
        let mut damaged = stream.clone();
        for bit in framing.chain(end..stream.len()).flat_map(|at| at * 8..at * 8 + 8).step_by(step) {
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Some(error) = agreed(&name, &damaged, &options) {
                assert!(error.starts_with("offset 0x"), "{name}, bit {bit}: {error}");
                noticed += 1;
            }
            flips += 1;
            damaged[bit / 8] = stream[bit / 8];
        }
    }
    (flips, noticed)
}

#[test]
fn a_flipped_bit_of_the_framing_is_an_error_with_its_place_or_another_valid_stream() {
    let (flips, noticed) = flip_framing(100_003);
    println!("{noticed} of {flips} flips were noticed");
    assert!(flips > 400 && noticed > flips / 20, "{noticed} of {flips} flips were noticed");
}

/// Nightly: fifteen hundred times as many, or one of `FLIP_STEP` of these.
#[test]
#[ignore = "takes an hour"]
fn many_flipped_bits_of_the_framing_are_errors_with_their_places_or_other_valid_streams() {
    let step = std::env::var("FLIP_STEP").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (flips, noticed) = flip_framing(67 * step);
    println!("{noticed} of {flips} flips were noticed");
    assert!(flips > 600_000 / step as u64 && noticed > flips / 20, "{noticed} of {flips} flips were noticed");
}
