//! Every real stream of the corpus walks to its last byte, and encodes back to the same bytes, with both
//! readers.
//!
//! `STREAM_DIR` names a further directory of uncompressed streams.

#![allow(clippy::disallowed_methods, reason = "a test reads files; the crate does not")]

use migration_stream::{Entry, Error, Options, PageSize, ReadError, Record, SliceReader, StreamReader};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How a walk ended, and what its records encode to.
struct Walk {
    bytes: Vec<u8>,
    error: Option<String>,
    records: usize,
}

fn walk_slice(stream: &[u8]) -> Walk {
    let mut reader = SliceReader::new(stream, Options::default());
    let mut walk = Walk { bytes: Vec::new(), error: None, records: 0 };
    loop {
        match reader.advance() {
            Ok(Some(Entry { offset, record, .. })) => {
                assert_eq!(offset, walk.bytes.len() as u64, "{record:?}");
                record.put(&mut walk.bytes, reader.decoder().blocks());
                walk.records += 1;
            }
            Ok(None) => return walk,
            Err(error) => {
                walk.error = Some(error.to_string());
                return walk;
            }
        }
    }
}

/// Delivers at most `step` bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(out.len());
        self.0.read(&mut out[..length])
    }
}

fn walk_pull(stream: &[u8], options: Options, step: usize) -> Walk {
    let mut reader = StreamReader::new(Dribble(stream, step), options);
    let mut walk = Walk { bytes: Vec::new(), error: None, records: 0 };
    let mut blocks = Vec::new();
    loop {
        match reader.advance() {
            Ok(Some(Entry { offset, record, .. })) => {
                assert_eq!(offset, walk.bytes.len() as u64, "{record:?}");
                if let Record::RamBlocks(list) = &record {
                    blocks.clone_from(&list.blocks);
                }
                record.put(&mut walk.bytes, &blocks);
                walk.records += 1;
            }
            Ok(None) => return walk,
            Err(ReadError::Stream(error)) => {
                let _: &Error = &error;
                walk.error = Some(error.to_string());
                return walk;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Streams that were cut off when they were recorded: an interrupted postcopy.
fn is_cut_off(name: &str) -> bool {
    name.contains("-rec.") || name.contains("alpha-clipper") || name.contains("10.0-pc-noconf")
}

fn check(path: &Path, stream: &[u8]) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let slice = walk_slice(stream);
    let page_size = migration_page_size(stream);
    let pull = walk_pull(stream, Options::default().with_page_size(page_size), 7001);
    assert_eq!(slice.error, pull.error, "{name}: the readers disagree");
    assert_eq!(slice.records, pull.records, "{name}: the readers disagree");
    assert!(slice.bytes == pull.bytes, "{name}: the readers disagree");
    assert!(stream.starts_with(&slice.bytes), "{name}: encodes to other bytes");
    match slice.error {
        None => assert_eq!(slice.bytes.len(), stream.len(), "{name}: not walked to its end"),
        Some(error) => assert!(is_cut_off(&name) && error.contains("truncated"), "{name}: {error}"),
    }
}

fn migration_page_size(stream: &[u8]) -> Option<PageSize> {
    Some(SliceReader::new(stream, Options::default()).decoder().page_size())
}

fn single_channel(name: &str) -> bool {
    let elsewhere =
        [".rp", "mapped", "mfd-none.ch1", "mfd-none.ch2", "mfd-none.ch3", "mfd-zlib.ch1", "mfd-zlib.ch2"];
    !elsewhere.iter().any(|part| name.contains(part))
        && !name.contains("postpre.ch1")
        && !name.contains("README")
        && !name.ends_with(".txt")
}

#[test]
fn every_capture_walks_to_its_end_and_encodes_back() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus/valid");
    let releases = corpus.join("../releases");
    let directories = [Some(corpus), Some(releases), std::env::var_os("STREAM_DIR").map(PathBuf::from)];
    let mut walked = 0;
    for directory in directories.into_iter().flatten() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if !single_channel(&path.to_string_lossy()) {
                continue;
            }
            let mut stream = std::fs::read(&path).unwrap();
            if path.extension().is_some_and(|extension| extension == "zst") {
                stream = zstd::decode_all(&stream[..]).unwrap();
            }
            if path.to_string_lossy().contains("fileoff") {
                // `file:NAME,offset=N`: what is before belongs to others.
                let start = stream.windows(4).position(|window| window == b"QEVM").unwrap();
                stream.drain(..start);
            }
            check(&path, &stream);
            walked += 1;
        }
    }
    assert!(walked > 0, "the corpus is empty: there is nothing that this test could show");
}
