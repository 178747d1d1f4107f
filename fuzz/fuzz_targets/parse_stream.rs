//! Both readers agree on every input, in any chunking; what parses encodes to the same bytes; nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migration_stream::{Entry, Options, Record, SliceReader, StreamReader};
use std::io::Read;

/// Delivers a few bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(out.len());
        self.0.read(&mut out[..length])
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (chunk, stream) = input;
    let mut slice = SliceReader::new(stream, Options::default());
    // The slice reader may have found the page size at the end, where the pull reader has not been yet.
    let options = Options::default().with_page_size(slice.decoder().page_size());
    let mut pull = StreamReader::new(Dribble(stream, usize::from(chunk) + 1), options);
    let mut encoded = Vec::new();
    let mut blocks = Vec::new();
    loop {
        let from_slice = slice.advance();
        let from_pull = pull.advance();
        match (from_slice, from_pull) {
            (
                Ok(Some(Entry { offset: at, record, .. })),
                Ok(Some(Entry { offset: pulled_at, record: pulled, .. })),
            ) => {
                assert_eq!((at, &record), (pulled_at, &pulled));
                assert_eq!(at, encoded.len() as u64);
                if let Record::RamBlocks(list) = &record {
                    blocks.clone_from(&list.blocks);
                }
                record.put(&mut encoded, &blocks);
            }
            (Ok(None), Ok(None)) => {
                assert!(encoded == stream);
                break;
            }
            (Err(error), Err(pulled)) => {
                assert_eq!(error.to_string(), pulled.to_string());
                assert!(stream.starts_with(&encoded));
                break;
            }
            (slice, pull) => panic!("the readers disagree: {slice:?} and {pull:?}"),
        }
    }
});
